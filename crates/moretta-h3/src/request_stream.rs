//! One request stream: what it has received so far and what it may still send.

use bytes::Bytes;

use crate::config::{Config, Role};
use crate::event::Event;
use crate::fault::Fault;
use crate::frame::{FrameKind, HeaderReader};
use crate::output::Outgoing;
use crate::permission::{Permission, Phase, permission};
use crate::qpack::{self, DecodeError, Line};
use crate::shared::Shared;
use crate::validate;

/// State of one request stream; see the test for its size.
#[derive(Debug)]
pub(crate) struct RequestStream {
    // Receiving.
    reader: HeaderReader,
    /// The frame whose payload is being read.
    frame: Option<FrameKind>,
    remaining: u64,
    /// The part of a HEADERS payload that has come; never above `max_field_section_bytes`.
    section: Vec<u8>,
    phase: Phase,
    pub(crate) receiving: Receiving,
    /// What Content-Length promised.
    expected: Option<u64>,
    received: u64,
    // What kind of request it is.
    pub(crate) is_connect: bool,
    /// HEAD, or a response of 204 or 304: the response has no content.
    pub(crate) is_head: bool,
    pub(crate) datagrams: Datagrams,
    /// Counted among the cancelled ones.
    pub(crate) is_cancelled: bool,
    /// The application knows the request.
    pub(crate) is_reported: bool,
    // Sending.
    pub(crate) sending: Sending,
    pub(crate) out: Outgoing,
}

/// Our receiving side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Receiving {
    Open,
    /// Over by FIN, reset or our own will; what still comes is dropped.
    Over,
}

/// Our sending side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sending {
    /// Server: no final response yet.
    Head,
    /// Content or tunnel bytes may follow.
    Content,
    /// Trailers or the end are queued.
    Ended,
    /// Reset.
    Reset,
}

/// Whether the request has datagram semantics (RFC 9297 §2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Datagrams {
    /// It cannot have them.
    Never,
    /// An extended CONNECT that is not decided, or a request whose head is not here.
    Undecided,
    /// It has them.
    Enabled,
    /// It was refused; what is under way is dropped.
    Over,
}

/// Why reading stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Halt {
    /// The peer broke a rule.
    Fault(Fault),
    /// Server: answer with this status and read no further.
    Answer(u16),
}

impl From<Fault> for Halt {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl RequestStream {
    pub(crate) fn new(sending: Sending) -> Self {
        Self {
            reader: HeaderReader::default(),
            frame: None,
            remaining: 0,
            section: Vec::new(),
            phase: Phase::Head,
            receiving: Receiving::Open,
            expected: None,
            received: 0,
            is_connect: false,
            is_head: false,
            datagrams: Datagrams::Undecided,
            is_cancelled: false,
            is_reported: false,
            sending,
            out: Outgoing::default(),
        }
    }

    /// Notes what the request is; responses and datagrams are read in its light.
    pub(crate) fn describe(&mut self, method: &[u8], is_extended: bool) {
        self.is_connect = method == b"CONNECT";
        self.is_head = method == b"HEAD";
        self.datagrams = if is_extended { Datagrams::Undecided } else { Datagrams::Never };
    }

    /// A CONNECT was answered with 2xx: nothing but DATA may follow (RFC 9114 §4.4).
    pub(crate) fn open_tunnel(&mut self) {
        if self.phase == Phase::Content {
            self.phase = Phase::Tunnel;
        }
    }

    /// Whether both sides are over and the state can go.
    pub(crate) fn is_over(&self) -> bool {
        self.receiving == Receiving::Over && (self.sending == Sending::Reset || self.out.is_over())
    }

    /// Bytes held for reading.
    pub(crate) fn buffered_bytes(&self) -> usize {
        self.section.capacity()
    }

    /// Gives up the part of a HEADERS payload that is held.
    pub(crate) fn take_section(&mut self, shared: &mut Shared) -> Vec<u8> {
        shared.section_bytes -= self.section.len() as u64;
        std::mem::take(&mut self.section)
    }

    /// Reads what came, in order; events go to `shared`.
    pub(crate) fn receive(&mut self, shared: &mut Shared, id: u64, mut data: Bytes, fin: bool) -> Result<(), Halt> {
        let mut fin_reported = false;
        loop {
            let Some(kind) = self.frame else {
                let Some((frame_type, length)) = self.reader.next_frame(&mut data) else { break };
                self.begin_frame(shared, FrameKind::of(frame_type), length)?;
                continue;
            };
            let piece = data.split_to(usize::try_from(self.remaining).unwrap_or(usize::MAX).min(data.len()));
            if piece.is_empty() && self.remaining > 0 {
                break;
            }
            self.remaining -= piece.len() as u64;
            if self.remaining == 0 {
                self.frame = None;
            }
            match kind {
                FrameKind::Data if piece.is_empty() => {}
                FrameKind::Data => shared.events.push_back(Event::Data { stream_id: id, bytes: piece }),
                FrameKind::Headers => {
                    let last = fin && data.is_empty();
                    fin_reported |= self.read_headers(shared, id, &piece, last)?;
                }
                FrameKind::CancelPush
                | FrameKind::Settings
                | FrameKind::PushPromise
                | FrameKind::GoAway
                | FrameKind::MaxPushId
                | FrameKind::Http2
                | FrameKind::Unknown => shared.spend(piece.len() as u64)?,
            }
        }
        if fin {
            self.check_end(shared.role)?;
            self.receiving = Receiving::Over;
            if !fin_reported {
                shared.events.push_back(Event::Finished { stream_id: id });
            }
        }
        Ok(())
    }

    /// Decides about a frame by its header, before any of its payload is kept.
    fn begin_frame(&mut self, shared: &mut Shared, kind: FrameKind, length: u64) -> Result<(), Halt> {
        match permission(shared.role, self.phase, kind) {
            Permission::Refuse(fault) => return Err(fault.into()),
            Permission::Skip => shared.spend(Shared::USELESS_FRAME)?,
            Permission::Take if kind == FrameKind::Data => self.begin_data(shared, length)?,
            // Every line counts 32 bytes and more beside its own, so a section whose code exceeds the limit does too.
            Permission::Take if length > shared.config.max_field_section_bytes => {
                return Err(self.too_large(shared.role));
            }
            Permission::Take => {}
        }
        self.frame = Some(kind);
        self.remaining = length;
        Ok(())
    }

    fn begin_data(&mut self, shared: &mut Shared, length: u64) -> Result<(), Halt> {
        if length == 0 {
            // Legal, useless, and the cheapest flood there is.
            return Ok(shared.spend(Shared::USELESS_FRAME)?);
        }
        if self.is_connect {
            return Ok(());
        }
        self.received = self.received.saturating_add(length);
        if self.expected.is_some_and(|expected| self.received > expected) {
            return Err(Fault::ContentLengthMismatch.into());
        }
        if shared.role == Role::Client && self.is_head {
            return Err(Fault::ContentForbidden.into());
        }
        if shared.role == Role::Server && self.received > shared.config.max_request_body_bytes {
            return Err(Fault::BodyTooLarge.into());
        }
        Ok(())
    }

    /// Server, before the request is known: 431. Everywhere else the stream ends.
    fn too_large(&self, role: Role) -> Halt {
        if role == Role::Server && self.phase == Phase::Head {
            Halt::Answer(431)
        } else {
            Fault::SectionTooLarge.into()
        }
    }

    /// Takes a piece of a HEADERS payload and the whole section when it is complete. Says whether the end of the stream
    /// was told with it.
    fn read_headers(&mut self, shared: &mut Shared, id: u64, piece: &[u8], last: bool) -> Result<bool, Halt> {
        let limit = shared.config.max_field_section_bytes;
        let lines = if self.section.is_empty() && self.frame.is_none() {
            qpack::decode(piece, limit)
        } else {
            if !shared.reserve_section(piece.len()) {
                shared.section_bytes -= piece.len() as u64;
                return Err(Fault::SectionTooLarge.into());
            }
            self.section.extend_from_slice(piece);
            if self.frame.is_some() {
                return Ok(false);
            }
            qpack::decode(&self.take_section(shared), limit)
        };
        match lines {
            Ok(lines) => self.read_section(shared, id, lines, last),
            Err(DecodeError::Failed) => Err(Fault::Decompression.into()),
            Err(DecodeError::TooLarge) => Err(self.too_large(shared.role)),
        }
    }

    fn read_section(&mut self, shared: &mut Shared, id: u64, lines: Vec<Line>, last: bool) -> Result<bool, Halt> {
        if self.phase != Phase::Head {
            let fields = validate::trailers(lines)?;
            self.phase = Phase::Trailers;
            shared.events.push_back(Event::Trailers { stream_id: id, fields });
            return Ok(false);
        }
        match shared.role {
            Role::Server => self.read_request(shared, id, lines, last)?,
            Role::Client => self.read_response(shared, id, lines, last)?,
        }
        Ok(last)
    }

    fn read_request(&mut self, shared: &mut Shared, id: u64, lines: Vec<Line>, last: bool) -> Result<(), Halt> {
        let Config { enable_connect_protocol, max_request_body_bytes, .. } = shared.config;
        let (head, content_length) = validate::request(lines, enable_connect_protocol)?;
        self.describe(&head.method, head.protocol.is_some());
        self.expected = content_length;
        self.phase = Phase::Content;
        if content_length.is_some_and(|length| length > max_request_body_bytes) {
            return Err(Halt::Answer(413));
        }
        if last {
            self.check_end(shared.role)?;
        }
        self.is_reported = true;
        shared.counters.requests += 1;
        shared.events.push_back(Event::Request { stream_id: id, head, fin: last });
        Ok(())
    }

    fn read_response(&mut self, shared: &mut Shared, id: u64, lines: Vec<Line>, last: bool) -> Result<(), Halt> {
        let (head, content_length) = validate::response(lines)?;
        let interim = head.is_interim();
        if interim {
            // An endless row of them is as useless as unknown frames.
            shared.spend(Shared::USELESS_FRAME)?;
        } else {
            self.phase = Phase::Content;
            if self.is_connect && head.is_success() {
                // Whatever length it claims has no meaning (RFC 9110 §9.3.6).
                self.open_tunnel();
            } else {
                self.is_connect = false;
                self.is_head |= matches!(head.status, 204 | 304);
                self.expected = content_length.filter(|_| !self.is_head);
                if self.datagrams != Datagrams::Never {
                    self.datagrams = Datagrams::Over;
                }
            }
        }
        if last {
            self.check_end(shared.role)?;
        }
        shared.events.push_back(Event::Response { stream_id: id, head, interim, fin: last });
        Ok(())
    }

    /// What a clean end means here (RFC 9114 §4.1, §7.1).
    fn check_end(&mut self, role: Role) -> Result<(), Halt> {
        if self.frame.is_some() || !self.reader.is_empty() {
            return Err(Fault::FrameTruncated.into());
        }
        if self.phase == Phase::Head {
            let fault = match role {
                Role::Server => Fault::RequestIncomplete,
                Role::Client => Fault::ResponseIncomplete,
            };
            return Err(fault.into());
        }
        if self.expected.is_some_and(|expected| expected != self.received) {
            return Err(Fault::ContentLengthMismatch.into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The state of an idle tunnel is this struct and its entry in a tree: no buffers.
    #[test]
    fn an_idle_connect_stream_takes_less_than_200_bytes() {
        let bytes = size_of::<RequestStream>();
        assert!(bytes <= 200, "{bytes}");
    }
}
