//! Fixed courses of events through a gateway's core, to be counted in instructions or timed.
//!
//! A [`Trace`] does the same work in every round: datagrams of one size one way, a connection from its first packet to
//! its end, a request head read. Only what the gateway does is measured ([`Meter`]); the client, which is a core too, and
//! the links between them are not. What a trace claims to deliver it checks as it goes, so that a figure never stands for
//! work that was not done.
//!
//! Three things run them: `make instructions` under callgrind, against the committed baseline; `make bench-micro` by
//! criterion, in nanoseconds; and the tests of this crate, a few rounds each.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a trace that does not do what it claims must not be measured"
)]

mod meter;
mod relay;
mod rig;
mod steps;

pub use meter::Meter;

/// Work that can be done again and again.
pub trait Trace {
    /// Does one round of it; returns how many items the gateway handled.
    fn round(&mut self, meter: &mut Meter) -> u64;
}

/// What can be measured.
pub struct Spec {
    /// For the command line and the baseline.
    pub name: &'static str,
    /// What one item is, in words.
    pub item: &'static str,
    /// Rounds under callgrind: enough for what happens now and then (acknowledgements, timers) to be in the mean.
    pub rounds: u32,
    /// Sets everything up and warms it.
    pub make: fn() -> Box<dyn Trace>,
}

/// Every trace.
pub const TRACES: &[Spec] = &[
    Spec { name: "up-1200", item: "datagram", rounds: 150, make: || relay::up(1200, 8) },
    Spec { name: "up-1200-single", item: "datagram", rounds: 150, make: || relay::up_single(1200, 8) },
    Spec { name: "down-1200", item: "datagram", rounds: 150, make: || relay::down(1200, 8) },
    Spec { name: "up-64", item: "datagram", rounds: 60, make: || relay::up(64, 64) },
    Spec { name: "down-64", item: "datagram", rounds: 60, make: || relay::down(64, 64) },
    Spec { name: "capsules-up-1200", item: "datagram", rounds: 150, make: || relay::capsules_up(1200, 8) },
    Spec { name: "capsules-down-1200", item: "datagram", rounds: 150, make: || relay::capsules_down(1200, 8) },
    Spec { name: "connection", item: "connection with a tunnel", rounds: 40, make: relay::full_handshakes },
    Spec { name: "connection-resumed", item: "connection with a tunnel", rounds: 40, make: relay::resumed_handshakes },
    Spec { name: "tunnel", item: "tunnel opened and closed", rounds: 300, make: relay::tunnels },
    Spec { name: "varint", item: "varint", rounds: 100, make: steps::varints },
    Spec { name: "capsules", item: "chunk of 16 capsules", rounds: 100, make: steps::capsules },
    Spec { name: "datagram-route", item: "HTTP Datagram", rounds: 100, make: steps::datagrams },
    Spec { name: "request-head", item: "HEADERS frame", rounds: 50, make: steps::heads },
    Spec { name: "request-parse", item: "request head", rounds: 50, make: steps::requests },
    Spec { name: "template-match", item: "path", rounds: 50, make: steps::paths },
    Spec { name: "policy-address", item: "address against 1,000 rules", rounds: 50, make: steps::policy_addresses },
    Spec { name: "policy-name", item: "name against 1,000 rules", rounds: 50, make: steps::policy_names },
];

/// What the processor says that it can do, as far as code here or in libraries is chosen by it. Under valgrind this is
/// valgrind's processor, which knows neither AVX-512 nor VAES: cryptography takes another way there than in production.
pub fn cpu_features() -> Vec<&'static str> {
    #[cfg(target_arch = "x86_64")]
    {
        macro_rules! present {
            ($($name:tt),*) => { [$(($name, std::arch::is_x86_feature_detected!($name))),*] };
        }
        let features = present!(
            "sse4.1",
            "sse4.2",
            "ssse3",
            "popcnt",
            "aes",
            "pclmulqdq",
            "avx",
            "avx2",
            "bmi1",
            "bmi2",
            "adx",
            "fma",
            "sha",
            "rdrand",
            "rdseed",
            "vaes",
            "vpclmulqdq",
            "avx512f"
        );
        features.into_iter().filter_map(|(name, is_there)| is_there.then_some(name)).collect()
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        Vec::new()
    }
}
