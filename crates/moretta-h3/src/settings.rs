//! SETTINGS (RFC 9114 §7.2.4).

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
