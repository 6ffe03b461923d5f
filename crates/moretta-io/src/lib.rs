//! Batched UDP, packet steering, readiness and the few facts about the host that a worker needs.
//!
//! This crate turns system calls into values: trains of datagrams in and out ([`UdpSocket`], [`ReceiveBatch`],
//! [`FlowBuffers`], [`SendBatch`]), readiness with nanosecond deadlines ([`Poller`], [`WakeFd`]), the program that
//! tells the kernel which socket of a group a QUIC packet belongs to ([`steering`]), and the addresses of this host
//! ([`OwnAddresses`]). It knows nothing of QUIC beyond the first bytes that steering looks at, keeps no clock, starts
//! no thread and never blocks except in [`Poller::wait`].
//!
//! It is the only crate of the workspace with `unsafe` code; every block states why it is sound.
#![allow(unsafe_code, reason = "system calls without a safe wrapper; every block has a SAFETY comment")]
#![warn(clippy::undocumented_unsafe_blocks)]

#[cfg(not(target_os = "linux"))]
compile_error!("moretta-io knows Linux only so far; a port adds its own module beside `sys`");

mod address;
mod control;
mod counters;
mod error;
mod group;
mod messages;
mod own_addresses;
mod poller;
mod process;
mod receive;
mod send;
mod socket;
pub mod steering;
mod sys;

pub use counters::{ErrorCounts, SocketCounters};
pub use error::{ErrorKind, OpenError, Operation, ReportedError};
pub use group::ReuseportGroup;
pub use own_addresses::OwnAddresses;
pub use poller::{Events, Interest, PollEvent, Poller, Trigger, WakeFd};
pub use process::{raise_fd_limit, set_timer_slack};
pub use receive::{FlowBuffers, ReceiveBatch, ReceivedTrain};
pub use send::{MAX_TRAIN_BYTES, MAX_TRAIN_SEGMENTS, OutgoingTrain, SendBatch, SendOutcome};
pub use socket::{Refuse, SocketOptions, UdpSocket};
