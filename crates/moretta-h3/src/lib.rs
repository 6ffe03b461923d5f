//! HTTP/3 without a network, client and server: RFC 9114, RFC 9204 (static table only), RFC 9220, and of RFC 9297 the
//! setting and the gating of datagrams.
//!
//! A [`Connection`] is a value. Stream bytes, resets and datagrams go in (`handle_…`, `route_datagram`); events for the
//! application, actions for QUIC and bytes to write come out (`poll_…`, `front`). It has no clock, no socket and no
//! QUIC type, opens and closes nothing itself, and holds no bytes of a tunnel: DATA payloads are slices of what came
//! in, and what goes out is a small frame header followed by the caller's own `Bytes`.
//!
//! After every call that puts something in, take everything out: actions, then events, then writable streams.

mod budget;
pub mod code;
mod config;
mod connection;
mod datagram;
mod event;
mod fault;
mod frame;
#[cfg(feature = "h3wire")]
pub mod h3wire_adapter;
mod output;
mod permission;
mod qpack;
mod request_stream;
mod send;
mod settings;
mod shared;
mod stream_ids;
mod uni;
mod validate;

pub use config::{Config, Role};
pub use connection::Connection;
pub use event::{Action, DatagramDrop, DatagramRoute, Event, SendError, UniKind};
pub use fault::{Counters, Fault, FaultCounters, Scope};
pub use settings::Settings;

/// A moment for unit tests; all of them reckon from it.
#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "an Instant cannot be made up")]
fn test_clock() -> std::time::Instant {
    std::time::Instant::now()
}
