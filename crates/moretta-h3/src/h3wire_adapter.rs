//! The same seam over the crate `h3wire`, for tests: every world runs on both implementations.
//!
//! [`Connection`] has the inherent methods of [`crate::Connection`]. Where h3wire cannot do the same:
//! - A field section whose HEADERS frame exceeds `max_field_section_bytes` closes the connection with
//!   `H3_EXCESSIVE_LOAD`; there is no 431. The size of the decoded section is not checked.
//! - `max_open_requests`, `max_unknown_frame_bytes`, `max_cancelled_requests` and `max_request_body_bytes` are not kept.
//! - A reset by the peer ends both sides of a request stream, not only the peer's.
//! - GOAWAY: a client aborts the requests that the server will not process. A server's own cut-off is always the id
//!   above the highest request given to the application; the id handed to [`Connection::goaway`] only chooses between
//!   it and [`Connection::GOAWAY_ALL`].
//! - [`Counters`] know requests and datagrams only.

mod convert;

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use bytes::{Buf, Bytes};
use convert::{field_refs, send_error};
use h3wire::{FieldRef, H3Code, Recv, StreamId, UsageError};
use moretta_wire::head::{Fields, RequestHead, ResponseHead};
use moretta_wire::varint;

use crate::config::{Config, Role};
use crate::datagram::{EarlyDatagrams, expiry};
use crate::event::{Action, DatagramDrop, DatagramRoute, Event, SendError, UniKind};
use crate::fault::Counters;
use crate::output::{Outgoing, Turn, TurnList};
use crate::request_stream::Datagrams;
use crate::settings::Settings;

/// One HTTP/3 connection, driven by h3wire.
pub struct Connection {
    role: Role,
    config: Config,
    h3: h3wire::Connection,
    streams: BTreeMap<u64, Stream>,
    events: VecDeque<Event>,
    actions: VecDeque<Action>,
    turns: TurnList,
    early: EarlyDatagrams,
    peer_settings: Option<Settings>,
    counters: Counters,
    next_request_id: u64,
    goaway: Option<u64>,
    /// The stream that the caller is resetting: its end is no news.
    resetting: Option<u64>,
    has_control: bool,
    is_started: bool,
    is_closed: bool,
}

/// What h3wire does not keep: bytes on their way, and whether a request takes datagrams. h3wire is told that everything
/// is written as soon as it is queued here.
struct Stream {
    out: Outgoing,
    datagrams: Datagrams,
    receiving_over: bool,
    /// The FIN is queued: h3wire takes our side for over.
    sending_ended: bool,
    sending_over: bool,
}

impl Stream {
    fn new(datagrams: Datagrams) -> Self {
        Self { out: Outgoing::default(), datagrams, receiving_over: false, sending_ended: false, sending_over: false }
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("role", &self.role)
            .field("is_closed", &self.is_closed)
            .finish_non_exhaustive()
    }
}

impl Connection {
    /// See [`crate::Connection::GOAWAY_ALL`].
    pub const GOAWAY_ALL: u64 = crate::Connection::GOAWAY_ALL;

    /// See [`crate::Connection::new`].
    pub fn new(role: Role, config: Config) -> Self {
        let mut wire = h3wire::Config::default();
        wire.max_encoded_field_section_size = usize::try_from(config.max_field_section_bytes).unwrap_or(usize::MAX);
        wire.max_field_section_size = Some(config.max_field_section_bytes);
        wire.enable_connect_protocol = role == Role::Server && config.enable_connect_protocol;
        wire.h3_datagram = config.h3_datagram;
        // Its values are random, and worlds repeat themselves.
        wire.grease = false;
        let wire_role = if role == Role::Server { h3wire::Role::Server } else { h3wire::Role::Client };
        Self {
            role,
            config,
            h3: h3wire::Connection::new(wire_role, wire),
            streams: BTreeMap::new(),
            events: VecDeque::new(),
            actions: VecDeque::new(),
            turns: TurnList::default(),
            early: EarlyDatagrams::default(),
            peer_settings: None,
            counters: Counters::default(),
            next_request_id: 0,
            goaway: None,
            resetting: None,
            has_control: false,
            is_started: false,
            is_closed: false,
        }
    }

    /// See [`crate::Connection::start`].
    pub fn start(&mut self) {
        self.is_started = true;
        self.drain();
    }

    /// See [`crate::Connection::role`].
    pub fn role(&self) -> Role {
        self.role
    }

    /// See [`crate::Connection::counters`]; only requests and datagrams are counted.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// See [`crate::Connection::open_requests`].
    pub fn open_requests(&self) -> usize {
        self.streams.keys().filter(|id| id.is_multiple_of(4)).count()
    }

    /// See [`crate::Connection::buffered_bytes`].
    pub fn buffered_bytes(&self) -> usize {
        self.h3.debug_buffered_bytes() + self.early.bytes()
    }

    /// See [`crate::Connection::handle_stream`].
    pub fn handle_stream(&mut self, _now: Instant, stream_id: u64, mut data: Bytes, fin: bool) {
        let news = self.events.len();
        loop {
            let used = match self.h3.recv(StreamId(stream_id), &data, fin) {
                Ok(Recv::Body { consumed, range }) => {
                    if self.is_receiving(stream_id) {
                        self.events.push_back(Event::Data { stream_id, bytes: data.slice(range) });
                    }
                    consumed
                }
                Ok(Recv::Consumed(used) | Recv::Frame { consumed: used, .. } | Recv::Raw { consumed: used, .. }) => {
                    used
                }
                // Every block is released in `drain`, so a stream never pauses.
                Ok(Recv::Paused) | Err(_) => return self.drain(),
            };
            self.drain();
            data.advance(used);
            if data.is_empty() {
                break;
            }
        }
        self.merge_end(news, stream_id);
    }

    /// The end of a stream is told with the head if both came at once.
    fn merge_end(&mut self, news: usize, stream_id: u64) {
        let end = Event::Finished { stream_id };
        if self.events.len() < news + 2 || self.events.back() != Some(&end) {
            return;
        }
        self.events.pop_back();
        match self.events.back_mut() {
            Some(Event::Request { fin, .. } | Event::Response { fin, interim: false, .. }) => *fin = true,
            _ => self.events.push_back(end),
        }
    }

    /// See [`crate::Connection::handle_reset`]. h3wire ends our side too.
    pub fn handle_reset(&mut self, stream_id: u64, code: u64) {
        self.next_request_id = self.next_request_id.max(request_after(stream_id));
        // An error says that the connection is closed, which `drain` learns from the action.
        self.h3.stream_reset_received(StreamId(stream_id), H3Code(code)).ok();
        self.drain();
    }

    /// See [`crate::Connection::handle_stop_sending`].
    pub fn handle_stop_sending(&mut self, stream_id: u64, code: u64) {
        self.next_request_id = self.next_request_id.max(request_after(stream_id));
        self.h3.stop_sending_received(StreamId(stream_id), H3Code(code)).ok();
        self.drain();
        // h3wire takes what is queued here for sent, so it may have nothing left to stop.
        let is_open = |stream: &&mut Stream| !stream.sending_over && !stream.out.is_over();
        let stream = self.streams.get_mut(&stream_id).filter(is_open);
        if let Some(stream) = stream.filter(|_| stream_id.is_multiple_of(4)) {
            stream.sending_over = true;
            stream.out = Outgoing::default();
            self.actions.push_back(Action::Reset { stream_id, code });
            self.events.push_back(Event::StopSending { stream_id, code });
            self.remove_if_over(stream_id);
        }
    }

    /// See [`crate::Connection::handle_uni_opened`].
    pub fn handle_uni_opened(&mut self, kind: UniKind, stream_id: u64) {
        let wire_kind = match kind {
            UniKind::Control => h3wire::UniKind::Control,
            UniKind::QpackEncoder => h3wire::UniKind::QpackEncoder,
            UniKind::QpackDecoder => h3wire::UniKind::QpackDecoder,
        };
        if self.h3.bind_uni(wire_kind, StreamId(stream_id)).is_ok() {
            self.has_control |= kind == UniKind::Control;
            self.streams.insert(stream_id, Stream::new(Datagrams::Never));
            self.pull(stream_id);
        }
    }

    /// See [`crate::Connection::route_datagram`].
    pub fn route_datagram(&mut self, now: Instant, stream_id: u64, payload: &Bytes) -> DatagramRoute {
        if self.is_closed {
            return DatagramRoute::Dropped(DatagramDrop::ConnectionClosed);
        }
        if !self.config.h3_datagram || self.peer_settings.is_some_and(|settings| !settings.h3_datagram) {
            self.counters.dropped_not_negotiated += 1;
            return DatagramRoute::Dropped(DatagramDrop::NotNegotiated);
        }
        let (quarter, used) = varint::encode_array(stream_id / 4);
        let mode = self.streams.get(&stream_id).map_or(Datagrams::Undecided, |stream| stream.datagrams);
        match self.h3.parse_datagram(quarter.get(..used).unwrap_or_default()) {
            Ok(h3wire::Datagram::Deliver(..)) => match mode {
                Datagrams::Enabled => DatagramRoute::Deliver,
                Datagrams::Undecided => self.hold(now, stream_id, payload),
                Datagrams::Never => {
                    self.h3.abort(StreamId(stream_id), H3Code::DATAGRAM_ERROR).ok();
                    self.drain();
                    DatagramRoute::AbortedStream
                }
                Datagrams::Over => self.drop_closed(),
            },
            Ok(h3wire::Datagram::NotYetOpen(..)) if self.role == Role::Server => {
                let reach = self.next_request_id.saturating_add(self.config.max_open_requests as u64 * 4);
                if stream_id >= reach {
                    self.counters.dropped_out_of_reach += 1;
                    return DatagramRoute::Dropped(DatagramDrop::OutOfReach);
                }
                self.hold(now, stream_id, payload)
            }
            Ok(h3wire::Datagram::NotYetOpen(..)) => {
                self.counters.dropped_out_of_reach += 1;
                DatagramRoute::Dropped(DatagramDrop::OutOfReach)
            }
            Ok(h3wire::Datagram::Drop) => self.drop_closed(),
            Err(_) => {
                self.drain();
                DatagramRoute::ClosedConnection
            }
        }
    }

    fn hold(&mut self, now: Instant, stream_id: u64, payload: &Bytes) -> DatagramRoute {
        self.counters.early_expired += self.early.expire(now);
        let until = expiry(now, self.config.early_datagram_time);
        if self.early.hold(stream_id, payload, self.config.early_datagram_bytes, until) {
            self.counters.early_held += 1;
            return DatagramRoute::Held;
        }
        self.counters.dropped_early_full += 1;
        DatagramRoute::Dropped(DatagramDrop::EarlyFull)
    }

    fn drop_closed(&mut self) -> DatagramRoute {
        self.counters.dropped_closed += 1;
        DatagramRoute::Dropped(DatagramDrop::Closed)
    }

    /// See [`crate::Connection::early_datagrams`].
    pub fn early_datagrams(&self) -> usize {
        self.early.len()
    }

    /// See [`crate::Connection::take_early_datagrams`].
    pub fn take_early_datagrams(&mut self, stream_id: u64) -> impl Iterator<Item = Bytes> + use<> {
        self.early.take(stream_id).into_iter()
    }

    /// See [`crate::Connection::enable_datagrams`].
    pub fn enable_datagrams(&mut self, stream_id: u64) {
        let stream = self.streams.get_mut(&stream_id);
        if let Some(stream) = stream.filter(|stream| stream.datagrams == Datagrams::Undecided) {
            stream.datagrams = Datagrams::Enabled;
        }
    }

    /// See [`crate::Connection::refuse_datagrams`].
    pub fn refuse_datagrams(&mut self, stream_id: u64) {
        if let Some(stream) = self.streams.get_mut(&stream_id) {
            stream.datagrams = Datagrams::Never;
            if !self.early.take(stream_id).is_empty() {
                self.h3.abort(StreamId(stream_id), H3Code::DATAGRAM_ERROR).ok();
                self.drain();
            }
        }
    }

    /// See [`crate::Connection::handle_bad_datagram`].
    pub fn handle_bad_datagram(&mut self) {
        self.h3.parse_datagram(&[]).ok();
        self.drain();
    }

    /// See [`crate::Connection::handle_timeout`].
    pub fn handle_timeout(&mut self, now: Instant) {
        self.counters.early_expired += self.early.expire(now);
    }

    /// See [`crate::Connection::poll_timeout`].
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.early.deadline()
    }

    /// See [`crate::Connection::send_request`].
    pub fn send_request(&mut self, stream_id: u64, head: &RequestHead, fin: bool) -> Result<(), SendError> {
        if self.role != Role::Client || self.streams.contains_key(&stream_id) {
            return Err(SendError::WrongState);
        }
        self.check_size(head.encoded_size())?;
        let pseudo = [
            (":method", Some(&head.method)),
            (":scheme", head.scheme.as_ref()),
            (":authority", head.authority.as_ref()),
            (":path", head.path.as_ref()),
            (":protocol", head.protocol.as_ref()),
        ];
        let mut fields: Vec<FieldRef<'_>> =
            pseudo.into_iter().filter_map(|(name, value)| Some(FieldRef::new(name.as_bytes(), value?))).collect();
        fields.extend(field_refs(&head.fields));
        self.h3.send_headers(StreamId(stream_id), &fields, fin).map_err(send_error)?;
        self.next_request_id = self.next_request_id.max(request_after(stream_id));
        let datagrams = if head.protocol.is_some() { Datagrams::Undecided } else { Datagrams::Never };
        self.streams.insert(stream_id, Stream::new(datagrams));
        self.pull(stream_id);
        Ok(())
    }

    /// See [`crate::Connection::send_response`].
    pub fn send_response(&mut self, stream_id: u64, head: &ResponseHead, fin: bool) -> Result<(), SendError> {
        self.check_size(head.encoded_size())?;
        let status = head.status.to_string();
        let mut fields = vec![FieldRef::new(b":status", status.as_bytes())];
        fields.extend(field_refs(&head.fields));
        self.h3.send_headers(StreamId(stream_id), &fields, fin).map_err(send_error)?;
        if !head.is_interim() && !head.is_success() {
            self.refuse(stream_id);
        }
        self.pull(stream_id);
        Ok(())
    }

    /// A request that was answered with anything but 2xx takes no datagrams.
    fn refuse(&mut self, stream_id: u64) {
        let stream = self.streams.get_mut(&stream_id);
        if let Some(stream) = stream.filter(|stream| stream.datagrams != Datagrams::Never) {
            stream.datagrams = Datagrams::Over;
        }
        self.counters.dropped_closed += self.early.take(stream_id).len() as u64;
    }

    /// See [`crate::Connection::send_data`].
    pub fn send_data(&mut self, stream_id: u64, data: Bytes, fin: bool) -> Result<(), SendError> {
        if data.is_empty() && !fin {
            return Ok(());
        }
        let id = StreamId(stream_id);
        let frame = self.h3.send_data(id, data.len() as u64, fin).map_err(send_error)?;
        let bytes = frame.prefix().len() + data.len();
        if bytes > 0 {
            self.h3.data_written(id, bytes).map_err(send_error)?;
        }
        if let Some(stream) = self.streams.get_mut(&stream_id) {
            stream.out.push(Bytes::copy_from_slice(frame.prefix()));
            stream.out.push(data);
        }
        self.pull(stream_id);
        Ok(())
    }

    /// See [`crate::Connection::send_trailers`].
    pub fn send_trailers(&mut self, stream_id: u64, fields: &Fields) -> Result<(), SendError> {
        self.check_size(fields.encoded_size())?;
        let fields: Vec<_> = field_refs(fields).collect();
        self.h3.send_headers(StreamId(stream_id), &fields, true).map_err(send_error)?;
        self.pull(stream_id);
        Ok(())
    }

    /// See [`crate::Connection::finish`].
    pub fn finish(&mut self, stream_id: u64) -> Result<(), SendError> {
        self.send_data(stream_id, Bytes::new(), true)
    }

    /// See [`crate::Connection::reset`].
    pub fn reset(&mut self, stream_id: u64, code: u64) {
        let has_unsent = self.streams.get(&stream_id).is_some_and(|stream| stream.out.is_pending());
        self.resetting = Some(stream_id);
        let resets = self.actions.len();
        if self.h3.abort(StreamId(stream_id), H3Code(code)) == Err(UsageError::ForbiddenCode) {
            self.h3.abort(StreamId(stream_id), H3Code::REQUEST_CANCELLED).ok();
        }
        self.drain();
        self.resetting = None;
        let is_reset = self.actions.range(resets..).any(|action| matches!(action, Action::Reset { .. }));
        if self.streams.remove(&stream_id).is_some() && has_unsent && !is_reset {
            self.actions.push_back(Action::Reset { stream_id, code });
        }
    }

    /// See [`crate::Connection::stop_receiving`]. Unless our side is finished, h3wire keeps its state until the peer
    /// ends its own.
    pub fn stop_receiving(&mut self, stream_id: u64, code: u64) {
        let stream = self.streams.get_mut(&stream_id).filter(|stream| !stream.receiving_over);
        let Some(stream) = stream else { return };
        stream.receiving_over = true;
        self.actions.push_back(Action::StopSending { stream_id, code });
        if stream.sending_ended {
            // With our side over, a reset by the peer is what makes h3wire forget the rest without a word to anybody.
            self.resetting = Some(stream_id);
            self.h3.stream_reset_received(StreamId(stream_id), H3Code(code)).ok();
            self.drain();
            self.resetting = None;
        }
        self.remove_if_over(stream_id);
    }

    fn is_receiving(&self, stream_id: u64) -> bool {
        self.streams.get(&stream_id).is_some_and(|stream| !stream.receiving_over)
    }

    /// See [`crate::Connection::goaway`]; the module says what is different.
    pub fn goaway(&mut self, id: u64) -> Result<(), SendError> {
        let is_wrong_kind = self.role == Role::Server && !id.is_multiple_of(4);
        if is_wrong_kind || self.goaway.is_some_and(|earlier| id > earlier) {
            return Err(SendError::GoAwayId);
        }
        let queued = if id == Self::GOAWAY_ALL { self.h3.start_shutdown() } else { self.h3.finish_shutdown() };
        queued.map_err(send_error)?;
        self.goaway = Some(id);
        self.drain();
        let control: Vec<u64> = self.streams.keys().copied().filter(|id| !id.is_multiple_of(4)).collect();
        for id in control {
            self.pull(id);
        }
        Ok(())
    }

    /// See [`crate::Connection::next_request_id`].
    pub fn next_request_id(&self) -> u64 {
        self.next_request_id
    }

    /// See [`crate::Connection::close`].
    pub fn close(&mut self, code: u64, reason: &'static str) {
        if !self.is_closed {
            self.h3.transport_closed();
            self.drain();
            self.actions.push_back(Action::Close { code, reason });
        }
    }

    /// See [`crate::Connection::queued_bytes`].
    pub fn queued_bytes(&self, stream_id: u64) -> usize {
        self.streams.get(&stream_id).map_or(0, |stream| stream.out.queued_bytes())
    }

    /// See [`crate::Connection::peer_settings`].
    pub fn peer_settings(&self) -> Option<&Settings> {
        self.peer_settings.as_ref()
    }

    /// See [`crate::Connection::datagrams_allowed`].
    pub fn datagrams_allowed(&self) -> bool {
        let peer_allows = self.peer_settings.is_some_and(|settings| settings.h3_datagram);
        self.config.h3_datagram && self.has_control && peer_allows
    }

    /// See [`crate::Connection::poll_event`].
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// See [`crate::Connection::poll_action`].
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// See [`crate::Connection::poll_writable`].
    pub fn poll_writable(&mut self) -> Option<u64> {
        if let Some(stream_id) = self.turns.take_in_hand() {
            self.relist(stream_id, Turn::Listed);
        }
        while let Some(stream_id) = self.turns.next() {
            let stream = self.streams.get_mut(&stream_id);
            if let Some(stream) = stream.filter(|stream| stream.out.turn == Turn::Listed) {
                if stream.out.is_pending() {
                    self.turns.hand_out(stream_id);
                    return Some(stream_id);
                }
                stream.out.turn = Turn::None;
            }
        }
        None
    }

    fn relist(&mut self, stream_id: u64, from: Turn) {
        let stream = self.streams.get_mut(&stream_id);
        if let Some(stream) = stream.filter(|stream| stream.out.turn == from) {
            stream.out.turn = Turn::None;
            self.turns.add(stream_id, &mut stream.out);
        }
    }

    /// See [`crate::Connection::front`].
    pub fn front(&mut self, stream_id: u64) -> &[Bytes] {
        self.streams.get(&stream_id).map_or(&[], |stream| stream.out.front())
    }

    /// See [`crate::Connection::wrote`].
    pub fn wrote(&mut self, stream_id: u64, bytes: usize) {
        if let Some(stream) = self.streams.get_mut(&stream_id) {
            stream.out.wrote(bytes);
        }
    }

    /// See [`crate::Connection::wants_fin`].
    pub fn wants_fin(&self, stream_id: u64) -> bool {
        self.streams.get(&stream_id).is_some_and(|stream| stream.out.wants_fin())
    }

    /// See [`crate::Connection::wrote_fin`].
    pub fn wrote_fin(&mut self, stream_id: u64) {
        if let Some(stream) = self.streams.get_mut(&stream_id) {
            stream.out.wrote_fin();
            self.remove_if_over(stream_id);
        }
    }

    /// See [`crate::Connection::blocked`].
    pub fn blocked(&mut self, stream_id: u64) {
        if let Some(stream) = self.streams.get_mut(&stream_id) {
            stream.out.turn = Turn::Blocked;
        }
    }

    /// See [`crate::Connection::unblocked`].
    pub fn unblocked(&mut self, stream_id: u64) {
        self.relist(stream_id, Turn::Blocked);
    }

    /// h3wire does not look at the peer's limit.
    fn check_size(&self, actual: u64) -> Result<(), SendError> {
        match self.peer_settings.and_then(|settings| settings.max_field_section_bytes) {
            Some(limit) if actual > limit => Err(SendError::FieldSectionTooLarge { actual, limit }),
            _ => Ok(()),
        }
    }

    /// Takes over what h3wire has queued on a stream.
    fn pull(&mut self, stream_id: u64) {
        if let Some(bytes) = self.h3.poll_send(StreamId(stream_id)).map(Bytes::copy_from_slice) {
            self.h3.sent(StreamId(stream_id), bytes.len()).ok();
            if let Some(stream) = self.streams.get_mut(&stream_id) {
                stream.out.push(bytes);
            }
        }
        self.drain();
        if let Some(stream) = self.streams.get_mut(&stream_id) {
            self.turns.add(stream_id, &mut stream.out);
        }
    }

    fn remove_if_over(&mut self, stream_id: u64) {
        let is_over = |stream: &Stream| stream.receiving_over && (stream.sending_over || stream.out.is_over());
        if self.streams.get(&stream_id).is_some_and(is_over) {
            self.streams.remove(&stream_id);
            self.counters.dropped_closed += self.early.take(stream_id).len() as u64;
        }
    }
}

const fn request_after(stream_id: u64) -> u64 {
    if stream_id.is_multiple_of(4) { stream_id.saturating_add(4) } else { 0 }
}
