//! The I/O shell of moretta: worker threads with their sockets and pollers around [`moretta_core`], a helper thread for
//! names and control, and the border to control code.
//!
//! [`Engine`] is everything that the border offers: documents and secrets go down, events come up, and the datagrams of
//! an application's tunnels pass through [`TunnelQueue`]. Nothing here decides whether a tunnel may exist or how a
//! datagram is framed; that is `moretta-core`'s, which has no sockets.

// The support of tests/engine, which the tests of `engine` share, knows this crate by its name.
#[cfg(test)]
extern crate self as moretta_engine;

mod border;
mod clients;
mod control;
pub mod document;
mod engine;
mod error;
mod frontend;
mod helper;
mod instance;
mod ledger;
mod mailbox;
mod queue;
mod records;
mod stats;
mod tls;
mod worker;

pub use engine::{Engine, MAX_WORKERS};
pub use error::EngineError;
pub use queue::{QUEUE_BYTES, QueueCounters, SendOutcome, TunnelQueue, TunnelState};
