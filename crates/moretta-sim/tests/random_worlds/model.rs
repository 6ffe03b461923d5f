//! The reference model: what was offered, and what may therefore come out where. It sees payloads, sockets and streams,
//! never a core.

use std::{collections::BTreeMap, net::SocketAddr};

use moretta_sim::{Stamp, TargetKind};

/// Who holds a tunnel's near end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Holder {
    /// The application of one of our clients.
    Client(usize),
    /// A hand-written client, on this stream.
    Raw(usize, u64),
}

/// One direction of a tunnel: serial numbers that were offered, and whether they came out.
#[derive(Debug, Default)]
pub(crate) struct Direction {
    offered: BTreeMap<u64, bool>,
    delivered: u64,
    /// The last that came out, where order is promised.
    last: Option<u64>,
}

impl Direction {
    fn offer(&mut self, serial: u64) {
        self.offered.entry(serial).or_insert(false);
    }

    fn deliver(&mut self, serial: u64, in_order: bool) -> Result<(), &'static str> {
        let seen = self.offered.get_mut(&serial).ok_or("was never sent")?;
        if std::mem::replace(seen, true) {
            return Err("came twice");
        }
        if in_order && self.last.is_some_and(|last| last > serial) {
            return Err("overtook on a stream");
        }
        self.last = Some(serial);
        self.delivered += 1;
        Ok(())
    }

    /// What was offered and has not come out.
    pub(crate) fn missing(&self) -> Vec<u64> {
        self.offered.iter().filter(|(_, delivered)| !**delivered).map(|(serial, _)| *serial).collect()
    }
}

/// A tunnel as it should be.
#[derive(Debug)]
pub(crate) struct Tunnel {
    pub(crate) holder: Holder,
    pub(crate) target: SocketAddr,
    /// Policy allows it and the target exists.
    pub(crate) may_open: bool,
    /// Its payloads towards the target travel on a stream alone: all arrive, in order.
    pub(crate) reliable: bool,
    pub(crate) up: Direction,
    pub(crate) down: Direction,
    /// The gateway's socket, once its target has heard from it.
    pub(crate) socket: Option<SocketAddr>,
}

#[derive(Debug, Default)]
pub(crate) struct Model {
    pub(crate) tunnels: BTreeMap<u64, Tunnel>,
    /// Whose a socket of the gateway is, for ever: ports are not used again.
    sockets: BTreeMap<SocketAddr, u64>,
    /// Everything that came out at targets, and at near ends.
    pub(crate) at_targets: u64,
    pub(crate) at_clients: u64,
}

impl Model {
    pub(crate) fn ask(&mut self, tunnel: u64, holder: Holder, target: SocketAddr, may_open: bool) {
        let (up, down) = (Direction::default(), Direction::default());
        let tunnel_model = Tunnel { holder, target, may_open, reliable: false, up, down, socket: None };
        assert!(self.tunnels.insert(tunnel, tunnel_model).is_none());
    }

    pub(crate) fn offer_up(&mut self, tunnel: u64, serial: u64) {
        self.tunnels.get_mut(&tunnel).expect("asked for").up.offer(serial);
    }

    pub(crate) fn offer_down(&mut self, tunnel: u64, serial: u64) {
        self.tunnels.get_mut(&tunnel).expect("asked for").down.offer(serial);
    }

    /// A payload has reached a target.
    pub(crate) fn at_target(&mut self, target: SocketAddr, kind: TargetKind, from: SocketAddr, payload: &[u8]) {
        let stamp = Stamp::read(payload).unwrap_or_else(|error| panic!("at {target} from {from}: {error}"));
        let owner = *self.sockets.entry(from).or_insert(stamp.tunnel);
        assert_eq!(owner, stamp.tunnel, "a payload of tunnel {} came from the socket of {owner}", stamp.tunnel);
        let tunnel = self.tunnels.get_mut(&owner).expect("nobody asked for this tunnel");
        assert!(tunnel.may_open, "tunnel {owner} must not exist");
        assert_eq!(tunnel.target, target, "tunnel {owner} reached another target");
        assert_eq!(*tunnel.socket.get_or_insert(from), from, "tunnel {owner} has two sockets");
        let delivered = tunnel.up.deliver(stamp.serial, tunnel.reliable);
        assert_eq!(delivered, Ok(()), "{stamp:?} at {target}");
        if kind == TargetKind::Echo {
            tunnel.down.offer(stamp.serial);
        }
        self.at_targets += 1;
    }

    /// A payload has reached the near end of a tunnel.
    pub(crate) fn at_near_end(&mut self, tunnel: u64, payload: &[u8]) {
        let stamp = Stamp::read(payload).unwrap_or_else(|error| panic!("at the near end of {tunnel}: {error}"));
        assert_eq!(stamp.tunnel, tunnel, "a payload arrived in the wrong tunnel");
        let delivered = self.tunnels.get_mut(&tunnel).expect("asked for").down.deliver(stamp.serial, false);
        assert_eq!(delivered, Ok(()), "{stamp:?} at the near end");
        self.at_clients += 1;
    }
}
