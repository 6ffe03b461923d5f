//! A worker's inbox: what other threads hand it, and its wake-up.
//!
//! The worker arms the wake-up before it sleeps and looks again, so a message never waits for the next packet, and a
//! busy worker costs its senders no system call.

use crate::border::lock;
use crate::frontend::ForwardRequest;
use crate::queue::{Notify, TunnelQueue};
use crate::stats::WorkerStats;
use crossbeam_queue::ArrayQueue;
use moretta_core::{CoreSnapshot, LinkId, Train};
use moretta_io::{OpenError, UdpSocket, WakeFd};
use moretta_wire::template::UriTemplate;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// Packets of a foreign slot that may wait for their worker; a ring that overflows drops them, and QUIC repairs that.
const RING_TRAINS: usize = 1024;

/// A listener's address, for one worker.
#[derive(Debug)]
pub(crate) struct ListenerSocket {
    pub(crate) link: LinkId,
    pub(crate) name: String,
    pub(crate) loopback: bool,
    /// None: the worker has it already.
    pub(crate) socket: Option<UdpSocket>,
}

/// Everything of a gateway that is ready to be opened.
#[derive(Debug)]
pub(crate) struct GatewayRequest {
    pub(crate) gateway: u64,
    pub(crate) remotes: Vec<SocketAddr>,
    pub(crate) bind: Option<SocketAddr>,
    pub(crate) server_name: String,
    pub(crate) tls: Arc<rustls::ClientConfig>,
    pub(crate) template: UriTemplate,
    pub(crate) deadline: Instant,
}

/// What a worker is told.
#[derive(Debug)]
pub(crate) enum Message {
    /// A new snapshot with the listeners that it adds and removes.
    Snapshot {
        snapshot: Arc<CoreSnapshot>,
        add: Vec<ListenerSocket>,
        remove: Vec<LinkId>,
    },
    /// Nobody needs this listener's socket any more.
    CloseLink(LinkId),
    OpenGateway(Box<GatewayRequest>),
    OpenUdp {
        gateway: u64,
        queue: Arc<TunnelQueue>,
        host: String,
        port: u16,
        deadline: Instant,
    },
    FinishTunnel(u64),
    ResetTunnel(u64),
    CloseGateway(u64),
    Rebind {
        gateway: u64,
        bind: Option<IpAddr>,
    },
    Forward(ForwardRequest),
    CloseForward(u64),
    Ping {
        gateway: u64,
        ping: u64,
    },
    Resolved {
        query: u64,
        result: crate::helper::Answer,
    },
    Drain {
        deadline: Instant,
    },
    Close,
    /// Makes the worker panic, and fail to begin anew if that is for good.
    #[cfg(test)]
    Fail {
        for_good: bool,
    },
    /// Answers with the counters as of now.
    Stats(SyncSender<WorkerStats>),
}

/// The inbox of one worker.
#[derive(Debug)]
pub(crate) struct Mailbox {
    /// Guards messages, oldest first.
    messages: Mutex<Vec<Message>>,
    /// Guards tokens of tunnels whose application has sent; each is listed once by its queue.
    notified: Mutex<Vec<u64>>,
    ring: ArrayQueue<Train>,
    ring_dropped: AtomicU64,
    armed: AtomicBool,
    wake: WakeFd,
}

impl Mailbox {
    pub(crate) fn new() -> Result<Self, OpenError> {
        Ok(Self {
            messages: Mutex::default(),
            notified: Mutex::default(),
            ring: ArrayQueue::new(RING_TRAINS),
            ring_dropped: AtomicU64::new(0),
            armed: AtomicBool::new(false),
            wake: WakeFd::new()?,
        })
    }

    pub(crate) fn post(&self, message: Message) {
        lock(&self.messages).push(message);
        self.signal();
    }

    /// Hands over a packet of this worker's slot that another worker's socket received.
    pub(crate) fn post_train(&self, train: Train) {
        if self.ring.push(train).is_err() {
            self.ring_dropped.fetch_add(1, Ordering::Relaxed);
        }
        self.signal();
    }

    pub(crate) fn take_messages(&self, into: &mut Vec<Message>) {
        std::mem::swap(&mut *lock(&self.messages), into);
    }

    pub(crate) fn take_notified(&self, into: &mut Vec<u64>) {
        into.append(&mut lock(&self.notified));
    }

    pub(crate) fn take_train(&self) -> Option<Train> {
        self.ring.pop()
    }

    pub(crate) fn ring_dropped(&self) -> u64 {
        self.ring_dropped.load(Ordering::Relaxed)
    }

    pub(crate) fn wake_fd(&self) -> &WakeFd {
        &self.wake
    }

    /// Called by the worker before it sleeps; true when it may.
    pub(crate) fn arm(&self) -> bool {
        self.armed.store(true, Ordering::SeqCst);
        let empty = lock(&self.messages).is_empty() && lock(&self.notified).is_empty() && self.ring.is_empty();
        if !empty {
            self.armed.store(false, Ordering::SeqCst);
        }
        empty
    }

    /// Called by the worker when it woke, whatever woke it.
    pub(crate) fn disarm(&self) {
        self.armed.store(false, Ordering::SeqCst);
    }

    fn signal(&self) {
        if self.armed.swap(false, Ordering::SeqCst) {
            self.wake.wake();
        }
    }
}

impl Notify for Mailbox {
    fn notify(&self, token: u64) {
        lock(&self.notified).push(token);
        self.signal();
    }
}

#[cfg(test)]
mod tests;
