//! The peer's unidirectional streams (RFC 9114 §6.2, RFC 9204 §4.2).

use bytes::Bytes;

use crate::config::Role;
use crate::fault::Fault;
use crate::frame::{FrameKind, HeaderReader, parse_id};
use crate::permission::{Permission, Phase, permission};
use crate::qpack::{DecoderStream, encoder_stream_is_idle};
use crate::settings::{self, Settings};
use crate::shared::Shared;

/// State of one of them. There is none for streams of unknown types: they are stopped.
#[derive(Debug)]
pub(crate) enum PeerUni {
    /// The type has not come whole.
    Type(HeaderReader),
    Control(ControlReader),
    Encoder,
    Decoder(DecoderStream),
}

/// What a stream type stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UniType {
    Control,
    Push,
    Encoder,
    Decoder,
    Unknown,
}

impl UniType {
    pub(crate) const fn of(stream_type: u64) -> Self {
        match stream_type {
            0x00 => Self::Control,
            0x01 => Self::Push,
            0x02 => Self::Encoder,
            0x03 => Self::Decoder,
            _ => Self::Unknown,
        }
    }
}

/// What the control stream said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ControlFrame {
    Settings(Settings),
    GoAway(u64),
    MaxPushId(u64),
}

/// Reads the frames of the peer's control stream.
#[derive(Debug)]
pub(crate) struct ControlReader {
    reader: HeaderReader,
    phase: Phase,
    frame: Option<FrameKind>,
    remaining: u64,
    /// Payload so far; never above [`settings::MAX_PAYLOAD_BYTES`].
    payload: Vec<u8>,
}

impl ControlReader {
    pub(crate) fn new() -> Self {
        Self {
            reader: HeaderReader::default(),
            phase: Phase::ControlStart,
            frame: None,
            remaining: 0,
            payload: Vec::new(),
        }
    }

    /// The next frame with a meaning; `None` when `data` is used up.
    pub(crate) fn next(&mut self, shared: &mut Shared, data: &mut Bytes) -> Result<Option<ControlFrame>, Fault> {
        loop {
            let Some(kind) = self.frame else {
                let Some((frame_type, length)) = self.reader.next_frame(data) else { return Ok(None) };
                self.begin(shared, FrameKind::of(frame_type), length)?;
                continue;
            };
            let piece = data.split_to(usize::try_from(self.remaining).unwrap_or(usize::MAX).min(data.len()));
            if piece.is_empty() && self.remaining > 0 {
                return Ok(None);
            }
            self.remaining -= piece.len() as u64;
            if kind == FrameKind::Unknown {
                shared.spend(piece.len() as u64)?;
            } else {
                self.payload.extend_from_slice(&piece);
            }
            if self.remaining == 0 {
                self.frame = None;
                if let Some(frame) = self.finish(kind)? {
                    return Ok(Some(frame));
                }
            }
        }
    }

    pub(crate) fn buffered_bytes(&self) -> usize {
        self.payload.capacity()
    }

    fn begin(&mut self, shared: &mut Shared, kind: FrameKind, length: u64) -> Result<(), Fault> {
        match permission(shared.role, self.phase, kind) {
            Permission::Refuse(fault) => return Err(fault),
            Permission::Take if kind == FrameKind::Settings => {
                if length > settings::MAX_PAYLOAD_BYTES {
                    return Err(Fault::SettingsTooLong);
                }
            }
            Permission::Take => {
                // One varint fills it. A row of repeated ones does nothing, so it costs as unknown frames do.
                if !(1..=8).contains(&length) {
                    return Err(Fault::FrameLayout);
                }
                shared.spend(Shared::USELESS_FRAME)?;
            }
            Permission::Skip => shared.spend(Shared::USELESS_FRAME)?,
        }
        self.frame = Some(kind);
        self.remaining = length;
        Ok(())
    }

    fn finish(&mut self, kind: FrameKind) -> Result<Option<ControlFrame>, Fault> {
        let payload = std::mem::take(&mut self.payload);
        let id = || parse_id(&payload).ok_or(Fault::FrameLayout);
        match kind {
            FrameKind::Settings => {
                self.phase = Phase::Control;
                Settings::parse(&payload).map(|settings| Some(ControlFrame::Settings(settings)))
            }
            FrameKind::GoAway => id().map(|id| Some(ControlFrame::GoAway(id))),
            FrameKind::MaxPushId => id().map(|id| Some(ControlFrame::MaxPushId(id))),
            // No push was ever promised or allowed, so no id can be right (RFC 9114 §7.2.3).
            FrameKind::CancelPush => id().and(Err(Fault::PushNotAllowed)),
            FrameKind::Data | FrameKind::Headers | FrameKind::PushPromise | FrameKind::Http2 | FrameKind::Unknown => {
                Ok(None)
            }
        }
    }
}

/// The state for a new stream of type `stream_type`; `None`: unknown, to be stopped. `critical` tells which of control,
/// encoder and decoder stream came before.
pub(crate) fn open(role: Role, stream_type: UniType, critical: &mut [bool; 3]) -> Result<Option<PeerUni>, Fault> {
    let [control, encoder, decoder] = critical;
    let (seen, state) = match (stream_type, role) {
        (UniType::Control, _) => (control, PeerUni::Control(ControlReader::new())),
        (UniType::Encoder, _) => (encoder, PeerUni::Encoder),
        (UniType::Decoder, _) => (decoder, PeerUni::Decoder(DecoderStream::default())),
        (UniType::Push, Role::Server) => return Err(Fault::PushStreamFromClient),
        (UniType::Push, Role::Client) => return Err(Fault::PushNotAllowed),
        (UniType::Unknown, _) => return Ok(None),
    };
    if std::mem::replace(seen, true) { Err(Fault::CriticalStreamRepeated) } else { Ok(Some(state)) }
}

/// Reads the peer's QPACK encoder stream.
pub(crate) fn read_encoder(shared: &mut Shared, data: &[u8]) -> Result<(), Fault> {
    if !encoder_stream_is_idle(data) {
        return Err(Fault::EncoderStream);
    }
    shared.spend(data.len() as u64)
}

/// Reads the peer's QPACK decoder stream.
pub(crate) fn read_decoder(shared: &mut Shared, stream: &mut DecoderStream, data: &[u8]) -> Result<(), Fault> {
    if !stream.handle(data) {
        return Err(Fault::DecoderStream);
    }
    shared.spend(data.len() as u64)
}
