//! What one connection is allowed to be and to cost.

use std::time::Duration;

/// Which end of the connection this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Sends requests.
    Client,
    /// Answers requests.
    Server,
}

/// Settings we announce and bounds we keep. Every bound is per connection.
#[derive(Clone, Debug)]
pub struct Config {
    /// Server: announce `SETTINGS_ENABLE_CONNECT_PROTOCOL = 1` (RFC 9220 §3) and accept `:protocol`. A client never
    /// announces it.
    pub enable_connect_protocol: bool,
    /// Announce `SETTINGS_H3_DATAGRAM = 1` (RFC 9297 §2.1.1). Only with a QUIC stack that takes DATAGRAM frames.
    pub h3_datagram: bool,
    /// Largest field section taken, counted as RFC 9114 §4.2.2 does (name + value + 32 per line); announced as
    /// `SETTINGS_MAX_FIELD_SECTION_SIZE`. A larger request is answered with 431. Also bounds what is buffered of one
    /// HEADERS frame.
    pub max_field_section_bytes: u64,
    /// Server: request streams with state at one time; one more is rejected with `H3_REQUEST_REJECTED`.
    pub max_open_requests: usize,
    /// Bytes of frames and streams without a use (unknown types, empty DATA, junk on uni streams) per minute; each
    /// such frame weighs at least 64. Above it: `H3_EXCESSIVE_LOAD`.
    pub max_unknown_frame_bytes: u64,
    /// Server: requests per minute that the client resets or stops before our final response is queued, or that it
    /// makes us reset by breaking a rule (rapid reset and its relatives). Above it: `H3_EXCESSIVE_LOAD`.
    pub max_cancelled_requests: u64,
    /// Bytes of datagrams held for requests that are not there or not decided yet; each weighs at least 64.
    pub early_datagram_bytes: usize,
    /// How long such a datagram is held.
    pub early_datagram_time: Duration,
    /// Server: content of one ordinary request (not CONNECT). Announced too long: 413; found too long: the stream is
    /// aborted with `H3_EXCESSIVE_LOAD`.
    pub max_request_body_bytes: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            enable_connect_protocol: true,
            h3_datagram: true,
            max_field_section_bytes: 16 * 1024,
            max_open_requests: 1024,
            max_unknown_frame_bytes: 1024 * 1024,
            max_cancelled_requests: 200,
            early_datagram_bytes: 64 * 1024,
            early_datagram_time: Duration::from_secs(1),
            max_request_body_bytes: 1024 * 1024,
        }
    }
}
