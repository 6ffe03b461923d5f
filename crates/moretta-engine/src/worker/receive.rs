//! What arrives: packets on links, datagrams on flows and at front ends.

use super::flows::FlowEnd;
use super::{
    FLOW_MESSAGES, KEY_FLOW, KEY_FORWARD, KEY_GENERATION_BITS, KEY_KIND_SHIFT, KEY_LINK, KEY_WAKE, LINK_TRAINS, Worker,
};
use crate::frontend::Arrival;
use moretta_core::{
    Core, DATAGRAM_OVERHEAD, FlowError, FlowId, FlowKind, FlowPath, Input, LinkId, Now, OpenUdp, Train,
};
use moretta_io::{ErrorKind, UdpSocket};
use std::time::Duration;

/// Receive calls on one link in one round: others must get their turn.
const CALLS_PER_LINK: usize = 2;
/// Flows that are read in one round.
const FLOWS_PER_ROUND: usize = 64;
/// Receive calls on one front end in one round.
const CALLS_PER_FORWARD: usize = 2;
/// How long a peer of a front end waits for its tunnel.
const PEER_OPEN_TIME: Duration = Duration::from_secs(10);
/// What every path of IPv6 carries in UDP (RFC 8200 §5), and so nearly every path there is.
const LEAST_PAYLOAD_BYTES: usize = 1280 - 40 - 8;
/// Trains taken from the ring in one round.
const RING_TRAINS_PER_ROUND: usize = 256;

impl Worker {
    /// Notes what the poller found.
    pub(super) fn polled(&mut self) {
        let (mut flow_errors, mut link_errors) = (Vec::new(), Vec::new());
        for event in self.events.iter() {
            match event.key >> KEY_KIND_SHIFT {
                KEY_WAKE => {
                    self.shell.mailbox.wake_fd().drain();
                }
                KEY_LINK => {
                    let id = LinkId(event.key as u32);
                    if let Some(link) = self.shell.links.get_mut(id) {
                        link.readable |= event.readable;
                        if event.error {
                            link_errors.push(id);
                        }
                    }
                }
                KEY_FLOW => {
                    if let Some(flow) = self.shell.flow_of_key(event.key) {
                        if event.error {
                            flow_errors.push(flow);
                        }
                        if event.readable || event.hangup {
                            self.shell.flows.make_ready(flow);
                        }
                    }
                }
                KEY_FORWARD => self.shell.forwards_readable = true,
                _ => {}
            }
        }
        if flow_errors.is_empty() && link_errors.is_empty() {
            return;
        }
        let now = super::now();
        for flow in flow_errors {
            self.take_flow_errors(flow, now);
        }
        for link in link_errors {
            while let Some(error) = self.shell.links.get_mut(link).and_then(|link| link.socket.take_error()) {
                self.link_reported(link, &error, now);
            }
        }
    }

    fn take_flow_errors(&mut self, id: FlowId, now: Now) {
        let Some(flow) = self.shell.flows.get_mut(id) else { return };
        let FlowEnd::Socket(socket) = &mut flow.end else { return };
        while let Some(error) = socket.take_error() {
            flow_failed(&mut self.core, id, socket, error.kind, now);
        }
    }

    /// One round of receiving, links first: what they bring may end flows.
    pub(super) fn receive(&mut self, now: Now) {
        self.receive_ring(now);
        self.receive_links(now);
        self.receive_flows(now);
        self.receive_forwards(now);
    }

    fn receive_ring(&mut self, now: Now) {
        for _ in 0..RING_TRAINS_PER_ROUND {
            let Some(train) = self.shell.mailbox.take_train() else { return };
            self.shell.counters.trains_from_ring += 1;
            self.core.handle(now, Input::Train(train));
        }
    }

    fn receive_links(&mut self, now: Now) {
        let shell = &mut self.shell;
        for link in shell.links.iter_mut().filter(|link| link.readable) {
            for _ in 0..CALLS_PER_LINK {
                // An error is counted by the socket, which stays usable; the poller tells if there is more.
                let received = link.socket.receive(&mut shell.receive).unwrap_or(0);
                for train in shell.receive.drain() {
                    let train = Train {
                        link: link.id,
                        remote: train.remote,
                        local: train.local,
                        ecn: train.ecn,
                        segment_size: train.segment_size,
                        data: train.data,
                    };
                    self.core.handle(now, Input::Train(train));
                }
                if received < LINK_TRAINS {
                    link.readable = false;
                    break;
                }
            }
        }
    }

    fn receive_flows(&mut self, now: Now) {
        for _ in 0..self.shell.flows.ready_count().min(FLOWS_PER_ROUND) {
            let Some(id) = self.shell.flows.next_ready() else { return };
            let share = self.core.flow_share(id);
            if share == 0 {
                self.shell.flows.park(id);
                continue;
            }
            if self.receive_flow(id, share, now) {
                self.shell.flows.make_ready(id);
            }
        }
    }

    /// Reads one flow up to its share; true if more may wait.
    fn receive_flow(&mut self, id: FlowId, share: usize, now: Now) -> bool {
        let shell = &mut self.shell;
        let Some(flow) = shell.flows.get_mut(id) else { return false };
        match &mut flow.end {
            FlowEnd::Socket(socket) => {
                // The core leaves room for one message beyond the share.
                let limit = (share / flow.large_message + 1).min(FLOW_MESSAGES);
                let received = match socket.receive_flow(&mut shell.flow_buffers, limit) {
                    Ok(received) => received,
                    Err(kind) => {
                        flow_failed(&mut self.core, id, socket, kind, now);
                        return false;
                    }
                };
                let mut largest = 0;
                for (data, segment_size) in shell.flow_buffers.iter() {
                    let datagrams = data.len().div_ceil(segment_size.max(1));
                    largest = largest.max(data.len() + datagrams * DATAGRAM_OVERHEAD);
                    self.core.handle(now, Input::Flow { flow: id, data, segment_size });
                }
                flow.note(largest);
                received >= limit
            }
            FlowEnd::Application(queue) => {
                let mut left = share;
                while left > 0 {
                    let Some(segment_size) = queue.take_train(left, &mut shell.train) else { return false };
                    left = left.saturating_sub(shell.train.len().max(1));
                    self.core.handle(now, Input::Flow { flow: id, data: &shell.train, segment_size });
                }
                true
            }
            FlowEnd::Peer { .. } => false,
        }
    }

    fn receive_forwards(&mut self, now: Now) {
        if !self.shell.forwards_readable {
            return;
        }
        self.shell.forwards_readable = false;
        for index in 0..self.shell.forwards.len() {
            for _ in 0..CALLS_PER_FORWARD {
                let shell = &mut self.shell;
                let Some(forward) = shell.forwards.get_mut(index) else { break };
                let received = forward.receive(&mut shell.receive);
                let trains: Vec<_> = shell.receive.drain().collect();
                for train in trains {
                    self.forward_train(index, &train, now);
                }
                if received < LINK_TRAINS {
                    break;
                }
                self.shell.forwards_readable = true;
            }
        }
    }

    fn forward_train(&mut self, index: usize, train: &moretta_io::ReceivedTrain, now: Now) {
        let token = self.shell.fresh_token();
        let Some(forward) = self.shell.forwards.get_mut(index) else { return };
        match forward.arrived(train, token, now.instant) {
            Arrival::Flow(flow) => {
                self.core.handle(now, Input::Flow { flow, data: &train.data, segment_size: train.segment_size });
            }
            Arrival::Open(tunnel) => {
                let request = &forward.request;
                let local = super::Local { end: super::LocalEnd::Peer { forward: request.forward }, flow: None };
                let open = OpenUdp {
                    gateway: moretta_core::GatewayId(request.gateway),
                    tunnel,
                    flow_kind: FlowKind::Local { tunnel },
                    host: request.host.clone(),
                    port: request.port,
                    deadline: now.instant + PEER_OPEN_TIME,
                };
                self.shell.locals.insert(tunnel, local);
                self.open_udp(open, now);
            }
            Arrival::Kept => {}
        }
    }
}

impl super::Shell {
    fn flow_of_key(&mut self, key: u64) -> Option<FlowId> {
        let generation = (key >> 32) as u32 & ((1 << KEY_GENERATION_BITS) - 1);
        let current = self.flows.current(key as u32)?;
        (current.generation & ((1 << KEY_GENERATION_BITS) - 1) == generation).then_some(current)
    }
}

/// Tells the core what a flow's socket said. Where a datagram was too large the path is not what it was thought to be.
pub(super) fn flow_failed(core: &mut Core, flow: FlowId, socket: &UdpSocket, kind: ErrorKind, now: Now) {
    core.handle(now, Input::FlowError { flow, error: flow_error(kind) });
    if kind == ErrorKind::MessageTooLong {
        core.handle(now, Input::FlowPath { flow, path: flow_path(socket) });
    }
}

/// What fits the path to a target. It bounds a buffer, so too much is harmless (the kernel refuses what does not fit) and
/// too little is not: whoever guesses two ports can forge the ICMP error that the kernel believes.
pub(super) fn flow_path(socket: &UdpSocket) -> FlowPath {
    socket
        .path_payload_bytes()
        .map_or(FlowPath::ETHERNET, |bytes| FlowPath { max_payload_bytes: bytes.max(LEAST_PAYLOAD_BYTES) })
}

/// What the kernel said, in the words of the core (C-19).
#[allow(clippy::wildcard_enum_match_arm, reason = "what only opening can meet has no word of its own")]
fn flow_error(kind: ErrorKind) -> FlowError {
    match kind {
        ErrorKind::ConnectionRefused | ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => {
            FlowError::Unreachable
        }
        ErrorKind::MessageTooLong => FlowError::TooLarge,
        ErrorKind::WouldBlock | ErrorKind::NoBuffers => FlowError::Overloaded,
        ErrorKind::PermissionDenied => FlowError::Refused,
        ErrorKind::Other(errno) => FlowError::Other(errno),
        _ => FlowError::Other(0),
    }
}
