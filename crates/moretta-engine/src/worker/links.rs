//! Sockets that carry QUIC packets: those of listeners and those of gateways.

use moretta_core::LinkId;
use moretta_io::{SocketCounters, UdpSocket};

/// What a link serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LinkUse {
    Listener,
    /// The listener was taken away; its connections live until they end.
    RemovedListener,
    /// The last of them has ended, and the helper was told.
    IdleListener,
    Gateway(u64),
}

#[derive(Debug)]
pub(super) struct Link {
    pub(super) id: LinkId,
    pub(super) usage: LinkUse,
    pub(super) socket: UdpSocket,
    pub(super) readable: bool,
}

/// All links of a worker. There are few, so they are searched.
#[derive(Debug, Default)]
pub(super) struct Links {
    links: Vec<Link>,
    closed: SocketCounters,
}

impl Links {
    pub(super) fn insert(&mut self, id: LinkId, usage: LinkUse, socket: UdpSocket) {
        self.links.push(Link { id, usage, socket, readable: true });
    }

    pub(super) fn get_mut(&mut self, id: LinkId) -> Option<&mut Link> {
        self.links.iter_mut().find(|link| link.id == id)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Link> {
        self.links.iter_mut()
    }

    /// Removed listeners whose connections may have ended.
    pub(super) fn removed(&mut self) -> impl Iterator<Item = &mut Link> {
        self.links.iter_mut().filter(|link| link.usage == LinkUse::RemovedListener)
    }

    pub(super) fn any_readable(&self) -> bool {
        self.links.iter().any(|link| link.readable)
    }

    /// Closes the links for which `over` is true.
    pub(super) fn close(&mut self, mut over: impl FnMut(&Link) -> bool) {
        let closed = &mut self.closed;
        self.links.retain_mut(|link| {
            if !over(link) {
                return true;
            }
            link.socket.refresh_drops();
            closed.add(link.socket.counters());
            false
        });
    }

    /// Counters of all links, open and closed.
    pub(super) fn counters(&mut self) -> SocketCounters {
        let mut total = self.closed;
        for link in &mut self.links {
            link.socket.refresh_drops();
            total.add(link.socket.counters());
        }
        total
    }

    pub(super) fn len(&self) -> usize {
        self.links.len()
    }
}
