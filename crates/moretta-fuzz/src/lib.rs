//! The bodies of the fuzz targets: plain functions over bytes that panic when a promise is broken.
//!
//! `fuzz/` wraps each of them for cargo-fuzz (nightly, sanitizer, as long as wanted); `tests/smoke.rs` runs the same
//! functions over the committed corpus and seeded mutations of it, on the stable toolchain, in every `make test`.
//! A finding becomes a seed here and a test in the crate that it concerns. Nothing of the product depends on this crate.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic is how a target tells its finding"
)]

pub mod capsules;
pub mod client;
pub mod core;
pub mod fields;
mod forge;
pub mod h3;
pub mod host;
mod input;
mod known;
pub mod mutate;
mod naive;
mod seeds;
pub mod template_verdict;
mod tls;
pub mod varint_datagram;

pub use seeds::Seed;

/// One fuzz target.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name; that of its file in `fuzz/fuzz_targets` and of its folder in `fuzz/corpus`.
    pub name: &'static str,
    /// Takes any bytes; panics on a finding.
    pub run: fn(&[u8]),
    /// What its corpus begins with: small inputs that mean something.
    pub seeds: fn() -> Vec<Seed>,
    /// How many mutated inputs a smoke run tries: a second or two in the development profile.
    pub smoke_rounds: usize,
}

/// Every target.
pub const TARGETS: &[Target] = &[
    Target {
        name: "varint_datagram",
        run: varint_datagram::target,
        seeds: seeds::varint_datagram,
        smoke_rounds: 200_000,
    },
    Target { name: "capsules", run: capsules::target, seeds: seeds::capsules, smoke_rounds: 60_000 },
    Target { name: "fields", run: fields::target, seeds: seeds::fields, smoke_rounds: 20_000 },
    Target { name: "host", run: host::target, seeds: seeds::host, smoke_rounds: 50_000 },
    Target {
        name: "template_verdict",
        run: template_verdict::target,
        seeds: seeds::template_verdict,
        smoke_rounds: 20_000,
    },
    Target { name: "h3_server", run: h3::server, seeds: seeds::h3_server, smoke_rounds: 40_000 },
    Target { name: "core_datagrams", run: core::target, seeds: seeds::core_datagrams, smoke_rounds: 400 },
    Target { name: "core_client", run: client::target, seeds: seeds::core_client, smoke_rounds: 400 },
    Target { name: "h3_client", run: h3::client, seeds: seeds::h3_client, smoke_rounds: 40_000 },
];
