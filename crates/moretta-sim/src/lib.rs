//! Worlds in one thread: cores, links and a virtual clock. For tests only.
mod link;
mod network;
mod payload;
mod random;
mod trace;

pub use link::{Fate, Link, LinkCounters, LinkModel};
pub use network::{Arrival, HostId, Network, NetworkCounters, Packet};
pub use payload::{Corrupt, MIN_BYTES, Stamp};
pub use random::Random;
pub use trace::{Trace, TraceEntry};
