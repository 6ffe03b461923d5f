//! Accepted tunnels: what each datagram and capsule may do, and how a tunnel ends. The same machines serve a gateway
//! and a client.

pub mod budget;
mod capsules;
mod counters;
pub mod udp;

pub use counters::{Traffic, TunnelCounters};

/// Which end of the request stream this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The UDP proxy: what arrives from the stream goes to the target.
    Proxy,
    /// The client: what arrives from the stream goes to the application.
    Client,
}
