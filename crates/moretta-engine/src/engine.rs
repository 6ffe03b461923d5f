//! The handle: everything that the border offers.

use crate::border::{Border, PROMISE_LIMIT, lock};
use crate::control::{self, Snapshots, to_helper};
use crate::document::{Closed, EngineConfig, Event, Submission, parse};
use crate::error::EngineError;
use crate::helper::{self, HELPER_INBOX, HelperMessage, NameStats};
use crate::instance::Instance;
use crate::ledger::EngineLedger;
use crate::mailbox::{Mailbox, Message};
use crate::queue::TunnelQueue;
use crate::stats::{self, InstanceStats, WorkerStats};
use crate::worker::Worker;
use moretta_core::{Core, CoreConfig, CoreSnapshot, Now, SharedTokenLog, SlotId, TokenKeys, TransportOptions};
use moretta_io::{OpenError, OwnAddresses, raise_fd_limit};
use std::os::fd::{AsFd, BorrowedFd, RawFd};
use std::sync::atomic::Ordering;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc;
use zeroize::Zeroizing;

/// Most workers of one engine: the slot of a connection ID has five bits.
pub const MAX_WORKERS: usize = SlotId::COUNT;
/// Used address tokens that are remembered, all workers together; a full log refuses further tokens, which costs their
/// senders a round trip.
const TOKEN_LOG_ENTRIES: usize = 65_536;
/// How long `stats` waits for a busy worker before it shows that worker's last answer.
const STATS_PATIENCE: Duration = Duration::from_millis(100);

/// A running engine. All methods may be called from any thread; none waits for the network, and only
/// [`Engine::close`] and, briefly, [`Engine::stats`] wait at all.
#[derive(Debug)]
pub struct Engine {
    instance: Arc<Instance>,
    /// Guards the threads; empty once the engine is closed.
    threads: Mutex<Threads>,
    /// Guards the latest answer of each worker.
    last_stats: Mutex<Vec<WorkerStats>>,
}

#[derive(Debug, Default)]
struct Threads {
    workers: Vec<JoinHandle<WorkerStats>>,
    helper: Option<JoinHandle<()>>,
}

impl Engine {
    /// Starts the threads of an engine that does not listen yet.
    ///
    /// `config`: an [`EngineConfig`] document.
    ///
    /// # Errors
    /// [`EngineError::Document`], or [`EngineError::System`] when the system refuses threads or descriptors.
    pub fn start(config: &[u8]) -> Result<Self, EngineError> {
        Self::start_with(config, PROMISE_LIMIT)
    }

    fn start_with(config: &[u8], promise_limit: usize) -> Result<Self, EngineError> {
        let config: EngineConfig = parse(config)?;
        let workers = match config.workers {
            Some(workers) if (1..=MAX_WORKERS).contains(&workers) => workers,
            Some(_) => return Err(EngineError::document("workers", format!("must be 1 to {MAX_WORKERS}, or null"))),
            None => std::thread::available_parallelism().map_or(1, usize::from).min(MAX_WORKERS),
        };
        let border = Arc::new(Border::new(promise_limit).map_err(system("create the wake-up descriptor"))?);
        let ledger = Arc::new(EngineLedger::new(Arc::clone(&border), raise_fd_limit()));
        let mailboxes: Vec<Arc<Mailbox>> = (0..workers)
            .map(|_| Mailbox::new().map(Arc::new))
            .collect::<Result<_, _>>()
            .map_err(system("create a worker's wake-up descriptor"))?;
        let (helper, inbox) = mpsc::channel(HELPER_INBOX);
        let instance = Arc::new(Instance::new(border, mailboxes, helper, ledger));
        let own_addresses = OwnAddresses::open().map_err(system("ask for this host's addresses"))?;
        let snapshots = Snapshots::new(crate::tls::ticketer()?, &own_addresses);
        let engine = Self {
            instance: Arc::clone(&instance),
            threads: Mutex::default(),
            last_stats: Mutex::new(vec![WorkerStats::default(); workers]),
        };
        engine.start_workers(&snapshots.in_force())?;
        let helper = std::thread::Builder::new()
            .name("moretta-helper".into())
            .spawn(move || helper::run(instance, snapshots, own_addresses, inbox))
            .map_err(|error| system_error("start the helper thread", &error))?;
        lock(&engine.threads).helper = Some(helper);
        Ok(engine)
    }

    /// Dropping the engine on an error ends those that were started.
    fn start_workers(&self, snapshot: &Arc<CoreSnapshot>) -> Result<(), EngineError> {
        let shared = Arc::new(moretta_core::Shared {
            reset_key: random()?,
            token_keys: TokenKeys::new(&random()?, None),
            token_log: Arc::new(SharedTokenLog::new(TOKEN_LOG_ENTRIES)),
            ledger: Arc::clone(&self.instance.ledger) as Arc<_>,
            connections: moretta_core::ConnectionCount::default(),
        });
        for index in 0..self.instance.workers.len() {
            let slot = SlotId::new(index as u8).ok_or(EngineError::Closed)?;
            let config = CoreConfig {
                slot,
                seed: random()?,
                shared: Arc::clone(&shared),
                transport: TransportOptions::default(),
            };
            let now =
                Now { instant: Instant::now(), unix: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default() };
            let core = Core::new(config, Arc::clone(snapshot), now);
            let worker =
                Worker::new(index, core, Arc::clone(&self.instance)).map_err(system("create a worker's poller"))?;
            let instance = Arc::clone(&self.instance);
            let thread = std::thread::Builder::new()
                .name(format!("moretta-{index}"))
                .spawn(move || run(index, worker, &instance))
                .map_err(|error| system_error("start a worker thread", &error))?;
            lock(&self.threads).workers.push(thread);
        }
        Ok(())
    }

    /// Keeps secret bytes under a name that later documents refer to; they are wiped when replaced or at the end.
    ///
    /// # Errors
    /// [`EngineError::Closed`].
    pub fn put_secret(&self, name: &str, bytes: &[u8]) -> Result<(), EngineError> {
        self.check_open()?;
        lock(&self.instance.secrets).insert(name.to_owned(), Zeroizing::new(bytes.to_vec()));
        Ok(())
    }

    /// Takes a snapshot or a command; what becomes of it is told by events.
    ///
    /// # Errors
    /// [`EngineError::Document`] when it is not one of ours, [`EngineError::Unknown`] and [`EngineError::Taken`] for
    /// numbers that do not fit, [`EngineError::Busy`] when too much waits, [`EngineError::Closed`].
    pub fn submit(&self, document: &[u8]) -> Result<(), EngineError> {
        self.check_open()?;
        match Submission::parse(document)? {
            Submission::Command(command) => control::submit(&self.instance, *command),
            Submission::Snapshot(snapshot) => {
                // One answer, and one `listening` for each listener.
                let events = 1 + snapshot.listeners.len();
                if !self.instance.border.promise(events) {
                    return Err(EngineError::Busy { limit: PROMISE_LIMIT });
                }
                to_helper(&self.instance, HelperMessage::Snapshot(snapshot))
                    .inspect_err(|_| self.instance.border.release(events))
            }
        }
    }

    /// Up to `limit` events, oldest first, each one JSON document.
    ///
    /// Read until fewer than `limit` come; only then, and only when [`Engine::take_ready`] came back short too, does
    /// the descriptor of [`Engine::event_fd`] become quiet.
    pub fn take_events(&self, limit: usize) -> Vec<Vec<u8>> {
        let events = self.instance.border.take_events(limit);
        let ended: Vec<u64> = events.iter().filter_map(Event::ended_tunnel).collect();
        if !ended.is_empty() {
            let mut registry = lock(&self.instance.registry);
            for tunnel in &ended {
                registry.tunnels.remove(tunnel);
            }
        }
        events.iter().map(Event::to_json).collect()
    }

    /// Up to `limit` tokens of tunnels that have datagrams to read or changed their state.
    pub fn take_ready(&self, limit: usize) -> Vec<u64> {
        let ready = self.instance.border.take_ready(limit);
        let registry = lock(&self.instance.registry);
        for place in ready.iter().filter_map(|token| registry.tunnels.get(token)) {
            place.queue.unlist();
        }
        ready
    }

    /// A descriptor that is readable while something may wait. Watch it, never read it; it lives as long as the engine.
    pub fn event_fd(&self) -> RawFd {
        self.instance.border.fd()
    }

    /// All counters by reason and all gauges, as one JSON document: totals, then each worker's own under `workers`.
    ///
    /// `core`: what packets, connections and datagrams met; `gateway_tunnels`, `client_tunnels`: refusals and ends under
    /// the words of the error table; `sockets`: of links, targets and forwards; `shell`, `forwards`, `dns`, `border`:
    /// what this crate counts; `gauges`, `tunnels`: how many there are now. Counters only rise.
    pub fn stats(&self) -> Vec<u8> {
        let deadline = Instant::now() + STATS_PATIENCE;
        let mut names = NameStats::default();
        if !self.is_closed() {
            let (to_names, from_names) = sync_channel(1);
            let asked_names = to_helper(&self.instance, HelperMessage::Stats(to_names)).is_ok();
            let asked: Vec<_> = self
                .instance
                .workers
                .iter()
                .map(|mailbox| {
                    let (sender, receiver) = sync_channel(1);
                    mailbox.post(Message::Stats(sender));
                    receiver
                })
                .collect();
            let mut last = lock(&self.last_stats);
            for (receiver, last) in asked.iter().zip(last.iter_mut()) {
                if let Ok(stats) = receiver.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                    *last = stats;
                }
            }
            if asked_names {
                let patience = deadline.saturating_duration_since(Instant::now());
                names = from_names.recv_timeout(patience).unwrap_or_default();
            }
        }
        let instance = InstanceStats {
            border: self.instance.border.counts(),
            tunnels: moretta_proto::ledger::Ledger::tunnels(&*self.instance.ledger),
            max_tunnels: self.instance.ledger.max_tunnels(),
            dns_questions: names.questions,
            dns_answers: names.answers,
            closed: self.is_closed(),
            workers_lost: self.instance.workers_lost(),
        };
        stats::document(&lock(&self.last_stats), &instance)
    }

    /// The queues of a tunnel that `open_udp` asked for, until its `tunnel_refused` or `tunnel_closed` was taken.
    pub fn tunnel(&self, token: u64) -> Option<Arc<TunnelQueue>> {
        lock(&self.instance.registry).tunnels.get(&token).map(|place| Arc::clone(&place.queue))
    }

    /// Ends everything at once: peers are told, sockets closed, threads joined; within a second. A second call does
    /// nothing. What was queued can still be taken, and ends with the event `closed`.
    pub fn close(&self) {
        let first = !self.instance.closed.swap(true, Ordering::AcqRel);
        if first {
            for mailbox in &self.instance.workers {
                mailbox.post(Message::Close);
            }
            // A helper whose inbox is full ends when the last sender is gone; workers hold none by then.
            drop(to_helper(&self.instance, HelperMessage::Close));
        }
        // A second caller waits here until the first has joined.
        let mut threads = lock(&self.threads);
        let mut last = lock(&self.last_stats);
        for (thread, last) in threads.workers.drain(..).zip(last.iter_mut()) {
            if let Ok(stats) = thread.join() {
                *last = stats;
            }
        }
        drop(last);
        if let Some(helper) = threads.helper.take() {
            // A panic in the helper was printed when it happened.
            drop(helper.join());
        }
        drop(threads);
        if first {
            self.instance.border.push_reserved(Event::Closed(Closed {}));
        }
    }

    /// Whether [`Engine::close`] was called.
    pub fn is_closed(&self) -> bool {
        self.instance.closed.load(Ordering::Acquire)
    }

    fn check_open(&self) -> Result<(), EngineError> {
        if self.is_closed() { Err(EngineError::Closed) } else { Ok(()) }
    }
}

impl AsFd for Engine {
    /// The descriptor of [`Engine::event_fd`].
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.instance.border.as_fd()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.close();
    }
}

/// A worker that ends although nobody closed the engine has met a bug of ours and could not begin anew. What it carried
/// is lost; new connections are steered to the others.
fn run(index: usize, worker: Worker, instance: &Instance) -> WorkerStats {
    let stats = worker.run();
    // It rings for its records no more.
    instance.border.ring();
    if !instance.closed.load(Ordering::Acquire) {
        instance.worker_lost();
        // A full inbox: its connections time out all the same, and `stats` shows the loss.
        drop(to_helper(instance, HelperMessage::WorkerLost(index)));
    }
    stats
}

pub(crate) fn random<const N: usize>() -> Result<[u8; N], EngineError> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|error| EngineError::System {
        path: String::new(),
        what: "draw random numbers".into(),
        error: error.to_string(),
    })?;
    Ok(bytes)
}

fn system(what: &'static str) -> impl Fn(OpenError) -> EngineError {
    move |error| EngineError::System { path: String::new(), what: what.into(), error: error.to_string() }
}

fn system_error(what: &'static str, error: &std::io::Error) -> EngineError {
    EngineError::System { path: String::new(), what: what.into(), error: error.to_string() }
}

#[cfg(test)]
mod tests;
