//! The handle: everything that the border offers.

use crate::border::{Border, PROMISE_LIMIT, lock};
use crate::document::{Closed, EngineConfig, Event, Submission, parse};
use crate::error::EngineError;
use crate::queue::TunnelQueue;
use std::collections::HashMap;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use zeroize::Zeroizing;

/// Most workers of one engine: the slot of a connection ID has five bits.
pub const MAX_WORKERS: usize = 32;

/// A running engine. All methods may be called from any thread; none waits for the network, and only
/// [`Engine::close`] waits at all.
#[derive(Debug)]
pub struct Engine {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    border: Arc<Border>,
    /// Guards the secrets by name.
    secrets: Mutex<HashMap<String, Zeroizing<Vec<u8>>>>,
    /// Guards the application's tunnels by token.
    tunnels: Mutex<HashMap<u64, Arc<TunnelQueue>>>,
    closed: AtomicBool,
}

impl Engine {
    /// Starts the threads of an engine that does not listen yet.
    ///
    /// `config`: an [`EngineConfig`] document.
    ///
    /// # Errors
    /// [`EngineError::Document`], or [`EngineError::System`] when the system refuses threads or descriptors.
    pub fn start(config: &[u8]) -> Result<Self, EngineError> {
        let config: EngineConfig = parse(config)?;
        if config.workers.is_some_and(|workers| !(1..=MAX_WORKERS).contains(&workers)) {
            return Err(EngineError::document("workers", format!("must be 1 to {MAX_WORKERS}, or null")));
        }
        let border = Border::new(PROMISE_LIMIT).map_err(|error| EngineError::System {
            path: String::new(),
            what: "create the engine's wake-up descriptor".into(),
            error: error.to_string(),
        })?;
        Ok(Self {
            shared: Arc::new(Shared {
                border: Arc::new(border),
                secrets: Mutex::default(),
                tunnels: Mutex::default(),
                closed: AtomicBool::new(false),
            }),
        })
    }

    /// Keeps secret bytes under a name that later documents refer to; they are wiped when replaced or at the end.
    ///
    /// # Errors
    /// [`EngineError::Closed`].
    pub fn put_secret(&self, name: &str, bytes: &[u8]) -> Result<(), EngineError> {
        self.check_open()?;
        lock(&self.shared.secrets).insert(name.to_owned(), Zeroizing::new(bytes.to_vec()));
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
            Submission::Snapshot(_) | Submission::Command(_) => Err(EngineError::Busy { limit: 0 }),
        }
    }

    /// Up to `limit` events, oldest first, each one JSON document.
    ///
    /// Read until fewer than `limit` come; only then, and only when [`Engine::take_ready`] came back short too, does
    /// the descriptor of [`Engine::event_fd`] become quiet.
    pub fn take_events(&self, limit: usize) -> Vec<Vec<u8>> {
        self.shared.border.take_events(limit).iter().map(Event::to_json).collect()
    }

    /// Up to `limit` tokens of tunnels that have datagrams to read or changed their state.
    pub fn take_ready(&self, limit: usize) -> Vec<u64> {
        let ready = self.shared.border.take_ready(limit);
        let tunnels = lock(&self.shared.tunnels);
        for token in &ready {
            if let Some(tunnel) = tunnels.get(token) {
                tunnel.unlist();
            }
        }
        ready
    }

    /// A descriptor that is readable while something may wait. Watch it, never read it; it lives as long as the engine.
    pub fn event_fd(&self) -> RawFd {
        self.shared.border.fd()
    }

    /// All counters by reason and all gauges, as one JSON document.
    pub fn stats(&self) -> Vec<u8> {
        let border = self.shared.border.counts();
        serde_json::json!({
            "version": crate::document::VERSION,
            "border": {"promised": border.promised, "events_shed": border.shed, "wakes": border.wakes},
        })
        .to_string()
        .into_bytes()
    }

    /// The queues of a tunnel that `open_udp` asked for, until it ended and was taken.
    pub fn tunnel(&self, token: u64) -> Option<Arc<TunnelQueue>> {
        lock(&self.shared.tunnels).get(&token).cloned()
    }

    /// Ends everything at once: peers are told, sockets closed, threads joined; within a second. A second call does
    /// nothing. What was queued can still be taken, and ends with the event `closed`.
    pub fn close(&self) {
        if !self.shared.closed.swap(true, Ordering::AcqRel) {
            self.shared.border.push(Event::Closed(Closed {}));
        }
    }

    /// Whether [`Engine::close`] was called.
    pub fn is_closed(&self) -> bool {
        self.shared.closed.load(Ordering::Acquire)
    }

    fn check_open(&self) -> Result<(), EngineError> {
        if self.is_closed() { Err(EngineError::Closed) } else { Ok(()) }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.close();
    }
}
