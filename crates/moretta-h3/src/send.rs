//! What goes out: heads, content, GOAWAY, and the hand-over of bytes to QUIC.

use bytes::Bytes;
use moretta_wire::head::{Fields, RequestHead, ResponseHead};
use moretta_wire::varint;

use crate::config::Role;
use crate::connection::Connection;
use crate::event::{Action, SendError, UniKind};
use crate::fault::Fault;
use crate::frame;
use crate::output::{Outgoing, Turn};
use crate::qpack::{encode_line, start_section};
use crate::request_stream::{Datagrams, RequestStream, Sending};
use crate::settings;
use crate::validate;

/// A unidirectional stream of ours.
#[derive(Debug)]
pub(crate) struct OwnUni {
    kind: UniKind,
    pub(crate) stream_id: Option<u64>,
    out: Outgoing,
}

pub(crate) fn own_uni() -> [OwnUni; 3] {
    [UniKind::Control, UniKind::QpackEncoder, UniKind::QpackDecoder].map(|kind| OwnUni {
        kind,
        stream_id: None,
        out: Outgoing::default(),
    })
}

impl UniKind {
    const fn stream_type(self) -> u8 {
        match self {
            Self::Control => 0x00,
            Self::QpackEncoder => 0x02,
            Self::QpackDecoder => 0x03,
        }
    }
}

impl Connection {
    /// The largest request stream id: the first GOAWAY of a graceful drain, which rejects nothing yet.
    pub const GOAWAY_ALL: u64 = (1 << 62) - 4;

    /// Asks for the control and QPACK streams and queues SETTINGS. Call once, when QUIC can open streams.
    pub fn start(&mut self) {
        if self.is_closed || std::mem::replace(&mut self.is_started, true) {
            return;
        }
        let settings = settings::encode(self.shared.role, &self.shared.config);
        for own in &mut self.own_uni {
            let mut bytes = vec![own.kind.stream_type()];
            if own.kind == UniKind::Control {
                bytes.extend_from_slice(&settings);
            }
            own.out.push(bytes.into());
            self.shared.actions.push_back(Action::OpenUni { kind: own.kind });
        }
    }

    /// The stream asked for with [`Action::OpenUni`] is open.
    pub fn handle_uni_opened(&mut self, kind: UniKind, stream_id: u64) {
        if self.is_closed {
            return;
        }
        if let Some(own) = self.own_uni.iter_mut().find(|own| own.kind == kind && own.stream_id.is_none()) {
            own.stream_id = Some(stream_id);
            self.turns.add(stream_id, &mut own.out);
        }
    }

    pub(crate) fn own_stream_is_open(&self, kind: UniKind) -> bool {
        self.own_uni.iter().any(|own| own.kind == kind && own.stream_id.is_some())
    }

    /// Client: queues a request on a bidirectional stream that the caller has opened. Its content must be what a
    /// Content-Length in `head` says; that is not checked.
    pub fn send_request(&mut self, stream_id: u64, head: &RequestHead, fin: bool) -> Result<(), SendError> {
        self.check_open()?;
        if self.shared.role != Role::Client || !stream_id.is_multiple_of(4) || self.request_ids.is_seen(stream_id) {
            return Err(SendError::WrongState);
        }
        if self.peer_goaway.is_some() {
            return Err(SendError::GoingAway);
        }
        if head.protocol.is_some() && !self.peer_settings.is_some_and(|settings| settings.enable_connect_protocol) {
            return Err(SendError::ExtendedConnectUnavailable);
        }
        validate::check_request(head).map_err(malformed)?;
        self.check_size(head.encoded_size())?;
        let pseudo = [
            (":method", Some(&head.method)),
            (":scheme", head.scheme.as_ref()),
            (":authority", head.authority.as_ref()),
            (":path", head.path.as_ref()),
            (":protocol", head.protocol.as_ref()),
        ];
        let pseudo = pseudo.into_iter().filter_map(|(name, value)| Some((name, &**value?)));
        let bytes = headers_frame(pseudo, &head.fields);
        self.request_ids.see(stream_id);
        let mut stream = Box::new(RequestStream::new(Sending::Content));
        stream.is_reported = true;
        stream.describe(&head.method, head.protocol.is_some());
        self.requests.insert(stream_id, stream);
        self.queue(stream_id, bytes, fin.then_some(Sending::Ended));
        Ok(())
    }

    /// Server: queues a response head. Interim ones (1xx) may precede the final one. A 2xx to a CONNECT opens the
    /// tunnel: from then on the client may send nothing but DATA (RFC 9114 §4.4).
    pub fn send_response(&mut self, stream_id: u64, head: &ResponseHead, fin: bool) -> Result<(), SendError> {
        self.check_open()?;
        validate::check_response(head).map_err(malformed)?;
        self.check_size(head.encoded_size())?;
        let role = self.shared.role;
        let stream = self.requests.get_mut(&stream_id).ok_or(SendError::UnknownStream)?;
        if role != Role::Server || stream.sending != Sending::Head || head.is_interim() && fin {
            return Err(SendError::WrongState);
        }
        let mut sending = None;
        if !head.is_interim() {
            if stream.is_connect && head.is_success() {
                // RFC 9110 §9.3.6; RFC 9297 §3.2.
                if head.fields.contains("content-length") {
                    return Err(malformed(Fault::ContentLengthInvalid));
                }
                stream.open_tunnel();
            } else {
                // What follows on a refused CONNECT is content like any other.
                stream.is_connect = false;
                if stream.datagrams != Datagrams::Never {
                    stream.datagrams = Datagrams::Over;
                }
                stream.is_head |= matches!(head.status, 204 | 304);
                self.drop_early(stream_id);
            }
            sending = Some(if fin { Sending::Ended } else { Sending::Content });
        }
        self.queue(stream_id, response_frame(head), sending);
        Ok(())
    }

    /// The answer of [`Connection::answer`]: a head and the end.
    pub(crate) fn queue_answer(&mut self, stream_id: u64, status: u16) {
        self.queue(stream_id, response_frame(&ResponseHead::new(status)), Some(Sending::Ended));
    }

    /// Queues content or tunnel bytes as one DATA frame: a small header and `data` itself, not copied. Empty `data`
    /// makes no frame.
    pub fn send_data(&mut self, stream_id: u64, data: Bytes, fin: bool) -> Result<(), SendError> {
        self.check_open()?;
        let role = self.shared.role;
        let stream = self.requests.get_mut(&stream_id).ok_or(SendError::UnknownStream)?;
        let has_no_content = role == Role::Server && stream.is_head && !data.is_empty();
        if stream.sending != Sending::Content || has_no_content {
            return Err(SendError::WrongState);
        }
        if !data.is_empty() {
            stream.out.push(self.frame_headers.data(data.len()));
        }
        self.queue(stream_id, data, fin.then_some(Sending::Ended));
        Ok(())
    }

    /// Queues a trailer section and the end of the stream. Not in a tunnel.
    pub fn send_trailers(&mut self, stream_id: u64, fields: &Fields) -> Result<(), SendError> {
        self.check_open()?;
        validate::check_trailers(fields).map_err(malformed)?;
        self.check_size(fields.encoded_size())?;
        let stream = self.requests.get(&stream_id).ok_or(SendError::UnknownStream)?;
        if stream.sending != Sending::Content || stream.is_connect {
            return Err(SendError::WrongState);
        }
        self.queue(stream_id, headers_frame(std::iter::empty(), fields), Some(Sending::Ended));
        Ok(())
    }

    /// Ends our side after what is queued.
    pub fn finish(&mut self, stream_id: u64) -> Result<(), SendError> {
        self.send_data(stream_id, Bytes::new(), true)
    }

    /// Queues GOAWAY (RFC 9114 §5.2). Server: requests with an id at or above `id` are rejected from now on; drain
    /// begins with [`GOAWAY_ALL`](Self::GOAWAY_ALL) and ends with [`next_request_id`](Self::next_request_id). Client: a
    /// push id.
    ///
    /// # Errors
    /// [`SendError::GoAwayId`] if `id` is above an earlier one, or from a server not a request stream id.
    pub fn goaway(&mut self, id: u64) -> Result<(), SendError> {
        self.check_open()?;
        let is_wrong_kind = self.shared.role == Role::Server && !id.is_multiple_of(4);
        if is_wrong_kind || id > varint::MAX || self.our_goaway.is_some_and(|earlier| id > earlier) {
            return Err(SendError::GoAwayId);
        }
        if !self.is_started {
            return Err(SendError::WrongState);
        }
        self.our_goaway = Some(id);
        self.reject_from(id);
        let mut bytes = Vec::new();
        frame::write_header(frame::GOAWAY, varint::encoded_len(id), &mut bytes);
        varint::encode(id, &mut bytes);
        if let Some(own) = self.own_uni.iter_mut().find(|own| own.kind == UniKind::Control) {
            own.out.push(bytes.into());
            if let Some(stream_id) = own.stream_id {
                self.turns.add(stream_id, &mut own.out);
            }
        }
        Ok(())
    }

    /// Server: the id above every request seen so far.
    pub fn next_request_id(&self) -> u64 {
        self.request_ids.next()
    }

    fn check_open(&self) -> Result<(), SendError> {
        if self.is_closed { Err(SendError::Closed) } else { Ok(()) }
    }

    /// RFC 9114 §4.2.2: a section that the peer said it would not take is not sent.
    fn check_size(&self, actual: u64) -> Result<(), SendError> {
        match self.peer_settings.and_then(|settings| settings.max_field_section_bytes) {
            Some(limit) if actual > limit => Err(SendError::FieldSectionTooLarge { actual, limit }),
            _ => Ok(()),
        }
    }

    fn queue(&mut self, stream_id: u64, bytes: Bytes, sending: Option<Sending>) {
        let Some(stream) = self.requests.get_mut(&stream_id) else { return };
        stream.out.push(bytes);
        if let Some(sending) = sending {
            stream.sending = sending;
            if sending == Sending::Ended {
                stream.out.finish();
            }
        }
        self.turns.add(stream_id, &mut stream.out);
    }

    fn outgoing(&self, stream_id: u64) -> Option<&Outgoing> {
        if stream_id.is_multiple_of(4) {
            return self.requests.get(&stream_id).map(|stream| &stream.out);
        }
        self.own_uni.iter().find(|own| own.stream_id == Some(stream_id)).map(|own| &own.out)
    }

    fn outgoing_mut(&mut self, stream_id: u64) -> Option<&mut Outgoing> {
        if stream_id.is_multiple_of(4) {
            return self.requests.get_mut(&stream_id).map(|stream| &mut stream.out);
        }
        self.own_uni.iter_mut().find(|own| own.stream_id == Some(stream_id)).map(|own| &mut own.out)
    }

    /// Bytes queued on a stream and not yet handed to QUIC, frame headers included.
    pub fn queued_bytes(&self, stream_id: u64) -> usize {
        self.outgoing(stream_id).map_or(0, Outgoing::queued_bytes)
    }

    /// The next stream that has bytes or a FIN to hand to QUIC.
    ///
    /// The caller then writes [`front`](Self::front), tells [`wrote`](Self::wrote), and when
    /// [`wants_fin`](Self::wants_fin) says so finishes the QUIC stream and tells [`wrote_fin`](Self::wrote_fin). If QUIC
    /// takes no more, it tells [`blocked`](Self::blocked). A stream that was neither emptied nor blocked comes again
    /// after the others.
    pub fn poll_writable(&mut self) -> Option<u64> {
        if let Some(stream_id) = self.turns.take_in_hand() {
            self.end_turn(stream_id);
        }
        while let Some(stream_id) = self.turns.next() {
            let out = self.outgoing_mut(stream_id);
            if let Some(out) = out.filter(|out| out.turn == Turn::Listed) {
                if out.is_pending() {
                    self.turns.hand_out(stream_id);
                    return Some(stream_id);
                }
                out.turn = Turn::None;
            }
        }
        None
    }

    /// Puts the stream that the caller had back into the list, at its end, if it still has something to write.
    fn end_turn(&mut self, stream_id: u64) {
        if let Some(out) = self.outgoing_mut(stream_id).filter(|out| out.turn == Turn::Listed) {
            out.turn = Turn::None;
            self.list(stream_id);
        }
    }

    fn list(&mut self, stream_id: u64) {
        let turns = &mut self.turns;
        if stream_id.is_multiple_of(4) {
            if let Some(stream) = self.requests.get_mut(&stream_id) {
                turns.add(stream_id, &mut stream.out);
            }
        } else if let Some(own) = self.own_uni.iter_mut().find(|own| own.stream_id == Some(stream_id)) {
            turns.add(stream_id, &mut own.out);
        }
    }

    /// The next buffers to write, in order; empty if there are none. There may be more once these are written.
    pub fn front(&mut self, stream_id: u64) -> &[Bytes] {
        self.outgoing(stream_id).map_or(&[], Outgoing::front)
    }

    /// QUIC took this many bytes of [`front`](Self::front).
    pub fn wrote(&mut self, stream_id: u64, bytes: usize) {
        if let Some(out) = self.outgoing_mut(stream_id) {
            out.wrote(bytes);
        }
    }

    /// Whether all is written and the stream is to be finished now.
    pub fn wants_fin(&self, stream_id: u64) -> bool {
        self.outgoing(stream_id).is_some_and(Outgoing::wants_fin)
    }

    /// The QUIC stream was finished.
    pub fn wrote_fin(&mut self, stream_id: u64) {
        if let Some(out) = self.outgoing_mut(stream_id) {
            out.wrote_fin();
            self.remove_if_over(stream_id);
        }
    }

    /// QUIC takes no more of this stream for now: it is not writable until [`unblocked`](Self::unblocked).
    pub fn blocked(&mut self, stream_id: u64) {
        if let Some(out) = self.outgoing_mut(stream_id) {
            out.turn = Turn::Blocked;
        }
    }

    /// QUIC takes bytes of this stream again.
    pub fn unblocked(&mut self, stream_id: u64) {
        if let Some(out) = self.outgoing_mut(stream_id).filter(|out| out.turn == Turn::Blocked) {
            out.turn = Turn::None;
            self.list(stream_id);
        }
    }
}

fn malformed(fault: Fault) -> SendError {
    SendError::Malformed { reason: fault.text() }
}

fn response_frame(head: &ResponseHead) -> Bytes {
    let status = head.status.to_string();
    headers_frame(std::iter::once((":status", status.as_bytes())), &head.fields)
}

/// A HEADERS frame with its payload.
fn headers_frame<'a>(pseudo: impl Iterator<Item = (&'a str, &'a [u8])>, fields: &Fields) -> Bytes {
    let mut section = Vec::with_capacity(128);
    start_section(&mut section);
    for (name, value) in pseudo {
        encode_line(name.as_bytes(), value, &mut section);
    }
    for field in fields {
        encode_line(&field.name, &field.value, &mut section);
    }
    let mut out = Vec::with_capacity(section.len() + 5);
    frame::write_header(frame::HEADERS, section.len(), &mut out);
    out.extend_from_slice(&section);
    out.into()
}
