//! Decisions and tunnel machines: which tunnels are opened, by which rule, and what each datagram of them may do.
//!
//! Everything here is a function of its arguments. There is no socket, no clock, no environment, no lock and no
//! randomness: time comes in as [`Now`], names are resolved by whoever is asked to, and counts shared between workers
//! are drawn from a [`ledger::Ledger`]. `moretta-core` drives it; `moretta-engine` builds [`snapshot::Snapshot`]s.
//!
//! | module | what | source |
//! |---|---|---|
//! | [`error`] | the one table of refusals, tunnel ends and drops | RFC 9209, RFC 9114 §8.1 |
//! | [`profile`] | hardened or interop, and every knob between them | C |
//! | [`limits`] | every bound with default and range | |
//! | [`policy`] | rules, compiled; verdicts and their explanation | C-15, AU-4 |
//! | [`snapshot`] | all of the above in one version | |
//! | [`request`] | heads to [`request::TunnelRequest`]s and back | RFC 9298 §3 |
//! | [`admission`] | from request to 2xx, in one order | |
//! | [`ledger`] | exact counts shared by workers | |
//! | [`tunnel`] | accepted tunnels | RFC 9297 §3, RFC 9298 §4–5 |

pub mod admission;
pub mod auth;
pub mod error;
pub mod ledger;
pub mod limits;
pub mod policy;
pub mod profile;
pub mod request;
pub mod snapshot;

mod suggest;
pub mod tunnel;

use std::time::{Duration, Instant};

/// The time, handed in by whoever has a clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Monotonic; every timer is measured with it.
    pub instant: Instant,
    /// Since the Unix epoch; may jump; only for records and expiry dates.
    pub unix: Duration,
}

/// Which kind of tunnel a rule or a request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// CONNECT-UDP (RFC 9298).
    Udp,
    /// CONNECT and templated connect-tcp.
    Tcp,
    /// CONNECT-IP (RFC 9484).
    Ip,
}

impl Protocol {
    /// The word in rules, records and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Ip => "ip",
        }
    }
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}
