//! SETTINGS (RFC 9114 §7.2.4).

use moretta_wire::varint;

use crate::config::{Config, Role};
use crate::fault::Fault;
use crate::frame;

const MAX_FIELD_SECTION_SIZE: u64 = 0x06;
const ENABLE_CONNECT_PROTOCOL: u64 = 0x08;
const H3_DATAGRAM: u64 = 0x33;

/// Largest SETTINGS payload read: a hundred times what any known peer sends.
pub(crate) const MAX_PAYLOAD_BYTES: u64 = 4096;

/// What the peer announced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// `SETTINGS_ENABLE_CONNECT_PROTOCOL` = 1 (RFC 9220 §3).
    pub enable_connect_protocol: bool,
    /// `SETTINGS_H3_DATAGRAM` = 1 (RFC 9297 §2.1.1).
    pub h3_datagram: bool,
    /// `SETTINGS_MAX_FIELD_SECTION_SIZE`; `None` = no limit.
    pub max_field_section_bytes: Option<u64>,
}

impl Settings {
    /// Reads a SETTINGS payload. Unknown identifiers are ignored (§7.2.4), those of HTTP/2 and repeated ones are not.
    /// The QPACK settings are limits for an encoder with a dynamic table, which we are not.
    pub(crate) fn parse(mut payload: &[u8]) -> Result<Self, Fault> {
        let mut settings = Self::default();
        let mut seen = Vec::new();
        while !payload.is_empty() {
            let id = take(&mut payload)?;
            let value = take(&mut payload)?;
            seen.push(id);
            match id {
                0x00 | 0x02..=0x05 => return Err(Fault::SettingsReserved),
                MAX_FIELD_SECTION_SIZE => settings.max_field_section_bytes = Some(value),
                ENABLE_CONNECT_PROTOCOL => settings.enable_connect_protocol = boolean(value)?,
                H3_DATAGRAM => settings.h3_datagram = boolean(value)?,
                _ => {}
            }
        }
        seen.sort_unstable();
        let count = seen.len();
        seen.dedup();
        if seen.len() < count { Err(Fault::SettingsDuplicate) } else { Ok(settings) }
    }
}

fn take(payload: &mut &[u8]) -> Result<u64, Fault> {
    let (value, used) = varint::decode(payload).ok_or(Fault::FrameLayout)?;
    *payload = payload.get(used..).unwrap_or_default();
    Ok(value)
}

fn boolean(value: u64) -> Result<bool, Fault> {
    match value {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Fault::SettingsValue),
    }
}

/// Our SETTINGS frame. QPACK settings are left out: their defaults, 0, are what we want.
pub(crate) fn encode(role: Role, config: &Config) -> Vec<u8> {
    let mut payload = Vec::new();
    let mut pair = |id: u64, value: u64| {
        varint::encode(id, &mut payload);
        varint::encode(value, &mut payload);
    };
    pair(MAX_FIELD_SECTION_SIZE, config.max_field_section_bytes.min(varint::MAX));
    if role == Role::Server && config.enable_connect_protocol {
        pair(ENABLE_CONNECT_PROTOCOL, 1);
    }
    if config.h3_datagram {
        pair(H3_DATAGRAM, 1);
    }
    let mut out = Vec::new();
    frame::write_header(frame::SETTINGS, payload.len(), &mut out);
    out.extend_from_slice(&payload);
    out
}
