//! A worker: one thread, one core, its sockets and its poller. It shares nothing mutable with other threads on the way
//! of a packet.
//!
//! Each round: inbox → receive from links → receive from ready flows → the core's turn → send and act → wait as the
//! core says. Only the last step may block.

mod actions;
mod flows;
mod gateways;
mod inbox;
mod links;
mod receive;
mod report;
mod start_over;

use crate::border::RECORD_DELAY;
use crate::document::{Event, PongFailed};
use crate::frontend::Forward;
use crate::instance::Instance;
use crate::mailbox::{Mailbox, Message};
use crate::queue::TunnelQueue;
use crate::stats::{Reasons, ShellCounters, WorkerStats};
use flows::Flows;
use links::{LinkUse, Links};
use moretta_core::{Action, Core, FlowId, LinkId, Now, Outputs, TunnelToken, Wake};
use moretta_io::{
    ErrorKind, Events, FlowBuffers, Interest, OpenError, Poller, ReceiveBatch, SendBatch, SocketCounters, Trigger,
    set_timer_slack,
};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Messages of one receive call on a link: 32 trains are up to 2,048 packets.
const LINK_TRAINS: usize = 32;
/// Messages of one receive call on a flow.
const FLOW_MESSAGES: usize = 32;
/// Events taken from the poller at once; what is left comes with the next wait.
const POLL_EVENTS: usize = 1024;
/// How long a closing worker waits for its last packets to be due.
const CLOSE_TIME: Duration = Duration::from_millis(500);

/// Poll keys: two bits of kind above what names the thing.
const KEY_KIND_SHIFT: u32 = 62;
const KEY_WAKE: u64 = 0;
const KEY_LINK: u64 = 1;
const KEY_FLOW: u64 = 2;
const KEY_FORWARD: u64 = 3;
/// Generations are compared in full when the flow is looked up; the key holds what fits beside the index.
const KEY_GENERATION_BITS: u32 = 30;

/// A gateway as its worker knows it.
#[derive(Debug)]
struct Gateway {
    /// In use, the latest at the end.
    links: Vec<LinkId>,
    started: Instant,
    handshake: Option<Duration>,
    /// Pings that were sent, each with the acknowledgements before it.
    pings: Vec<(u64, u64)>,
    /// What is left to try; None when the last attempt is under way, or one has succeeded.
    attempts: Option<gateways::Attempts>,
    /// The address of the attempt under way, if there is but one.
    only_remote: Option<SocketAddr>,
    /// It said that nothing listens there.
    refused: bool,
}

/// A client tunnel as its worker knows it.
#[derive(Debug)]
struct Local {
    end: LocalEnd,
    flow: Option<FlowId>,
}

#[derive(Debug, Clone)]
enum LocalEnd {
    Application(Arc<TunnelQueue>),
    Peer { forward: u64 },
}

/// Everything of a worker but its core, so that both can be borrowed at once.
pub(crate) struct Shell {
    index: usize,
    instance: Arc<Instance>,
    mailbox: Arc<Mailbox>,
    poller: Poller,
    links: Links,
    /// Names of the listeners in force, and whether only this host reaches them.
    listeners: Vec<(LinkId, String, bool)>,
    flows: Flows,
    forwards: Vec<Forward>,
    /// Datagrams may wait on these forwards.
    forwards_readable: bool,
    gateways: HashMap<u64, Gateway>,
    /// Pings of all gateways that have no answer yet.
    pings: usize,
    locals: HashMap<TunnelToken, Local>,
    next_token: u64,
    receive: ReceiveBatch,
    flow_buffers: FlowBuffers,
    send: SendBatch,
    train: Vec<u8>,
    counters: ShellCounters,
    gateway_tunnels: Reasons,
    client_tunnels: Reasons,
    closed_forwards: SocketCounters,
    closed_forward_counts: crate::frontend::ForwardCounters,
    /// A drain was asked for and has not been reported.
    draining: bool,
    /// The deadline of the drain under way, or of the one that is over: nothing is taken since.
    drain: Option<Instant>,
    closing: Option<Instant>,
    drained: bool,
    /// The core was given a command since the last look.
    fed: bool,
    #[cfg(test)]
    fails_for_good: bool,
    /// When the oldest record was queued that control code was not woken for.
    records_since: Option<Instant>,
}

/// One worker.
pub(crate) struct Worker {
    core: Core,
    shell: Shell,
    outputs: Outputs,
    actions: Vec<Action>,
    /// Taken from the inbox and not handled yet, the next one at the end.
    messages: Vec<Message>,
    notified: Vec<u64>,
    events: Events,
}

impl Worker {
    /// Everything that can fail, before the thread starts.
    pub(crate) fn new(index: usize, core: Core, instance: Arc<Instance>) -> Result<Self, OpenError> {
        let poller = Poller::new()?;
        let Some(mailbox) = instance.workers.get(index).map(Arc::clone) else {
            return Err(OpenError {
                operation: moretta_io::Operation::Create,
                kind: ErrorKind::Other(0),
                address: None,
            });
        };
        poller
            .register(
                std::os::fd::AsFd::as_fd(mailbox.wake_fd()),
                KEY_WAKE << KEY_KIND_SHIFT,
                Interest::Readable,
                Trigger::Level,
            )
            .map_err(|kind| OpenError { operation: moretta_io::Operation::Create, kind, address: None })?;
        let shell = Shell {
            index,
            instance,
            mailbox,
            poller,
            links: Links::default(),
            listeners: Vec::new(),
            flows: Flows::default(),
            forwards: Vec::new(),
            forwards_readable: false,
            gateways: HashMap::new(),
            pings: 0,
            locals: HashMap::new(),
            next_token: 0,
            receive: ReceiveBatch::new(LINK_TRAINS),
            flow_buffers: FlowBuffers::new(FLOW_MESSAGES),
            send: SendBatch::new(),
            train: Vec::new(),
            counters: ShellCounters::default(),
            gateway_tunnels: Reasons::default(),
            client_tunnels: Reasons::default(),
            closed_forwards: SocketCounters::default(),
            closed_forward_counts: crate::frontend::ForwardCounters::default(),
            draining: false,
            drain: None,
            closing: None,
            drained: false,
            fed: false,
            #[cfg(test)]
            fails_for_good: false,
            records_since: None,
        };
        Ok(Self {
            core,
            shell,
            outputs: Outputs::new(),
            actions: Vec::new(),
            messages: Vec::new(),
            notified: Vec::new(),
            events: Events::with_capacity(POLL_EVENTS),
        })
    }

    /// Runs until it was told to close; returns its last counters.
    pub(crate) fn run(mut self) -> WorkerStats {
        set_timer_slack();
        // What a panic leaves half done is the core, which is replaced; the shell's books bear a missing entry.
        while catch_unwind(AssertUnwindSafe(|| self.round())).unwrap_or_else(|_panic| self.start_over()) {}
        self.stats()
    }

    /// One round; false after the last one.
    fn round(&mut self) -> bool {
        let now = now();
        self.take_inbox(now);
        self.receive(now);
        let wake = self.core.turn(now, &mut self.outputs);
        let fed = self.act(now);
        self.answer_pings();
        self.report_idle_listeners();
        self.shell.ring_for_records(now.instant);
        !self.is_over(now.instant) && self.wait(wake, fed)
    }

    fn is_over(&self, now: Instant) -> bool {
        self.shell.closing.is_some_and(|deadline| self.shell.drained || now >= deadline)
    }

    /// Waits for packets, messages or the next timer. False when the poller itself fails, which nothing repairs.
    fn wait(&mut self, wake: Wake, fed: bool) -> bool {
        let busy = wake.again_now || fed || self.shell.has_work();
        let mut timeout = Duration::ZERO;
        if !busy {
            let now = Instant::now();
            if let Some(not_before) = wake.not_before {
                coalesce(not_before.saturating_duration_since(now));
            } else if self.shell.mailbox.arm() {
                let due = [wake.at, self.shell.due()].into_iter().flatten().min();
                return self.poll(due.map(|due| due.saturating_duration_since(now)));
            }
            timeout = Duration::ZERO;
        }
        self.poll(Some(timeout))
    }

    fn poll(&mut self, timeout: Option<Duration>) -> bool {
        self.shell.counters.polls += 1;
        let result = self.shell.poller.wait(&mut self.events, timeout);
        self.shell.mailbox.disarm();
        self.polled();
        result.is_ok()
    }

    fn stats(&mut self) -> WorkerStats {
        let shell = &mut self.shell;
        let mut stats = WorkerStats {
            core: *self.core.counters(),
            shell: shell.counters,
            gateway_tunnels: shell.gateway_tunnels.clone(),
            client_tunnels: shell.client_tunnels.clone(),
            connections: self.core.connections(),
            tunnels: self.core.tunnels(),
            links: shell.links.counters(),
            flows: shell.flows.counters(),
            forwards: shell.closed_forward_counts,
            forward_sockets: shell.closed_forwards,
            ring_dropped: shell.mailbox.ring_dropped(),
            open_target_sockets: shell.flows.socket_count(),
            open_links: shell.links.len(),
            open_gateways: shell.gateways.len(),
            open_forwards: shell.forwards.len(),
            forward_peers: shell.forwards.iter().map(Forward::peers).sum(),
            ready_flows: shell.flows.ready_count(),
        };
        for forward in &mut shell.forwards {
            forward.socket.refresh_drops();
            stats.forwards.add(&forward.counters);
            stats.forward_sockets.add(forward.socket.counters());
        }
        stats
    }
}

impl Shell {
    /// Something can be read without waiting.
    fn has_work(&self) -> bool {
        self.links.any_readable() || self.flows.ready_count() > 0 || self.forwards_readable
    }

    /// The shell's own next timer.
    fn due(&self) -> Option<Instant> {
        let records = self.records_since.map(|since| since + RECORD_DELAY);
        self.forwards.iter().map(Forward::next_sweep).chain(self.closing).chain(records).min()
    }

    /// Wakes control code for records that have waited long enough.
    fn ring_for_records(&mut self, now: Instant) {
        if self.records_since.is_some_and(|since| now >= since + RECORD_DELAY) {
            self.records_since = None;
            self.instance.border.ring();
        }
    }

    /// A number for a front end's tunnel that no other worker gives.
    fn fresh_token(&mut self) -> TunnelToken {
        self.next_token += 1;
        let worker = (self.index as u64) << 56;
        TunnelToken(crate::instance::FRONT_END_TOKEN | worker | self.next_token)
    }

    /// Forgets a gateway and closes its sockets.
    fn forget_gateway(&mut self, gateway: u64) {
        if let Some(known) = self.gateways.remove(&gateway) {
            self.pings -= known.pings.len();
            for (ping, _) in known.pings {
                let failed = PongFailed { gateway, ping, reason: "gateway_closed".into() };
                self.instance.border.push(Event::PongFailed(failed));
            }
        }
        let instance = &self.instance;
        self.links.close(|link| {
            let over = link.usage == LinkUse::Gateway(gateway);
            if over {
                instance.remove_own_socket(link.socket.local_address());
            }
            over
        });
    }
}

fn link_key(link: LinkId) -> u64 {
    KEY_LINK << KEY_KIND_SHIFT | u64::from(link.0)
}

fn flow_key(flow: FlowId) -> u64 {
    let generation = u64::from(flow.generation) & ((1 << KEY_GENERATION_BITS) - 1);
    KEY_FLOW << KEY_KIND_SHIFT | generation << 32 | u64::from(flow.index)
}

/// Both clocks at once.
fn now() -> Now {
    Now { instant: Instant::now(), unix: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default() }
}

/// Lets batches deepen under load: at most 150 µs, and only at rates where the core saw that it pays.
#[allow(clippy::disallowed_methods, reason = "the core asked for this pause; sockets must not end it early")]
fn coalesce(pause: Duration) {
    if !pause.is_zero() {
        std::thread::sleep(pause);
    }
}
