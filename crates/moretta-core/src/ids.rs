//! The small names that cross the border between the core and whoever drives it.
//!
//! Everything is a plain value: nothing here owns a resource, and a stale name never reaches the wrong thing because
//! whatever is reused carries a generation.

use std::fmt;

/// A place where QUIC packets leave and arrive: one socket of a listener, one socket of a client, or later a tunnel
/// that carries another connection. The driver chooses the number and keeps it unique among the links that are open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u32);

/// What a tunnel sends to and receives from: a connected socket, or the application that opened a client tunnel.
///
/// The index is reused, the generation tells apart what had it before: inputs that name an old generation are counted
/// ([`Counters::stale_flow_inputs`](crate::Counters::stale_flow_inputs)) and ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowId {
    /// Dense, so that the driver may keep its flows in a vector.
    pub index: u32,
    /// Rises each time the index is taken.
    pub generation: u32,
}

/// One worker of one running instance: the low five bits of octet 0 of every connection ID it issues.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotId(u8);

impl SlotId {
    /// How many slots an octet can tell apart.
    pub const COUNT: usize = 32;

    /// `None` above 31.
    #[must_use]
    pub const fn new(slot: u8) -> Option<Self> {
        if (slot as usize) < Self::COUNT { Some(Self(slot)) } else { None }
    }

    /// The slot that the first octet of a connection ID names; every octet names one.
    #[must_use]
    pub const fn of_octet(octet: u8) -> Self {
        Self(octet & 0b0001_1111)
    }

    /// 0 to 31.
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }
}

/// A client's relation to one proxy; outlives the QUIC connections that serve it. Chosen by the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GatewayId(pub u64);

/// A client tunnel as its application knows it. Chosen by the driver, unique among open tunnels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TunnelToken(pub u64);

/// A tunnel as logs and records know it: unique within one core for its lifetime, never on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TunnelId(pub u64);

/// One question to the resolver; never reused within a core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueryId(pub u64);

macro_rules! display_number {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    )*};
}
display_number!(LinkId, SlotId, GatewayId, TunnelToken, TunnelId, QueryId);
