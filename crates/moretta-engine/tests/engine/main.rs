//! The engine over real sockets on loopback, driven as the package drives it.
#![allow(
    unreachable_pub,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    clippy::type_complexity,
    clippy::must_use_candidate,
    clippy::new_without_default,
    reason = "tests look for the one event that they are about"
)]

mod forward;
mod lifecycle;
mod load;
mod names;
mod support;
mod tunnels;
mod workers;
