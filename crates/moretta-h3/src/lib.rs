//! HTTP/3 without a network, client and server: RFC 9114, RFC 9204 (static table only), RFC 9220, and of RFC 9297 the
//! setting and the gating of datagrams.
//!
//! A [`Connection`] is a value. Stream bytes, resets and datagrams go in (`handle_…`, `route_datagram`); events for the
//! application, actions for QUIC and bytes to write come out (`poll_…`, `front`). It has no clock, no socket and no
//! QUIC type, opens and closes nothing itself, and holds no bytes of a tunnel: DATA payloads are slices of what came
//! in, and what goes out is a small frame header followed by the caller's own `Bytes`.
//!
//! After every call that puts something in, take everything out: actions, then events, then writable streams.
//!
//! ```
//! use std::time::Instant;
//! use moretta_h3::{Action, Config, Connection, Event, Role};
//! use moretta_wire::head::{RequestHead, ResponseHead};
//!
//! /// Carries what `from` has to say to `to`; `uni` is the next unidirectional stream that `from` opens.
//! fn carry(from: &mut Connection, to: &mut Connection, mut uni: u64) {
//!     while let Some(action) = from.poll_action() {
//!         if let Action::OpenUni { kind } = action {
//!             from.handle_uni_opened(kind, uni);
//!             uni += 4;
//!         }
//!     }
//!     while let Some(stream) = from.poll_writable() {
//!         for bytes in from.front(stream).to_vec() {
//!             from.wrote(stream, bytes.len());
//!             to.handle_stream(Instant::now(), stream, bytes, false);
//!         }
//!         if from.wants_fin(stream) {
//!             from.wrote_fin(stream);
//!             to.handle_stream(Instant::now(), stream, Default::default(), true);
//!         }
//!     }
//! }
//!
//! let mut client = Connection::new(Role::Client, Config::default());
//! let mut server = Connection::new(Role::Server, Config::default());
//! client.start();
//! server.start();
//! carry(&mut client, &mut server, 2);
//! carry(&mut server, &mut client, 3);
//! assert_eq!(server.poll_event(), Some(Event::Settings));
//! assert_eq!(client.poll_event(), Some(Event::Settings));
//!
//! let head = RequestHead {
//!     method: "CONNECT".into(),
//!     protocol: Some("connect-udp".into()),
//!     scheme: Some("https".into()),
//!     authority: Some("proxy.example".into()),
//!     path: Some("/.well-known/masque/udp/192.0.2.6/443/".into()),
//!     ..RequestHead::default()
//! };
//! client.send_request(0, &head, false)?;
//! carry(&mut client, &mut server, 2);
//! assert_eq!(server.poll_event(), Some(Event::Request { stream_id: 0, head, fin: false }));
//!
//! server.send_response(0, &ResponseHead::new(200), false)?;
//! server.enable_datagrams(0);
//! carry(&mut server, &mut client, 3);
//! assert!(matches!(client.poll_event(), Some(Event::Response { stream_id: 0, interim: false, .. })));
//! # Ok::<(), moretta_h3::SendError>(())
//! ```

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
