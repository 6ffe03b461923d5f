//! From h3wire's events, actions, heads and errors to ours.

use bytes::Bytes;
use h3wire::{AbortSource, FieldRef, H3Code, HeaderBlockRef, HeadersKind, StreamId, UsageError};
use moretta_wire::head::{Fields, RequestHead, ResponseHead};

use super::{Connection, Stream, request_after};
use crate::datagram::EarlyDatagrams;
use crate::event::{Action, Event, SendError, UniKind};
use crate::output::Outgoing;
use crate::request_stream::Datagrams;
use crate::settings::Settings;

impl Connection {
    /// Takes over actions and events.
    pub(super) fn drain(&mut self) {
        if !self.is_started {
            return;
        }
        while let Some(event) = self.h3.poll_event() {
            self.take_event(event);
        }
        while let Some(action) = self.h3.poll_action() {
            self.take_action(action);
        }
    }

    fn take_action(&mut self, action: h3wire::Action) {
        let action = match action {
            h3wire::Action::OpenUni(kind) => Action::OpenUni {
                kind: match kind {
                    h3wire::UniKind::Control => UniKind::Control,
                    h3wire::UniKind::QpackEncoder => UniKind::QpackEncoder,
                    h3wire::UniKind::QpackDecoder => UniKind::QpackDecoder,
                },
            },
            h3wire::Action::ResetStream { stream, code } => {
                if let Some(stream) = self.streams.get_mut(&stream.0) {
                    stream.out = Outgoing::default();
                    stream.sending_over = true;
                }
                self.remove_if_over(stream.0);
                Action::Reset { stream_id: stream.0, code: code.0 }
            }
            h3wire::Action::StopSending { stream, code } => Action::StopSending { stream_id: stream.0, code: code.0 },
            h3wire::Action::FinishStream(StreamId(stream_id)) => {
                if let Some(stream) = self.streams.get_mut(&stream_id) {
                    stream.sending_ended = true;
                    stream.out.finish();
                    self.turns.add(stream_id, &mut stream.out);
                }
                return;
            }
            h3wire::Action::CloseConnection { code, reason } => Action::Close { code: code.0, reason },
        };
        self.actions.push_back(action);
    }

    fn take_event(&mut self, event: h3wire::Event) {
        match event {
            h3wire::Event::Headers { stream, block, kind } => {
                let event = self.h3.headers(block).ok().map(|head| read_head(stream.0, kind, &head));
                self.h3.release(block);
                let is_unwanted = |event: &Event| {
                    matches!(event, Event::Response { .. } | Event::Trailers { .. }) && !self.is_receiving(stream.0)
                };
                if let Some(event) = event.filter(|event| !is_unwanted(event)) {
                    self.note_head(&event);
                    self.events.push_back(event);
                }
            }
            h3wire::Event::Finished(StreamId(stream_id)) => {
                if self.is_receiving(stream_id) {
                    self.events.push_back(Event::Finished { stream_id });
                }
                self.end_receiving(stream_id);
            }
            h3wire::Event::StreamAborted { stream: StreamId(stream_id), code: H3Code(code), source } => {
                let is_reported = self.streams.contains_key(&stream_id) && self.resetting != Some(stream_id);
                self.end_receiving(stream_id);
                if is_reported {
                    self.events.push_back(match source {
                        AbortSource::Peer => Event::Reset { stream_id, code },
                        AbortSource::Local => Event::Aborted { stream_id, code, reason: "stream error" },
                        AbortSource::GoAway => {
                            Event::Aborted { stream_id, code, reason: "not processed before GOAWAY" }
                        }
                    });
                }
            }
            h3wire::Event::SendStopped { stream, code } => {
                if self.streams.contains_key(&stream.0) {
                    self.events.push_back(Event::StopSending { stream_id: stream.0, code: code.0 });
                }
            }
            h3wire::Event::PeerSettings => {
                self.peer_settings = self.h3.peer_settings().map(|settings| Settings {
                    enable_connect_protocol: settings.enable_connect_protocol,
                    h3_datagram: settings.h3_datagram,
                    max_field_section_bytes: settings.max_field_section_size,
                });
                self.events.push_back(Event::Settings);
            }
            h3wire::Event::GoAway { id } => self.events.push_back(Event::GoAway { id }),
            // No type of unidirectional stream is registered.
            h3wire::Event::UniStream { .. } => {}
            h3wire::Event::Closed { .. } => {
                self.is_closed = true;
                self.streams.clear();
                self.turns.clear();
                self.early = EarlyDatagrams::default();
            }
        }
    }

    fn note_head(&mut self, event: &Event) {
        if let Event::Request { stream_id, head, .. } = event {
            let datagrams = if head.protocol.is_some() { Datagrams::Undecided } else { Datagrams::Never };
            self.streams.insert(*stream_id, Stream::new(datagrams));
            self.next_request_id = self.next_request_id.max(request_after(*stream_id));
            self.counters.requests += 1;
        } else if let Event::Response { stream_id, head, interim: false, .. } = event
            && !head.is_success()
        {
            self.refuse(*stream_id);
        }
    }

    fn end_receiving(&mut self, stream_id: u64) {
        if let Some(stream) = self.streams.get_mut(&stream_id) {
            stream.receiving_over = true;
        }
        self.remove_if_over(stream_id);
    }
}

pub(super) fn field_refs(fields: &Fields) -> impl Iterator<Item = FieldRef<'_>> {
    fields.iter().map(|field| FieldRef::new(&field.name, &field.value))
}

fn read_head(stream_id: u64, kind: HeadersKind, block: &HeaderBlockRef<'_>) -> Event {
    let mut fields = Fields::new();
    for field in block.iter() {
        fields.push(Bytes::copy_from_slice(field.name), Bytes::copy_from_slice(field.value));
    }
    let pseudo = block.pseudo();
    let copy = |value: Option<&[u8]>| value.map(Bytes::copy_from_slice);
    match kind {
        HeadersKind::Request => {
            let authority = copy(pseudo.authority).or_else(|| fields.get_all("host").next().cloned());
            let head = RequestHead {
                method: copy(pseudo.method).unwrap_or_default(),
                scheme: copy(pseudo.scheme),
                authority,
                path: copy(pseudo.path),
                protocol: copy(pseudo.protocol),
                fields,
            };
            Event::Request { stream_id, head, fin: false }
        }
        HeadersKind::Response | HeadersKind::Informational => {
            let head = ResponseHead { status: pseudo.status.unwrap_or_default(), fields };
            Event::Response { stream_id, head, interim: kind == HeadersKind::Informational, fin: false }
        }
        HeadersKind::Trailers => Event::Trailers { stream_id, fields },
    }
}

pub(super) fn send_error(error: UsageError) -> SendError {
    match error {
        UsageError::Closed(_) => SendError::Closed,
        UsageError::UnknownStream => SendError::UnknownStream,
        UsageError::NotNegotiated => SendError::ExtendedConnectUnavailable,
        UsageError::GoingAway => SendError::GoingAway,
        UsageError::InvalidField => SendError::Malformed { reason: "malformed message" },
        UsageError::Blocked
        | UsageError::WrongStreamKind
        | UsageError::WrongPhase
        | UsageError::StaleBlock
        | UsageError::Reserved
        | UsageError::OutOfRange
        | UsageError::ForbiddenCode => SendError::WrongState,
    }
}
