//! Targets: plain UDP hosts that answer, or only listen.

use std::net::SocketAddr;

use bytes::Bytes;
use moretta_core::{FlowError, Input};

use super::{Owner, World};

/// What a target does with a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetKind {
    /// Sends it back to where it came from.
    Echo,
    /// Keeps it.
    Sink,
    /// Keeps it and answers with an ICMP message that nobody listens on the port.
    Refuse,
}

/// A UDP host. All kinds keep what they got, for tests to look at.
pub(super) struct Target {
    kind: TargetKind,
    received: Vec<(SocketAddr, Bytes)>,
}

impl World {
    /// Adds a target on a host of its own.
    pub fn add_target(&mut self, address: SocketAddr, kind: TargetKind) {
        let host = self.add_host();
        self.targets.insert(address, Target { kind, received: Vec::new() });
        self.add_socket(address, host, Owner::Target);
    }

    pub(super) fn arrive_at_target(&mut self, address: SocketAddr, from: SocketAddr, payload: &[u8]) {
        let Some(target) = self.targets.get_mut(&address) else { return };
        let payload = Bytes::copy_from_slice(payload);
        target.received.push((from, payload.clone()));
        match target.kind {
            TargetKind::Echo => self.network.send(self.now, address, from, 0, &payload),
            TargetKind::Sink => {}
            TargetKind::Refuse => {
                if let Some(Owner::Flow(node, flow)) = self.owners.get(&from).copied() {
                    self.feed(node, Input::FlowError { flow, error: FlowError::Unreachable });
                }
            }
        }
    }

    /// Lets a target send to anyone, for instance to the socket of a tunnel that it has heard from.
    pub fn target_sends(&mut self, address: SocketAddr, to: SocketAddr, payload: &Bytes) {
        self.network.send(self.now, address, to, 0, payload);
    }

    /// Everything that a target got, with its senders, in order.
    pub fn target_received(&self, address: SocketAddr) -> &[(SocketAddr, Bytes)] {
        self.targets.get(&address).map_or(&[], |target| &target.received)
    }
}
