//! One HTTP/3 connection: what comes in, and the life of its streams. What goes out is in `send.rs`.

use std::collections::BTreeMap;
use std::time::Instant;

use bytes::Bytes;

use crate::code::{H3_NO_ERROR, H3_REQUEST_CANCELLED, H3_REQUEST_REJECTED, H3_STREAM_CREATION_ERROR};
use crate::config::{Config, Role};
use crate::datagram::{EarlyDatagrams, expiry};
use crate::event::{Action, DatagramDrop, DatagramRoute, Event, UniKind};
use crate::fault::{Counters, Fault, Scope};
use crate::frame::HeaderReader;
use crate::output::{FrameHeaders, Outgoing, TurnList};
use crate::request_stream::{Datagrams, Halt, Receiving, RequestStream, Sending};
use crate::send::{OwnUni, own_uni};
use crate::settings::Settings;
use crate::shared::Shared;
use crate::stream_ids::StreamIds;
use crate::uni::{self, ControlFrame, PeerUni, UniType};

/// One HTTP/3 connection, client or server.
#[derive(Debug)]
pub struct Connection {
    pub(crate) shared: Shared,
    pub(crate) requests: BTreeMap<u64, Box<RequestStream>>,
    pub(crate) request_ids: StreamIds,
    peer_uni: BTreeMap<u64, PeerUni>,
    peer_uni_ids: StreamIds,
    /// Which of the peer's control, encoder and decoder stream were opened.
    critical: [bool; 3],
    pub(crate) peer_settings: Option<Settings>,
    pub(crate) peer_goaway: Option<u64>,
    peer_max_push_id: Option<u64>,
    pub(crate) our_goaway: Option<u64>,
    pub(crate) own_uni: [OwnUni; 3],
    pub(crate) turns: TurnList,
    pub(crate) frame_headers: FrameHeaders,
    early: EarlyDatagrams,
    pub(crate) is_started: bool,
    pub(crate) is_closed: bool,
}

/// What the two low bits of a stream id say (RFC 9000 §2.1), from where we stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StreamKind {
    Request,
    ServerBidi,
    PeerUni,
    OwnUni,
}

impl Connection {
    /// A connection that has said nothing yet.
    pub fn new(role: Role, config: Config) -> Self {
        Self {
            shared: Shared::new(role, config),
            requests: BTreeMap::new(),
            request_ids: StreamIds::new(0),
            peer_uni: BTreeMap::new(),
            peer_uni_ids: StreamIds::new(if role == Role::Server { 2 } else { 3 }),
            critical: [false; 3],
            peer_settings: None,
            peer_goaway: None,
            peer_max_push_id: None,
            our_goaway: None,
            own_uni: own_uni(),
            turns: TurnList::default(),
            frame_headers: FrameHeaders::default(),
            early: EarlyDatagrams::default(),
            is_started: false,
            is_closed: false,
        }
    }

    /// Which end this is.
    pub fn role(&self) -> Role {
        self.shared.role
    }

    /// What was counted so far.
    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    /// Request streams with state.
    pub fn open_requests(&self) -> usize {
        self.requests.len()
    }

    /// Bytes held because of what the peer sent: partial field sections and frames, early datagrams. Walks over all
    /// streams: for tests and dumps.
    pub fn buffered_bytes(&self) -> usize {
        let sections: usize = self.requests.values().map(|stream| stream.buffered_bytes()).sum();
        let control: usize = self
            .peer_uni
            .values()
            .map(|stream| if let PeerUni::Control(reader) = stream { reader.buffered_bytes() } else { 0 })
            .sum();
        sections + control + self.early.bytes()
    }

    fn kind_of(&self, stream_id: u64) -> StreamKind {
        match (stream_id % 4, self.shared.role) {
            (0, _) => StreamKind::Request,
            (1, _) => StreamKind::ServerBidi,
            (2, Role::Server) | (3, Role::Client) => StreamKind::PeerUni,
            _ => StreamKind::OwnUni,
        }
    }

    /// Bytes of a stream, in order, of any kind and size; `fin` if nothing follows them.
    pub fn handle_stream(&mut self, now: Instant, stream_id: u64, data: Bytes, fin: bool) {
        if self.is_closed {
            return;
        }
        self.shared.now = Some(now);
        match self.kind_of(stream_id) {
            StreamKind::Request => self.handle_request_stream(stream_id, data, fin),
            StreamKind::PeerUni => {
                if let Err(fault) = self.handle_peer_uni(stream_id, data, fin) {
                    self.fail(stream_id, fault);
                }
            }
            StreamKind::ServerBidi if self.shared.role == Role::Client => {
                self.fail(stream_id, Fault::ServerBidiStream);
            }
            // Nothing can be received on a unidirectional stream of ours, or on one that we never opened.
            StreamKind::ServerBidi | StreamKind::OwnUni => self.shared.counters.late_bytes += data.len() as u64,
        }
    }

    /// The peer reset its side of a stream.
    pub fn handle_reset(&mut self, stream_id: u64, code: u64) {
        if self.is_closed {
            return;
        }
        match self.kind_of(stream_id) {
            StreamKind::Request => self.handle_request_reset(stream_id, code),
            StreamKind::PeerUni => {
                self.peer_uni_ids.see(stream_id);
                match self.peer_uni.remove(&stream_id) {
                    // A type that never came whole closes nothing of importance (RFC 9114 §6.2).
                    None | Some(PeerUni::Type(_)) => {}
                    Some(PeerUni::Control(_) | PeerUni::Encoder | PeerUni::Decoder(_)) => {
                        self.fail(stream_id, Fault::CriticalStreamClosed);
                    }
                }
            }
            StreamKind::ServerBidi if self.shared.role == Role::Client => {
                self.fail(stream_id, Fault::ServerBidiStream);
            }
            StreamKind::ServerBidi | StreamKind::OwnUni => {}
        }
    }

    /// The peer asked us to stop sending on a stream.
    pub fn handle_stop_sending(&mut self, stream_id: u64, code: u64) {
        if self.is_closed {
            return;
        }
        match self.kind_of(stream_id) {
            StreamKind::Request => self.handle_request_stop(stream_id, code),
            StreamKind::OwnUni if self.own_uni.iter().any(|own| own.stream_id == Some(stream_id)) => {
                self.fail(stream_id, Fault::CriticalStreamClosed);
            }
            StreamKind::ServerBidi if self.shared.role == Role::Client => {
                self.fail(stream_id, Fault::ServerBidiStream);
            }
            StreamKind::ServerBidi | StreamKind::OwnUni | StreamKind::PeerUni => {}
        }
    }

    fn handle_request_stream(&mut self, stream_id: u64, data: Bytes, fin: bool) {
        if self.shared.role == Role::Server && self.request_ids.see(stream_id) && !self.open_request(stream_id) {
            return;
        }
        let bytes = data.len() as u64;
        let Some(stream) = self.requests.get_mut(&stream_id).filter(|stream| stream.receiving == Receiving::Open)
        else {
            self.shared.counters.late_bytes += bytes;
            return;
        };
        let halt = stream.receive(&mut self.shared, stream_id, data, fin).err();
        if fin {
            stream.receiving = Receiving::Over;
        }
        match halt {
            None => self.remove_if_over(stream_id),
            Some(Halt::Fault(fault)) => self.fail(stream_id, fault),
            Some(Halt::Answer(status)) => self.answer(stream_id, status),
        }
    }

    /// Server: makes room for a request that just began, or rejects it unread.
    fn open_request(&mut self, stream_id: u64) -> bool {
        let after_goaway = self.our_goaway.is_some_and(|id| stream_id >= id);
        if after_goaway {
            self.shared.counters.rejected_after_goaway += 1;
        } else if self.requests.len() >= self.shared.config.max_open_requests {
            self.shared.counters.rejected_over_limit += 1;
        } else {
            self.requests.insert(stream_id, Box::new(RequestStream::new(Sending::Head)));
            return true;
        }
        self.drop_early(stream_id);
        self.shared.actions.push_back(Action::Reset { stream_id, code: H3_REQUEST_REJECTED });
        self.shared.actions.push_back(Action::StopSending { stream_id, code: H3_REQUEST_REJECTED });
        false
    }

    /// Server: rejects the requests at or above `id` that the application does not know.
    pub(crate) fn reject_from(&mut self, id: u64) {
        let is_unknown = |stream: &RequestStream| self.shared.role == Role::Server && !stream.is_reported;
        let unknown = self.requests.range(id..).filter(|(_, stream)| is_unknown(stream));
        for stream_id in unknown.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.shared.counters.rejected_after_goaway += 1;
            self.end(stream_id, H3_REQUEST_REJECTED);
        }
    }

    fn handle_request_reset(&mut self, stream_id: u64, code: u64) {
        if self.shared.role == Role::Server && self.request_ids.see(stream_id) {
            // Reset before a byte of it was seen: nothing to tell anybody.
            self.drop_early(stream_id);
            self.shared.actions.push_back(Action::Reset { stream_id, code: H3_REQUEST_CANCELLED });
            self.charge_cancelled(stream_id);
            return;
        }
        let Some(stream) = self.requests.get_mut(&stream_id).filter(|stream| stream.receiving == Receiving::Open)
        else {
            return;
        };
        stream.receiving = Receiving::Over;
        stream.take_section(&mut self.shared);
        self.charge_cancelled(stream_id);
        self.after_peer_end(stream_id, Event::Reset { stream_id, code });
    }

    fn handle_request_stop(&mut self, stream_id: u64, code: u64) {
        // RFC 9000 §3.5: the answer to STOP_SENDING is RESET_STREAM with the same code, if it is one that we may use.
        let echo = if code == H3_REQUEST_REJECTED { H3_REQUEST_CANCELLED } else { code };
        if self.shared.role == Role::Server && self.request_ids.see(stream_id) {
            self.drop_early(stream_id);
            self.shared.actions.push_back(Action::Reset { stream_id, code: echo });
            self.shared.actions.push_back(Action::StopSending { stream_id, code: H3_REQUEST_CANCELLED });
            self.charge_cancelled(stream_id);
            return;
        }
        let Some(stream) = self
            .requests
            .get_mut(&stream_id)
            .filter(|stream| stream.sending != Sending::Reset && !stream.out.is_over())
        else {
            return;
        };
        self.shared.actions.push_back(Action::Reset { stream_id, code: echo });
        let answered = stream.sending != Sending::Head;
        stream.sending = Sending::Reset;
        stream.out = Outgoing::default();
        if !answered {
            self.charge_cancelled(stream_id);
        }
        self.after_peer_end(stream_id, Event::StopSending { stream_id, code });
    }

    /// Tells the application, or ends a stream that it does not know.
    fn after_peer_end(&mut self, stream_id: u64, event: Event) {
        if self.is_closed {
            return;
        }
        if self.requests.get(&stream_id).is_some_and(|stream| stream.is_reported) {
            self.shared.events.push_back(event);
            self.remove_if_over(stream_id);
        } else {
            self.end(stream_id, H3_REQUEST_CANCELLED);
        }
    }

    /// Counts a request that the peer ended before it was answered; each once.
    fn charge_cancelled(&mut self, stream_id: u64) {
        if let Some(stream) = self.requests.get_mut(&stream_id) {
            let is_answered = matches!(stream.sending, Sending::Content | Sending::Ended);
            if is_answered || std::mem::replace(&mut stream.is_cancelled, true) {
                return;
            }
        }
        self.spend_cancelled(stream_id);
    }

    fn spend_cancelled(&mut self, stream_id: u64) {
        if let Err(fault) = self.shared.spend_cancelled() {
            self.fail(stream_id, fault);
        }
    }

    fn handle_peer_uni(&mut self, stream_id: u64, mut data: Bytes, fin: bool) -> Result<(), Fault> {
        if self.peer_uni_ids.see(stream_id) {
            self.shared.spend(Shared::USELESS_FRAME)?;
            self.peer_uni.insert(stream_id, PeerUni::Type(HeaderReader::default()));
        }
        let Some(stream) = self.peer_uni.get_mut(&stream_id) else {
            // Of an unknown type, stopped, and still sending.
            self.shared.counters.late_bytes += data.len() as u64;
            return self.shared.spend(data.len() as u64);
        };
        if let PeerUni::Type(reader) = stream {
            let Some(stream_type) = reader.next_varint(&mut data) else {
                if fin {
                    self.peer_uni.remove(&stream_id);
                }
                return Ok(());
            };
            let Some(state) = uni::open(self.shared.role, UniType::of(stream_type), &mut self.critical)? else {
                self.peer_uni.remove(&stream_id);
                self.shared.counters.unknown_uni_streams += 1;
                if !fin {
                    self.shared.actions.push_back(Action::StopSending { stream_id, code: H3_STREAM_CREATION_ERROR });
                }
                return self.shared.spend(data.len() as u64);
            };
            *stream = state;
        }
        match stream {
            PeerUni::Type(_) => {}
            PeerUni::Encoder => uni::read_encoder(&mut self.shared, &data)?,
            PeerUni::Decoder(decoder) => uni::read_decoder(&mut self.shared, decoder, &data)?,
            PeerUni::Control(_) => {
                while let Some(PeerUni::Control(reader)) = self.peer_uni.get_mut(&stream_id) {
                    let Some(frame) = reader.next(&mut self.shared, &mut data)? else { break };
                    self.handle_control(frame)?;
                }
            }
        }
        if fin { Err(Fault::CriticalStreamClosed) } else { Ok(()) }
    }

    fn handle_control(&mut self, frame: ControlFrame) -> Result<(), Fault> {
        match frame {
            ControlFrame::Settings(settings) => {
                self.peer_settings = Some(settings);
                self.shared.events.push_back(Event::Settings);
            }
            ControlFrame::GoAway(id) => {
                let is_wrong_kind = self.shared.role == Role::Client && !id.is_multiple_of(4);
                if is_wrong_kind || self.peer_goaway.is_some_and(|earlier| id > earlier) {
                    return Err(Fault::GoAwayId);
                }
                self.peer_goaway = Some(id);
                self.shared.events.push_back(Event::GoAway { id });
            }
            ControlFrame::MaxPushId(id) => {
                // We never push; the rule is kept all the same.
                if self.peer_max_push_id.is_some_and(|earlier| id < earlier) {
                    return Err(Fault::PushIdDecreased);
                }
                self.peer_max_push_id = Some(id);
            }
        }
        Ok(())
    }

    /// Counts a fault and ends what it ends.
    fn fail(&mut self, stream_id: u64, fault: Fault) {
        self.shared.counters.faults.count(fault);
        match fault.scope() {
            Scope::Connection => self.close(fault.code(), fault.text()),
            Scope::Stream => {
                let is_reported = self.requests.get(&stream_id).is_some_and(|stream| stream.is_reported);
                // A peer that provokes resets costs as much as one that sends them, and has no excuse: answered or not.
                self.spend_cancelled(stream_id);
                self.end(stream_id, fault.code());
                if is_reported {
                    let (code, reason) = (fault.code(), fault.text());
                    self.shared.events.push_back(Event::Aborted { stream_id, code, reason });
                }
            }
        }
    }

    /// Server: answers without the application and reads no further (RFC 9114 §4.1).
    fn answer(&mut self, stream_id: u64, status: u16) {
        match status {
            413 => self.shared.counters.oversized_bodies += 1,
            _ => self.shared.counters.oversized_requests += 1,
        }
        self.drop_early(stream_id);
        if let Some(stream) = self.requests.get_mut(&stream_id) {
            stream.take_section(&mut self.shared);
            if std::mem::replace(&mut stream.receiving, Receiving::Over) == Receiving::Open {
                self.shared.actions.push_back(Action::StopSending { stream_id, code: H3_NO_ERROR });
            }
        }
        self.queue_answer(stream_id, status);
    }

    /// Ends both sides at once: RESET_STREAM for ours and STOP_SENDING for the peer's, each unless already over.
    /// What is queued is dropped. Of no effect on a stream that is gone.
    ///
    /// Server: `H3_REQUEST_REJECTED` only for a request of which nothing was processed (RFC 9114 §4.1.1). A client may
    /// not use that code; it becomes `H3_REQUEST_CANCELLED`.
    pub fn reset(&mut self, stream_id: u64, code: u64) {
        let is_forbidden = code == H3_REQUEST_REJECTED && self.shared.role == Role::Client;
        self.end(stream_id, if is_forbidden { H3_REQUEST_CANCELLED } else { code });
    }

    /// Takes nothing more of what the peer sends on a stream: STOP_SENDING, unless its side is over. Ours is not touched.
    pub fn stop_receiving(&mut self, stream_id: u64, code: u64) {
        let Some(stream) = self.requests.get_mut(&stream_id) else { return };
        stream.take_section(&mut self.shared);
        if std::mem::replace(&mut stream.receiving, Receiving::Over) == Receiving::Open {
            self.shared.actions.push_back(Action::StopSending { stream_id, code });
        }
        self.remove_if_over(stream_id);
    }

    fn end(&mut self, stream_id: u64, code: u64) {
        let Some(mut stream) = self.requests.remove(&stream_id) else { return };
        stream.take_section(&mut self.shared);
        self.drop_early(stream_id);
        if stream.sending != Sending::Reset && !stream.out.is_over() {
            self.shared.actions.push_back(Action::Reset { stream_id, code });
        }
        if stream.receiving == Receiving::Open {
            self.shared.actions.push_back(Action::StopSending { stream_id, code });
        }
    }

    pub(crate) fn remove_if_over(&mut self, stream_id: u64) {
        if self.requests.get(&stream_id).is_some_and(|stream| stream.is_over()) {
            self.requests.remove(&stream_id);
            self.drop_early(stream_id);
        }
    }

    /// Closes the connection: queues the action and drops all state. Events that are queued stay.
    pub fn close(&mut self, code: u64, reason: &'static str) {
        if std::mem::replace(&mut self.is_closed, true) {
            return;
        }
        self.requests.clear();
        self.peer_uni.clear();
        self.early = EarlyDatagrams::default();
        self.own_uni = own_uni();
        self.turns.clear();
        self.shared.section_bytes = 0;
        self.shared.actions.push_back(Action::Close { code, reason });
    }

    /// Says what to do with a datagram for request stream `stream_id`; `payload` follows the Quarter Stream ID.
    ///
    /// This is the slow path: callers look into their own table of tunnels first.
    pub fn route_datagram(&mut self, now: Instant, stream_id: u64, payload: &Bytes) -> DatagramRoute {
        if self.is_closed {
            return DatagramRoute::Dropped(DatagramDrop::ConnectionClosed);
        }
        self.shared.now = Some(now);
        // What the peer sends before its SETTINGS are read may have overtaken them.
        if !self.shared.config.h3_datagram || self.peer_settings.is_some_and(|settings| !settings.h3_datagram) {
            return self.drop_datagram(DatagramDrop::NotNegotiated);
        }
        let reach = self.request_ids.next().saturating_add(self.shared.config.max_open_requests as u64 * 4);
        match self.requests.get(&stream_id).map(|stream| (stream.receiving, stream.datagrams)) {
            Some((Receiving::Over, _) | (Receiving::Open, Datagrams::Over)) => {
                return self.drop_datagram(DatagramDrop::Closed);
            }
            Some((Receiving::Open, Datagrams::Enabled)) => return DatagramRoute::Deliver,
            Some((Receiving::Open, Datagrams::Never)) => {
                self.fail(stream_id, Fault::DatagramForbidden);
                return if self.is_closed { DatagramRoute::ClosedConnection } else { DatagramRoute::AbortedStream };
            }
            None if self.request_ids.is_seen(stream_id) || self.our_goaway.is_some_and(|id| stream_id >= id) => {
                return self.drop_datagram(DatagramDrop::Closed);
            }
            None if !stream_id.is_multiple_of(4) || self.shared.role == Role::Client || stream_id >= reach => {
                return self.drop_datagram(DatagramDrop::OutOfReach);
            }
            Some((Receiving::Open, Datagrams::Undecided)) | None => {}
        }
        self.hold_datagram(now, stream_id, payload)
    }

    fn hold_datagram(&mut self, now: Instant, stream_id: u64, payload: &Bytes) -> DatagramRoute {
        let (limit, time) = (self.shared.config.early_datagram_bytes, self.shared.config.early_datagram_time);
        self.shared.counters.early_expired += self.early.expire(now);
        if self.early.hold(stream_id, payload, limit, expiry(now, time)) {
            self.shared.counters.early_held += 1;
            DatagramRoute::Held
        } else {
            self.drop_datagram(DatagramDrop::EarlyFull)
        }
    }

    fn drop_datagram(&mut self, reason: DatagramDrop) -> DatagramRoute {
        let counters = &mut self.shared.counters;
        match reason {
            DatagramDrop::NotNegotiated => counters.dropped_not_negotiated += 1,
            DatagramDrop::Closed => counters.dropped_closed += 1,
            DatagramDrop::EarlyFull => counters.dropped_early_full += 1,
            DatagramDrop::OutOfReach => counters.dropped_out_of_reach += 1,
            DatagramDrop::ConnectionClosed => {}
        }
        DatagramRoute::Dropped(reason)
    }

    pub(crate) fn drop_early(&mut self, stream_id: u64) {
        self.shared.counters.dropped_closed += self.early.take(stream_id).len() as u64;
    }

    /// How many datagrams are held for requests that are not decided. Those that leave otherwise than through
    /// [`take_early_datagrams`](Self::take_early_datagrams) were dropped.
    pub fn early_datagrams(&self) -> usize {
        self.early.len()
    }

    /// Takes the datagrams held for a request, oldest first.
    pub fn take_early_datagrams(&mut self, stream_id: u64) -> impl Iterator<Item = Bytes> + use<> {
        self.early.take(stream_id).into_iter()
    }

    /// Declares that this extended CONNECT has datagram semantics: from now on its datagrams are delivered. Call it when
    /// the request is accepted (server) or sent (client).
    pub fn enable_datagrams(&mut self, stream_id: u64) {
        let stream = self.requests.get_mut(&stream_id);
        if let Some(stream) = stream.filter(|stream| stream.datagrams == Datagrams::Undecided) {
            stream.datagrams = Datagrams::Enabled;
        }
    }

    /// Declares that this extended CONNECT has no datagram semantics: a datagram for it aborts the stream with
    /// `H3_DATAGRAM_ERROR` (RFC 9297 §2), and so does one that is held already. Requests that are not extended CONNECT
    /// never have them.
    pub fn refuse_datagrams(&mut self, stream_id: u64) {
        let Some(stream) = self.requests.get_mut(&stream_id) else { return };
        stream.datagrams = Datagrams::Never;
        if !self.early.take(stream_id).is_empty() {
            self.fail(stream_id, Fault::DatagramForbidden);
        }
    }

    /// A DATAGRAM frame whose Quarter Stream ID is truncated or too large: closes the connection with
    /// `H3_DATAGRAM_ERROR` (RFC 9297 §2.1).
    pub fn handle_bad_datagram(&mut self) {
        if !self.is_closed {
            self.fail(0, Fault::QuarterStreamId);
        }
    }

    /// Drops held datagrams whose time is over.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.shared.now = Some(now);
        self.shared.counters.early_expired += self.early.expire(now);
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.early.deadline()
    }

    /// What the peer announced, once its SETTINGS are here.
    pub fn peer_settings(&self) -> Option<&Settings> {
        self.peer_settings.as_ref()
    }

    /// Whether datagrams may be sent: both sides announced `SETTINGS_H3_DATAGRAM = 1` (RFC 9297 §2.1.1). Ours counts
    /// as sent once the control stream is open.
    pub fn datagrams_allowed(&self) -> bool {
        self.shared.config.h3_datagram
            && self.own_stream_is_open(UniKind::Control)
            && self.peer_settings.is_some_and(|settings| settings.h3_datagram)
    }

    /// The next event for the application. Events of a stream that the caller reset may still be among them.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.shared.events.pop_front()
    }

    /// The next thing to do with QUIC.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.shared.actions.pop_front()
    }
}
