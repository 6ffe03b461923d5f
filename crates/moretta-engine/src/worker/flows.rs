//! What tunnels send to: target sockets, applications, peers of front ends; and which of them have something to read.

use crate::queue::TunnelQueue;
use moretta_core::{FlowId, TunnelToken};
use moretta_io::{SocketCounters, UdpSocket};
use std::collections::VecDeque;
use std::sync::Arc;

/// Where a flow leads.
pub(super) enum FlowEnd {
    /// A socket connected to the target.
    Socket(Box<UdpSocket>),
    /// An application in this process.
    Application(Arc<TunnelQueue>),
    /// A peer of a front end, which reads its own socket.
    Peer { forward: u64, token: TunnelToken },
}

/// One open flow.
pub(super) struct Flow {
    pub(super) end: FlowEnd,
    /// What the largest messages received lately took of a queue: so many messages make up a share. A message is a
    /// datagram or a whole train, and what finds no room is lost, while in the kernel it could have waited.
    pub(super) large_message: usize,
    generation: u32,
    /// It is in the ready list.
    queued: bool,
    /// The core wants nothing from it until it says so.
    parked: bool,
}

/// All flows of a worker, by index; an entry of another generation is not found.
#[derive(Default)]
pub(super) struct Flows {
    slots: Vec<Option<Flow>>,
    ready: VecDeque<FlowId>,
    sockets: usize,
    /// Counters of sockets that are closed.
    closed: SocketCounters,
}

/// The kernel merges no more.
const LARGEST_MESSAGE: usize = 65_536;

impl Flow {
    /// Follows the size of messages upwards at once and downwards slowly: single datagrams and trains come mixed.
    pub(super) fn note(&mut self, largest: usize) {
        let sunk = self.large_message - self.large_message / 16;
        self.large_message = largest.max(sunk).max(1);
    }
}

impl Flows {
    pub(super) fn insert(&mut self, id: FlowId, end: FlowEnd) {
        let index = id.index as usize;
        if self.slots.len() <= index {
            self.slots.resize_with(index + 1, || None);
        }
        if let Some(slot) = self.slots.get_mut(index) {
            self.sockets += usize::from(matches!(end, FlowEnd::Socket(_)));
            let before = slot.replace(Flow {
                end,
                large_message: LARGEST_MESSAGE,
                generation: id.generation,
                queued: false,
                parked: false,
            });
            // The core closes a flow before it uses its index again, so this folds nothing unless that fails.
            self.fold(before);
        }
    }

    pub(super) fn get_mut(&mut self, id: FlowId) -> Option<&mut Flow> {
        self.slots.get_mut(id.index as usize)?.as_mut().filter(|flow| flow.generation == id.generation)
    }

    /// The flow that has an index now.
    pub(super) fn current(&self, index: u32) -> Option<FlowId> {
        let flow = self.slots.get(index as usize)?.as_ref()?;
        Some(FlowId { index, generation: flow.generation })
    }

    /// Closes a flow; its descriptor is free when this returns.
    pub(super) fn remove(&mut self, id: FlowId) {
        if self.get_mut(id).is_some() {
            let flow = self.slots.get_mut(id.index as usize).and_then(Option::take);
            self.fold(flow);
        }
    }

    /// Closes all flows.
    pub(super) fn clear(&mut self) {
        self.ready.clear();
        for slot in std::mem::take(&mut self.slots) {
            self.fold(slot);
        }
    }

    fn fold(&mut self, flow: Option<Flow>) {
        if let Some(Flow { end: FlowEnd::Socket(mut socket), .. }) = flow {
            socket.refresh_drops();
            self.closed.add(socket.counters());
            self.sockets -= 1;
        }
    }

    /// Something can be read from this flow.
    pub(super) fn make_ready(&mut self, id: FlowId) {
        if let Some(flow) = self.get_mut(id)
            && !flow.queued
            && !flow.parked
        {
            flow.queued = true;
            self.ready.push_back(id);
        }
    }

    /// The flow whose turn it is. It left the ready list; [`Self::make_ready`] puts it back at the end.
    pub(super) fn next_ready(&mut self) -> Option<FlowId> {
        while let Some(id) = self.ready.pop_front() {
            if let Some(flow) = self.get_mut(id) {
                flow.queued = false;
                return Some(id);
            }
        }
        None
    }

    /// The core has no share for this flow now.
    pub(super) fn park(&mut self, id: FlowId) {
        if let Some(flow) = self.get_mut(id) {
            flow.parked = true;
        }
    }

    /// The core has a share for this flow again.
    pub(super) fn resume(&mut self, id: FlowId) {
        if let Some(flow) = self.get_mut(id) {
            flow.parked = false;
            self.make_ready(id);
        }
    }

    pub(super) fn ready_count(&self) -> usize {
        self.ready.len()
    }

    /// Open target sockets.
    pub(super) fn socket_count(&self) -> usize {
        self.sockets
    }

    /// Counters of all target sockets, open and closed. Asks the kernel about each open one.
    pub(super) fn counters(&mut self) -> SocketCounters {
        let mut total = self.closed;
        for flow in self.slots.iter_mut().flatten() {
            if let FlowEnd::Socket(socket) = &mut flow.end {
                socket.refresh_drops();
                total.add(socket.counters());
            }
        }
        total
    }
}
