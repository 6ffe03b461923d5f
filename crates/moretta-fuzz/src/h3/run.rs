//! One connection through one input.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use moretta_h3::{Action as Do, Config, Connection, Counters, DatagramDrop, DatagramRoute, Event, Fault, Role, Scope};

use super::actions::{Action, request, response};
use super::model::Model;
use crate::input::Input;

/// What came out, in a form that does not depend on how stream bytes were cut.
#[derive(Debug, PartialEq)]
pub(super) struct Trace {
    events: Vec<Told>,
    resets: Vec<(u64, u64)>,
    close: Option<u64>,
    routes: Vec<DatagramRoute>,
    written: BTreeMap<u64, (Vec<u8>, bool)>,
    counters: Counters,
}

/// What the application was told.
#[derive(Debug, PartialEq)]
enum Told {
    /// Neighbouring pieces of one stream's content, joined.
    Data {
        stream_id: u64,
        bytes: Vec<u8>,
    },
    Event(Event),
}

pub(super) struct Run {
    h3: Connection,
    config: Config,
    now: Instant,
    chunk: usize,
    model: Model,
    trace: Trace,
    next_uni: u64,
    /// What the transport still takes; above it, it blocks.
    window: u64,
    blocked: Vec<u64>,
    /// The harness itself closed the connection.
    stream_bytes: u64,
    /// Where every datagram went that was held.
    held: u64,
    taken: u64,
    closed: u64,
    refused: u64,
}

impl Run {
    pub(super) fn new(role: Role, config: Config, chunk: usize) -> Self {
        let mut run = Self {
            h3: Connection::new(role, config.clone()),
            config,
            now: Instant::now(),
            chunk,
            model: Model::new(role),
            trace: Trace {
                events: Vec::new(),
                resets: Vec::new(),
                close: None,
                routes: Vec::new(),
                written: BTreeMap::new(),
                counters: Counters::default(),
            },
            next_uni: if role == Role::Server { 3 } else { 2 },
            window: u64::MAX,
            blocked: Vec::new(),
            stream_bytes: 0,
            held: 0,
            taken: 0,
            closed: 0,
            refused: 0,
        };
        run.h3.start();
        run.settle();
        run
    }

    pub(super) fn finish(mut self, data: &[u8]) -> Trace {
        let mut input = Input::new(data);
        while let Some(action) = Action::read(&mut input) {
            self.apply(action);
            self.settle();
            self.check_bounds();
        }
        self.check_end();
        let mut trace = self.trace;
        trace.counters = self.h3.counters().clone();
        // What comes after the cause of a fault counts only where it comes in a chunk of its own.
        trace.counters.late_bytes = 0;
        if trace.close.is_some() {
            trace.counters.useless_bytes = 0;
        }
        trace
    }

    fn apply(&mut self, action: Action<'_>) {
        match action {
            Action::Stream { stream_id, fin, bytes } => self.stream(stream_id, bytes.into(), fin),
            Action::Reset { stream_id, code } => self.h3.handle_reset(stream_id, code),
            Action::Stop { stream_id, code } => self.h3.handle_stop_sending(stream_id, code),
            Action::Datagram { stream_id, payload } => self.datagram(stream_id, payload),
            Action::BadDatagram => {
                let before = self.model.is_closed();
                self.h3.handle_bad_datagram();
                self.settle();
                assert!(before || self.model.is_closed());
            }
            Action::Advance { milliseconds } => {
                self.now += Duration::from_millis(milliseconds);
                self.h3.handle_timeout(self.now);
                assert!(self.h3.poll_timeout().is_none_or(|at| at > self.now));
            }
            // An application uses the streams that it knows of.
            Action::Head { stream_id, .. }
            | Action::Data { stream_id, .. }
            | Action::Trailers { stream_id }
            | Action::ResetOurs { stream_id, .. }
            | Action::Datagrams { stream_id, .. }
                if self.h3.role() == Role::Server && !self.model.knows(stream_id) => {}
            // What is refused here has changed nothing: what comes out afterwards would tell.
            Action::Head { stream_id, choice, fin } if self.h3.role() == Role::Server => {
                self.h3.send_response(stream_id, &response(choice), fin).ok();
            }
            Action::Head { stream_id, choice, fin } => {
                let stream_id = stream_id & !3;
                if self.h3.send_request(stream_id, &request(choice), fin).is_ok() {
                    self.model.asked(stream_id);
                }
            }
            Action::Data { stream_id, bytes, fin } => {
                self.h3.send_data(stream_id, Bytes::copy_from_slice(bytes), fin).ok();
            }
            Action::Trailers { stream_id } => {
                let fields = response(0x40).fields;
                self.h3.send_trailers(stream_id, &fields).ok();
            }
            Action::ResetOurs { stream_id, code } => {
                self.h3.reset(stream_id, code);
                self.model.gave_up(stream_id);
            }
            Action::GoAway { id } => drop(self.h3.goaway(id)),
            Action::Datagrams { stream_id, choice } => match choice % 3 {
                0 => self.h3.enable_datagrams(stream_id),
                1 => self.refuse_datagrams(stream_id),
                _ => self.taken += self.h3.take_early_datagrams(stream_id).count() as u64,
            },
            Action::Write { bytes } => self.window = bytes,
            Action::Unblock => {
                self.window = u64::MAX;
                for stream_id in std::mem::take(&mut self.blocked) {
                    self.h3.unblocked(stream_id);
                }
            }
        }
    }

    fn stream(&mut self, stream_id: u64, mut bytes: Bytes, fin: bool) {
        self.stream_bytes += bytes.len() as u64;
        while bytes.len() > self.chunk {
            let chunk = bytes.split_to(self.chunk);
            self.h3.handle_stream(self.now, stream_id, chunk, false);
            self.settle();
        }
        self.h3.handle_stream(self.now, stream_id, bytes, fin);
    }

    fn datagram(&mut self, stream_id: u64, payload: &[u8]) {
        let route = self.h3.route_datagram(self.now, stream_id, &Bytes::copy_from_slice(payload));
        match route {
            DatagramRoute::Deliver => assert!(stream_id.is_multiple_of(4)),
            DatagramRoute::Held => self.held += 1,
            DatagramRoute::Dropped(DatagramDrop::Closed) => self.closed += 1,
            DatagramRoute::Dropped(_) | DatagramRoute::AbortedStream | DatagramRoute::ClosedConnection => {}
        }
        self.trace.routes.push(route);
    }

    /// Those that were held are told by nothing but the fault.
    fn refuse_datagrams(&mut self, stream_id: u64) {
        let faults = self.h3.counters().faults.datagram_forbidden;
        let before = self.h3.counters().dropped_closed;
        self.h3.refuse_datagrams(stream_id);
        if self.h3.counters().faults.datagram_forbidden > faults {
            self.refused += 1;
        }
        assert_eq!(self.h3.counters().dropped_closed, before);
    }

    /// Takes everything out: actions, events, bytes.
    fn settle(&mut self) {
        while let Some(action) = self.h3.poll_action() {
            self.model.action(&action);
            match action {
                Do::OpenUni { kind } => {
                    self.h3.handle_uni_opened(kind, self.next_uni);
                    self.next_uni += 4;
                }
                Do::Reset { stream_id, code } => self.trace.resets.push((stream_id, code)),
                // Whether there is anything left to stop depends on how much has come.
                Do::StopSending { .. } => {}
                Do::Close { code, .. } => self.trace.close = Some(code),
            }
        }
        while let Some(event) = self.h3.poll_event() {
            self.model.event(&event);
            match (self.trace.events.last_mut(), event) {
                (Some(Told::Data { stream_id: last, bytes: joined }), Event::Data { stream_id, bytes })
                    if *last == stream_id =>
                {
                    joined.extend_from_slice(&bytes);
                }
                (_, Event::Data { stream_id, bytes }) => {
                    self.trace.events.push(Told::Data { stream_id, bytes: bytes.into() });
                }
                (_, event) => self.trace.events.push(Told::Event(event)),
            }
        }
        self.write();
    }

    fn write(&mut self) {
        while let Some(stream_id) = self.h3.poll_writable() {
            assert!(!self.model.is_closed());
            assert!(!self.blocked.contains(&stream_id), "stream {stream_id} is blocked");
            let queued = self.h3.queued_bytes(stream_id);
            let written = self.trace.written.entry(stream_id).or_default();
            assert!(!written.1, "bytes after the end of stream {stream_id}");
            let mut took = 0;
            for buffer in self.h3.front(stream_id) {
                let here = usize::try_from(self.window).unwrap_or(usize::MAX).min(buffer.len());
                written.0.extend_from_slice(&buffer[..here]);
                self.window -= here as u64;
                took += here;
            }
            assert!(took <= queued);
            self.h3.wrote(stream_id, took);
            assert_eq!(self.h3.queued_bytes(stream_id), queued - took);
            if self.h3.wants_fin(stream_id) {
                written.1 = true;
                self.h3.wrote_fin(stream_id);
            } else if took < queued {
                self.h3.blocked(stream_id);
                self.blocked.push(stream_id);
            }
        }
    }

    fn check_bounds(&self) {
        let Config { max_field_section_bytes, max_open_requests, early_datagram_bytes, .. } = self.config;
        if self.h3.role() == Role::Server {
            assert!(self.h3.open_requests() <= max_open_requests);
        }
        // Sixteen sections of the largest size, one SETTINGS frame; vectors may have grown to twice what they hold.
        let most = 2 * (16 * usize::try_from(max_field_section_bytes).unwrap() + 4096) + early_datagram_bytes;
        assert!(self.h3.buffered_bytes() <= most, "{} bytes are held", self.h3.buffered_bytes());

        let counters = self.h3.counters();
        let by_fault = counters.faults.iter().zip(Fault::ALL);
        let fatal: u64 =
            by_fault.map(|((_, count), fault)| if fault.scope() == Scope::Connection { count } else { 0 }).sum();
        assert_eq!(fatal, u64::from(self.model.is_closed()), "one fault closes the connection, and nothing else does");
        assert_eq!(counters.requests, self.model.requests);
        assert!(self.model.data_bytes <= self.stream_bytes);
        if self.model.is_closed() {
            assert_eq!((self.h3.open_requests(), self.h3.buffered_bytes()), (0, 0));
        }
    }

    /// Every datagram that was held has gone somewhere, and is counted there.
    fn check_end(&mut self) {
        if self.model.is_closed() {
            return;
        }
        self.h3.handle_timeout(self.now + self.config.early_datagram_time);
        assert_eq!(self.h3.poll_timeout(), None);
        let counters = self.h3.counters();
        assert_eq!(counters.early_held, self.held);
        if self.refused == 0 {
            let dropped = counters.dropped_closed - self.closed;
            assert_eq!(self.held, self.taken + counters.early_expired + dropped);
        }
    }
}
