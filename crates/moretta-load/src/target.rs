//! The target: one socket that counts what comes up and sends what is to go down, in trains.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use moretta_io::{OutgoingTrain, ReceiveBatch, SocketOptions, UdpSocket};

use crate::Failure;
use crate::settings::{Mode, Settings};

/// Receive calls in one round.
const CALLS: usize = 4;
const TRAINS: usize = 32;
/// Datagrams that leave with one call, at most.
const TRAIN_DATAGRAMS: u64 = 32;
/// Neither side of a benchmark may lose anything here.
const BUFFER_BYTES: usize = 32 << 20;

/// What a payload is: its first byte.
pub(crate) const UP: u8 = b'U';
pub(crate) const DOWN: u8 = b'D';
/// From a tunnel that wants to hear from the target.
pub(crate) const SUBSCRIBE: u8 = b'S';

/// Begins every payload: what it is, and which run it belongs to.
pub(crate) fn mark(payload: &mut [u8], kind: u8, run: u32) {
    let header = std::iter::once(kind).chain(run.to_be_bytes());
    for (slot, byte) in payload.iter_mut().zip(header) {
        *slot = byte;
    }
}

/// What a payload of this run is; `None`: another run's, or nobody's.
pub(crate) fn kind_of(payload: &[u8], run: u32) -> Option<u8> {
    let (kind, rest) = payload.split_first()?;
    rest.starts_with(&run.to_be_bytes()).then_some(*kind)
}

pub(crate) struct Target {
    pub(crate) socket: UdpSocket,
    receive: ReceiveBatch,
    run: u32,
    size: usize,
    /// The gateway's sockets, one for each tunnel.
    peers: Vec<SocketAddr>,
    next_peer: usize,
    /// A train of payloads, ready to be cut.
    train: Vec<u8>,
    /// Counted on arrival.
    pub(crate) received: u64,
    /// Offered to the kernel.
    pub(crate) sent: u64,
}

impl Target {
    pub(crate) fn new(settings: &Settings, run: u32) -> Result<Self, Failure> {
        let options = SocketOptions {
            receive_buffer_bytes: BUFFER_BYTES,
            send_buffer_bytes: BUFFER_BYTES,
            ..SocketOptions::target()
        };
        let address = if settings.proxy.is_ipv6() { Ipv6Addr::LOCALHOST.into() } else { Ipv4Addr::LOCALHOST.into() };
        let mut payload = vec![0; settings.size];
        mark(&mut payload, DOWN, run);
        Ok(Self {
            socket: UdpSocket::open_client(SocketAddr::new(address, settings.target_port), &options)?,
            receive: ReceiveBatch::new(TRAINS),
            run,
            size: settings.size,
            peers: Vec::new(),
            next_peer: 0,
            train: payload.repeat(usize::try_from(TRAIN_DATAGRAMS)?),
            received: 0,
            sent: 0,
        })
    }

    /// How many tunnels have been heard of.
    pub(crate) fn subscribers(&self) -> usize {
        self.peers.len()
    }

    /// Counts what has come; true if there may be more.
    pub(crate) fn drain(&mut self) -> bool {
        for _ in 0..CALLS {
            let messages = self.socket.receive(&mut self.receive).unwrap_or(0);
            for train in self.receive.drain() {
                match kind_of(&train.data, self.run) {
                    Some(UP) => self.received += train.data.len().div_ceil(train.segment_size) as u64,
                    Some(SUBSCRIBE) if !self.peers.contains(&train.remote) => self.peers.push(train.remote),
                    _ => {}
                }
            }
            if messages < TRAINS {
                return false;
            }
        }
        true
    }

    /// Sends this many payloads, a train to each tunnel in turn. What the kernel does not take is not sent again.
    pub(crate) fn send(&mut self, mut due: u64) {
        let most = (moretta_io::MAX_TRAIN_BYTES / self.size).max(1) as u64;
        while due > 0 {
            let Some(peer) = self.peers.get(self.next_peer % self.peers.len().max(1)).copied() else { return };
            self.next_peer += 1;
            let count = due.min(TRAIN_DATAGRAMS).min(most);
            let bytes = self.train.get(..count as usize * self.size).unwrap_or_default();
            self.socket.send_train(&OutgoingTrain {
                remote: Some(peer),
                local: None,
                ecn: 0,
                segment_size: Some(self.size),
                data: bytes,
            });
            self.sent += count;
            due -= count;
        }
    }
}

impl Mode {
    /// What was offered and what arrived, seen from the target.
    pub(crate) const fn is_sent_by_target(self) -> bool {
        matches!(self, Self::Down)
    }
}
