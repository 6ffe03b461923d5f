//! Bytes to values and back, for everything a MASQUE endpoint reads or writes above QUIC and below HTTP semantics.
//!
//! What it never does: own a socket, read a clock, allocate per packet, or index without a length check. Parsers here
//! take whatever a hostile peer sends and return a value or a reason; none of them panics.
//!
//! | module | what | source |
//! |---|---|---|
//! | [`varint`] | QUIC variable-length integers | RFC 9000 §16 |
//! | [`datagram`] | Quarter Stream ID and Context ID in front of an HTTP Datagram | RFC 9297 §2.1, RFC 9298 §4 |
//! | [`capsule`] | capsule stream reader and writers | RFC 9297 §3 |
//! | [`head`] | request and response heads that know no HTTP version | RFC 9110, RFC 9114 §4.2.2 |
//! | [`host`] | `target_host` and `target_port` | RFC 9298 §3 |
//! | [`fields`] | Capsule-Protocol and Proxy-Status | RFC 9297 §3.4, RFC 9209 |
//! | [`prefix`] | which addresses are special | RFC 6890, RFC 9298 §7 |
//! | [`template`] | URI templates, expanded and matched | RFC 9298 §2, RFC 6570 |

pub mod capsule;
pub mod datagram;
pub mod fields;
pub mod head;
pub mod host;
pub mod prefix;
pub mod template;
pub mod varint;
