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

mod cid;
mod config;
mod core;
mod counters;
mod ids;
mod input;
pub mod interim;
mod output;
mod random;
mod tokens;

pub use cid::{CONNECTION_ID_OCTETS, Destination};
pub use config::{CoreConfig, CoreSnapshot, Shared, TransportOptions};
pub use core::Core;
pub use counters::Counters;
pub use ids::{FlowId, GatewayId, LinkId, QueryId, SlotId, TunnelId, TunnelToken};
pub use input::{Command, FlowError, FlowKind, Input, OpenGateway, Train};
pub use interim::Now;
pub use output::{
    Action, ClosedRecord, Event, GatewayFailure, OpenedRecord, Outputs, Record, RefusedRecord, TrainOut, TunnelFacts,
    Wake,
};
pub use tokens::{SharedTokenLog, TokenKeys};
