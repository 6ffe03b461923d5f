//! Worlds in one thread: cores, links and a virtual clock. For tests only, never a dependency of the product.
//!
//! A [`World`] holds gateways and clients (the same [`Core`](moretta_core::Core) that the engine drives), targets, and
//! clients that are not ours ([`Peer`]), on links with delay, loss, reordering, duplication, corruption, MTU, rate and
//! address translation. Nothing in it looks at a clock or asks the system for randomness, not even TLS: a seed repeats
//! every packet bit by bit ([`Trace`]).

mod link;
mod network;
mod payload;
mod peer;
mod random;
mod repeatable;
mod tls;
mod trace;
mod wiretap;
mod world;

pub use link::{Fate, Link, LinkCounters, LinkModel};
pub use network::{Arrival, HostId, Network, NetworkCounters, Packet};
pub use payload::{Corrupt, MIN_BYTES, Stamp};
pub use peer::{Peer, Received, bytes3};
pub use random::Random;
pub use tls::{Identity, SERVER_NAME, START, SetupError};
pub use trace::{Trace, TraceEntry};
pub use wiretap::Tally;
pub use world::{ClientId, GatewaySpec, LISTENER_NAME, OpenedTunnel, PeerId, SiteId, TargetKind, World};
