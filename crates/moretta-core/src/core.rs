//! The core itself: what goes where.

use std::sync::Arc;

use crate::config::{CoreConfig, CoreSnapshot};
use crate::counters::Counters;
use crate::ids::FlowId;
use crate::input::Input;
use crate::interim::Now;
use crate::output::{Outputs, Wake};

/// One worker without I/O.
///
/// The contract: call [`handle`](Self::handle) for everything that arrived, then [`turn`](Self::turn) once, drain the
/// [`Outputs`], and wait as [`Wake`] says. Time never runs backwards between calls.
#[derive(Debug)]
pub struct Core {
    config: CoreConfig,
    snapshot: Arc<CoreSnapshot>,
    counters: Counters,
}

impl Core {
    /// A core with no links: it does nothing until it is given commands.
    #[must_use]
    pub fn new(config: CoreConfig, snapshot: Arc<CoreSnapshot>, now: Now) -> Self {
        let _ = now;
        Self { config, snapshot, counters: Counters::default() }
    }

    /// Takes one input. Cheap, so that a burst can be taken before a turn: packets are sorted into bounded inboxes,
    /// datagrams into bounded queues, the rest into lists.
    pub fn handle(&mut self, now: Now, input: Input<'_>) {
        let _ = (now, input, &self.config, &self.snapshot);
    }

    /// Does what is due, within its budget, and appends to `out`.
    pub fn turn(&mut self, now: Now, out: &mut Outputs) -> Wake {
        let _ = (now, out);
        self.counters.turns += 1;
        Wake::default()
    }

    /// How many bytes of datagrams the driver may read from this flow now. 0: stop reading, and wait for
    /// [`Action::ResumeFlow`](crate::Action::ResumeFlow); the kernel's buffer is the queue meanwhile.
    pub fn flow_share(&mut self, flow: FlowId) -> usize {
        let _ = flow;
        0
    }

    /// What happened so far, by reason.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }
}
