//! One worker without I/O: the part of moretta that moves datagrams.
//!
//! A [`Core`] is a value. It is handed packets, datagrams, answers and commands by [`Core::handle`], does what is due in
//! [`Core::turn`], and says through [`Outputs`] what to send, open, ask and record, and through [`Wake`] when it wants to
//! run again. It owns QUIC endpoints and connections (quinn-proto), their HTTP/3 (`moretta-h3`), the tunnels
//! (`moretta-proto`), all queues, timers, and the order in which things happen.
//!
//! It never opens a socket, starts a thread, reads a clock, or asks the system for randomness: with the same seed and
//! the same inputs it repeats itself, so that whole worlds run in a test. `moretta-engine` drives it in the product,
//! `moretta-sim` under a virtual clock.

mod address;
mod admission;
mod cid;
mod client;
mod coalesce;
mod config;
mod congestion;
mod connection;
mod core;
mod counters;
mod demux;
mod drain;
mod endpoint;
mod ends;
mod http;
mod ids;
mod input;
mod levels;
mod lifecycle;
mod output;
mod queue;
mod random;
mod records;
mod request;
mod start_over;
mod store;
mod timer;
mod tokens;
mod transmit;
mod tunnel;
mod turn;

/// HTTP/3 as the core drives it. The adapter stands for our own implementation in tests: same methods, same events.
#[cfg(feature = "h3wire")]
pub(crate) type Http3 = moretta_h3::h3wire_adapter::Connection;
#[cfg(not(feature = "h3wire"))]
pub(crate) type Http3 = moretta_h3::Connection;

pub use cid::{CONNECTION_ID_OCTETS, Destination};
pub use client::GatewayPath;
pub use config::{ConnectionCount, CoreConfig, CoreSnapshot, Shared, TransportOptions};
pub use core::Core;
pub use counters::Counters;
pub use ids::{FlowId, GatewayId, LinkId, QueryId, SlotId, TunnelId, TunnelToken};
pub use input::{Command, FlowError, FlowKind, FlowPath, Input, OpenGateway, OpenUdp, Train};
pub use levels::Levels;
pub use moretta_proto::Now;
pub use output::{
    Action, ClosedRecord, Event, GatewayFailure, OpenedRecord, Outputs, Record, RefusedRecord, TrainOut, TunnelFacts,
    Wake,
};
pub use queue::DATAGRAM_OVERHEAD;
pub use tokens::{SharedTokenLog, TokenKeys};

/// A moment for unit tests; all of them reckon from it.
#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "an Instant cannot be made up")]
fn test_clock() -> std::time::Instant {
    std::time::Instant::now()
}
