//! What all streams of a connection share.

use std::collections::VecDeque;
use std::time::Instant;

use crate::budget::Budget;
use crate::config::{Config, Role};
use crate::event::{Action, Event};
use crate::fault::{Counters, Fault};

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) role: Role,
    pub(crate) config: Config,
    pub(crate) events: VecDeque<Event>,
    pub(crate) actions: VecDeque<Action>,
    pub(crate) counters: Counters,
    /// The last time a call told us; budgets refill by it.
    pub(crate) now: Option<Instant>,
    /// Bytes of HEADERS payloads that are not complete, all streams together.
    pub(crate) section_bytes: u64,
    useless: Budget,
    cancelled: Budget,
}

impl Shared {
    /// What a frame or stream without a use weighs, beside its bytes.
    pub(crate) const USELESS_FRAME: u64 = 64;

    /// Field sections of the largest size that may be incomplete at one time.
    const PARTIAL_SECTIONS: u64 = 16;

    pub(crate) fn new(role: Role, config: Config) -> Self {
        Self {
            role,
            useless: Budget::new(config.max_unknown_frame_bytes),
            cancelled: Budget::new(config.max_cancelled_requests),
            config,
            events: VecDeque::new(),
            actions: VecDeque::new(),
            counters: Counters::default(),
            now: None,
            section_bytes: 0,
        }
    }

    /// Whether `bytes` more of an incomplete HEADERS payload may be kept.
    pub(crate) fn reserve_section(&mut self, bytes: usize) -> bool {
        self.section_bytes += bytes as u64;
        self.section_bytes <= self.config.max_field_section_bytes.saturating_mul(Self::PARTIAL_SECTIONS)
    }

    /// Charges bytes without a use.
    pub(crate) fn spend(&mut self, bytes: u64) -> Result<(), Fault> {
        self.counters.useless_bytes += bytes;
        if self.useless.take(self.now, bytes) { Ok(()) } else { Err(Fault::UselessBytes) }
    }

    /// Charges a request that ended before its answer.
    pub(crate) fn spend_cancelled(&mut self) -> Result<(), Fault> {
        if self.role == Role::Client {
            return Ok(());
        }
        self.counters.cancelled += 1;
        if self.cancelled.take(self.now, 1) { Ok(()) } else { Err(Fault::CancelledRequests) }
    }
}
