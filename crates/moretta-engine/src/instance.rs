//! What the threads of one engine share. Nothing here is touched per packet.

use crate::border::{Border, lock};
use crate::document::{self, Event};
use crate::error::EngineError;
use crate::helper::HelperMessage;
use crate::ledger::EngineLedger;
use crate::mailbox::{Mailbox, Message};
use crate::queue::TunnelQueue;
use moretta_core::LinkId;
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use tokio::sync::mpsc;
use zeroize::Zeroizing;

/// Tokens of front ends have this bit; those of callers do not.
pub(crate) const FRONT_END_TOKEN: u64 = 1 << 63;

/// What the threads of one engine share.
#[derive(Debug)]
pub(crate) struct Instance {
    pub(crate) border: Arc<Border>,
    pub(crate) workers: Vec<Arc<Mailbox>>,
    pub(crate) helper: mpsc::Sender<HelperMessage>,
    pub(crate) ledger: Arc<EngineLedger>,
    /// Guards the secrets by name.
    pub(crate) secrets: Mutex<HashMap<String, Zeroizing<Vec<u8>>>>,
    /// Guards the numbers that callers gave to gateways, tunnels and forwards.
    pub(crate) registry: Mutex<Registry>,
    /// Guards the addresses of client sockets and front ends, which are never targets; read when a flow opens.
    pub(crate) own_sockets: RwLock<HashSet<SocketAddr>>,
    pub(crate) closed: AtomicBool,
    next_link: AtomicU32,
    drains_left: AtomicUsize,
    workers_lost: AtomicUsize,
}

/// Where a gateway's commands go.
#[derive(Debug)]
pub(crate) enum GatewayPlace {
    /// Its name is being resolved; what is asked of it waits.
    Opening { worker: usize, waiting: Vec<Message> },
    /// Its worker knows it.
    Worker(usize),
}

#[derive(Debug)]
pub(crate) struct TunnelPlace {
    pub(crate) gateway: u64,
    pub(crate) queue: Arc<TunnelQueue>,
}

/// The caller's numbers.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    pub(crate) gateways: HashMap<u64, GatewayPlace>,
    pub(crate) tunnels: HashMap<u64, TunnelPlace>,
    /// Forwards and their gateways.
    pub(crate) forwards: HashMap<u64, u64>,
    next_worker: usize,
}

impl Registry {
    /// Gateways go to workers in turns.
    pub(crate) fn choose_worker(&mut self, workers: usize) -> usize {
        let chosen = self.next_worker % workers.max(1);
        self.next_worker = chosen + 1;
        chosen
    }

    /// Sends a message to the worker of a gateway, or keeps it until there is one.
    pub(crate) fn post(&mut self, workers: &[Arc<Mailbox>], gateway: u64, message: Message) -> Result<(), EngineError> {
        match self.gateways.get_mut(&gateway) {
            Some(GatewayPlace::Opening { waiting, .. }) => waiting.push(message),
            Some(GatewayPlace::Worker(worker)) => {
                if let Some(mailbox) = workers.get(*worker) {
                    mailbox.post(message);
                }
            }
            None => return Err(EngineError::Unknown { what: "gateway", id: gateway }),
        }
        Ok(())
    }
}

impl Instance {
    pub(crate) fn new(
        border: Arc<Border>,
        workers: Vec<Arc<Mailbox>>,
        helper: mpsc::Sender<HelperMessage>,
        ledger: Arc<EngineLedger>,
    ) -> Self {
        Self {
            border,
            workers,
            helper,
            ledger,
            secrets: Mutex::default(),
            registry: Mutex::default(),
            own_sockets: RwLock::default(),
            closed: AtomicBool::new(false),
            next_link: AtomicU32::new(0),
            drains_left: AtomicUsize::new(0),
            workers_lost: AtomicUsize::new(0),
        }
    }

    /// A link number that no other socket of this engine has.
    pub(crate) fn new_link(&self) -> LinkId {
        LinkId(self.next_link.fetch_add(1, Ordering::Relaxed))
    }

    /// Every worker is told to drain; false when a drain is under way.
    pub(crate) fn start_drain(&self) -> bool {
        let living = self.workers.len().saturating_sub(self.workers_lost()).max(1);
        self.drains_left.compare_exchange(0, living, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// A worker has nothing left.
    pub(crate) fn worker_drained(&self) {
        let before = self.drains_left.fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| left.checked_sub(1));
        if before == Ok(1) {
            self.border.push(Event::Drained(document::Drained {}));
        }
    }

    /// A worker's thread has ended by itself; a drain does not wait for it.
    pub(crate) fn worker_lost(&self) {
        self.workers_lost.fetch_add(1, Ordering::AcqRel);
        self.worker_drained();
    }

    pub(crate) fn workers_lost(&self) -> usize {
        self.workers_lost.load(Ordering::Acquire)
    }

    /// Remembers the address of a socket of ours.
    pub(crate) fn add_own_socket(&self, address: SocketAddr) {
        self.own_sockets.write().unwrap_or_else(std::sync::PoisonError::into_inner).insert(address);
    }

    /// Forgets it.
    pub(crate) fn remove_own_socket(&self, address: SocketAddr) {
        self.own_sockets.write().unwrap_or_else(std::sync::PoisonError::into_inner).remove(&address);
    }

    /// Whether a target is a client socket or a front end of this engine; its listeners are in the core's snapshot. A
    /// wildcard socket answers on every address.
    pub(crate) fn is_own_socket(&self, target: SocketAddr) -> bool {
        let own = self.own_sockets.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        let wildcard = SocketAddr::new(
            if target.is_ipv4() {
                std::net::Ipv4Addr::UNSPECIFIED.into()
            } else {
                std::net::Ipv6Addr::UNSPECIFIED.into()
            },
            target.port(),
        );
        // At another host's address the port is another's too; refusing it then is harmless and rare.
        own.contains(&target) || own.contains(&wildcard)
    }

    pub(crate) fn secret(&self, name: &str) -> Option<Zeroizing<Vec<u8>>> {
        lock(&self.secrets).get(name).cloned()
    }
}
