//! A local UDP port, each peer of which has a tunnel of its own to one target.

use bytes::Bytes;
use moretta_core::{FlowId, TunnelToken};
use moretta_io::{OpenError, OutgoingTrain, ReceiveBatch, ReceivedTrain, SocketOptions, UdpSocket};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// Bytes that one peer may have waiting while its tunnel is being opened.
const WAITING_BYTES: usize = 64 * 1024;
/// A peer whose tunnel was refused is not tried again before this: its datagrams would each cost a request.
const REFUSED_PAUSE: Duration = Duration::from_secs(1);
/// Idle peers are looked for this many times in one idle timeout.
const SWEEPS_PER_TIMEOUT: u32 = 4;

/// What was asked for.
#[derive(Debug, Clone)]
pub(crate) struct ForwardRequest {
    pub(crate) forward: u64,
    pub(crate) gateway: u64,
    pub(crate) bind: SocketAddr,
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) max_peers: usize,
    pub(crate) idle_timeout: Duration,
}

/// What the worker does with a train that arrived.
pub(crate) enum Arrival {
    /// Give it to the core.
    Flow(FlowId),
    /// Open a tunnel of this token; the train waits for it.
    Open(TunnelToken),
    /// Nothing: it waits, or was dropped and counted.
    Kept,
}

/// What happened at a forward, one number per reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct ForwardCounters {
    /// Datagrams of peers beyond the limit.
    pub(crate) dropped_too_many_peers: u64,
    /// Datagrams that came while the peer's tunnel was being opened and found no room.
    pub(crate) dropped_opening: u64,
    /// Datagrams of peers whose tunnel was refused a moment ago.
    pub(crate) dropped_refused: u64,
    /// Peers whose tunnel was ended because they were silent.
    pub(crate) expired_peers: u64,
}

impl ForwardCounters {
    pub(crate) fn add(&mut self, other: &Self) {
        self.dropped_too_many_peers += other.dropped_too_many_peers;
        self.dropped_opening += other.dropped_opening;
        self.dropped_refused += other.dropped_refused;
        self.expired_peers += other.expired_peers;
    }
}

#[derive(Debug)]
enum PeerState {
    Opening { waiting: Vec<(Vec<u8>, usize)>, bytes: usize },
    Open(FlowId),
    Refused { until: Instant },
    Closing,
}

#[derive(Debug)]
struct Peer {
    token: TunnelToken,
    state: PeerState,
    /// The address that the peer sent to, where the socket has more than one.
    local: Option<IpAddr>,
    active: Instant,
}

/// One forward with its peers.
#[derive(Debug)]
pub(crate) struct Forward {
    pub(crate) request: ForwardRequest,
    pub(crate) socket: UdpSocket,
    pub(crate) counters: ForwardCounters,
    peers: HashMap<SocketAddr, Peer>,
    by_token: HashMap<TunnelToken, SocketAddr>,
    next_sweep: Instant,
    scratch: Vec<u8>,
}

impl Forward {
    pub(crate) fn open(request: ForwardRequest, now: Instant) -> Result<Self, OpenError> {
        let options = SocketOptions { packet_info: request.bind.ip().is_unspecified(), ..SocketOptions::target() };
        let socket = UdpSocket::open_listener(request.bind, &options)?;
        let next_sweep = now + request.idle_timeout / SWEEPS_PER_TIMEOUT;
        Ok(Self {
            request,
            socket,
            counters: ForwardCounters::default(),
            peers: HashMap::new(),
            by_token: HashMap::new(),
            next_sweep,
            scratch: Vec::new(),
        })
    }

    /// What waits on the socket; trains are then given to [`Self::arrived`] one by one.
    pub(crate) fn receive(&mut self, batch: &mut ReceiveBatch) -> usize {
        // A listener's receive error says nothing about later datagrams; the socket counts it.
        self.socket.receive(batch).unwrap_or(0)
    }

    /// Finds the tunnel of a train's sender. `fresh`: the token of a tunnel, should one be opened.
    pub(crate) fn arrived(&mut self, train: &ReceivedTrain, fresh: TunnelToken, now: Instant) -> Arrival {
        let datagrams = train.data.len().div_ceil(train.segment_size.max(1)).max(1) as u64;
        if let Some(peer) = self.peers.get_mut(&train.remote) {
            peer.active = now;
            peer.local = train.local;
            match &mut peer.state {
                PeerState::Open(flow) => return Arrival::Flow(*flow),
                PeerState::Opening { waiting, bytes } if *bytes + train.data.len() <= WAITING_BYTES => {
                    *bytes += train.data.len().max(1);
                    waiting.push((train.data.to_vec(), train.segment_size));
                    return Arrival::Kept;
                }
                PeerState::Opening { .. } => {
                    self.counters.dropped_opening += datagrams;
                    return Arrival::Kept;
                }
                PeerState::Refused { until } if now < *until => {
                    self.counters.dropped_refused += datagrams;
                    return Arrival::Kept;
                }
                // The old tunnel's end is still to come and names the old token.
                PeerState::Refused { .. } | PeerState::Closing => {}
            }
        } else if self.peers.len() >= self.request.max_peers {
            self.counters.dropped_too_many_peers += datagrams;
            return Arrival::Kept;
        }
        let waiting = vec![(train.data.to_vec(), train.segment_size)];
        let state = PeerState::Opening { waiting, bytes: train.data.len().max(1) };
        let peer = Peer { token: fresh, state, local: train.local, active: now };
        if let Some(before) = self.peers.insert(train.remote, peer) {
            self.by_token.remove(&before.token);
        }
        self.by_token.insert(fresh, train.remote);
        Arrival::Open(fresh)
    }

    /// A peer's tunnel has a flow: what waited goes to the core now.
    pub(crate) fn opened(&mut self, token: TunnelToken, flow: FlowId, mut forward: impl FnMut(&[u8], usize)) {
        let Some(peer) = self.by_token.get(&token).and_then(|address| self.peers.get_mut(address)) else { return };
        if let PeerState::Opening { waiting, .. } = std::mem::replace(&mut peer.state, PeerState::Open(flow)) {
            for (data, segment_size) in waiting {
                forward(&data, segment_size);
            }
        }
    }

    /// A peer's tunnel was refused.
    pub(crate) fn refused(&mut self, token: TunnelToken, now: Instant) {
        if let Some(peer) = self.by_token.get(&token).and_then(|address| self.peers.get_mut(address)) {
            peer.state = PeerState::Refused { until: now + REFUSED_PAUSE };
        }
    }

    /// A peer's tunnel ended; its next datagram opens another one.
    pub(crate) fn closed(&mut self, token: TunnelToken) {
        if let Some(address) = self.by_token.remove(&token) {
            self.peers.remove(&address);
        }
    }

    /// Payloads from the target go to the peer, runs of one size as one train.
    pub(crate) fn send(&mut self, token: TunnelToken, payloads: &[Bytes], now: Instant) {
        let Some(address) = self.by_token.get(&token) else { return };
        let Some(peer) = self.peers.get_mut(address) else { return };
        peer.active = now;
        let mut rest = payloads;
        while let Some(first) = rest.first() {
            let run =
                rest.iter().take_while(|payload| payload.len() == first.len() && !first.is_empty()).count().max(1);
            let (now_sent, later) = rest.split_at(run);
            self.scratch.clear();
            for payload in now_sent {
                self.scratch.extend_from_slice(payload);
            }
            // What the kernel does not take is counted by the socket.
            self.socket.send_train(&OutgoingTrain {
                remote: Some(*address),
                local: peer.local,
                ecn: 0,
                segment_size: (run > 1).then_some(first.len()),
                data: &self.scratch,
            });
            rest = later;
        }
    }

    /// When [`Self::sweep`] is due.
    pub(crate) fn next_sweep(&self) -> Instant {
        self.next_sweep
    }

    /// Tokens of peers that were silent for the idle timeout; the caller ends their tunnels.
    pub(crate) fn sweep(&mut self, now: Instant) -> Vec<TunnelToken> {
        self.next_sweep = now + self.request.idle_timeout / SWEEPS_PER_TIMEOUT;
        let mut silent = Vec::new();
        let mut forgotten = Vec::new();
        for (address, peer) in &mut self.peers {
            if now.saturating_duration_since(peer.active) < self.request.idle_timeout {
                continue;
            }
            match peer.state {
                PeerState::Open(_) => {
                    peer.state = PeerState::Closing;
                    silent.push(peer.token);
                }
                PeerState::Refused { .. } => forgotten.push((*address, peer.token)),
                PeerState::Opening { .. } | PeerState::Closing => {}
            }
        }
        for (address, token) in forgotten {
            self.peers.remove(&address);
            self.by_token.remove(&token);
        }
        self.counters.expired_peers += silent.len() as u64;
        silent
    }

    /// Tokens of all tunnels of this forward.
    pub(crate) fn tokens(&self) -> Vec<TunnelToken> {
        self.by_token.keys().copied().collect()
    }

    /// Peers at the moment.
    pub(crate) fn peers(&self) -> usize {
        self.peers.len()
    }
}
