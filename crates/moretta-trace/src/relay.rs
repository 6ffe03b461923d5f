//! Datagrams and tunnels through the two cores of a [`Rig`].

use moretta_core::{FlowId, GatewayId, TransportOptions};

use crate::Trace;
use crate::meter::Meter;
use crate::rig::{Arrival, Rig, TICK, Tunnel};

/// Tunnels of one connection that share the load.
const TUNNELS: usize = 4;
/// Past slow start and the search for the MTU.
const WARM_UP_ROUNDS: usize = 150;

/// Which way the payloads go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Up,
    Down,
}

/// A steady stream: with each tick every tunnel gets a run of datagrams of one size.
struct Steady {
    rig: Rig,
    way: Way,
    size: usize,
    tunnels: Vec<Tunnel>,
    run: Vec<u8>,
    sent: u32,
    /// Next stamp of each tunnel.
    expected: Vec<u32>,
}

impl Steady {
    fn new(way: Way, size: usize, per_tunnel: usize, arrival: Arrival, client: fn(&mut TransportOptions)) -> Self {
        let meter = &mut Meter::Off;
        let mut rig = Rig::new(arrival, client);
        let gateway = rig.connect();
        let tunnels: Vec<_> = (0..TUNNELS).map(|_| rig.open(gateway, meter)).collect();
        let run = vec![0x5a; size * per_tunnel];
        let mut steady = Self { rig, way, size, expected: vec![0; tunnels.len()], tunnels, run, sent: 0 };
        for _ in 0..WARM_UP_ROUNDS {
            steady.send(meter);
        }
        steady
    }

    /// Every datagram carries its number.
    fn stamp(&mut self) {
        for (number, datagram) in (self.sent..).zip(self.run.chunks_mut(self.size)) {
            datagram[..4].copy_from_slice(&number.to_be_bytes());
        }
        self.sent += (self.run.len() / self.size) as u32;
    }

    fn send(&mut self, meter: &mut Meter) -> u64 {
        self.rig.receive(TICK, meter);
        self.stamp();
        for tunnel in &self.tunnels {
            match self.way {
                Way::Up => self.rig.send_up(tunnel.client, &self.run, self.size),
                Way::Down => self.rig.send_down(tunnel.gateway, &self.run, self.size, meter),
            }
        }
        self.rig.turn(meter);
        self.check()
    }

    /// What came out is what went in: each tunnel's own, in order, whole. Returns how many.
    fn check(&mut self) -> u64 {
        let arrived = match self.way {
            Way::Up => &mut self.rig.at_target,
            Way::Down => &mut self.rig.at_application,
        };
        let count = arrived.len() as u64;
        for (flow, payload) in arrived.drain(..) {
            let index = self.tunnels.iter().position(|tunnel| self.way.flow(*tunnel) == flow).unwrap();
            assert_eq!(payload.len(), self.size);
            assert_eq!(payload[..4], self.expected[index].to_be_bytes(), "tunnel {index}: lost or overtaken");
            assert!(payload[4..].iter().all(|byte| *byte == 0x5a));
            self.expected[index] += 1;
        }
        count
    }
}

impl Way {
    fn flow(self, tunnel: Tunnel) -> FlowId {
        match self {
            Self::Up => tunnel.gateway,
            Self::Down => tunnel.client,
        }
    }
}

impl Trace for Steady {
    fn round(&mut self, meter: &mut Meter) -> u64 {
        let count = self.send(meter);
        let asked = self.tunnels.len() * self.run.len() / self.size;
        assert_eq!(count, asked as u64, "of what was sent a tick ago");
        count
    }
}

pub(crate) fn up(size: usize, per_tunnel: usize) -> Box<dyn Trace> {
    Box::new(Steady::new(Way::Up, size, per_tunnel, Arrival::Whole, |_| ()))
}

/// As a client without segmentation offload sends them.
pub(crate) fn up_single(size: usize, per_tunnel: usize) -> Box<dyn Trace> {
    Box::new(Steady::new(Way::Up, size, per_tunnel, Arrival::Single, |_| ()))
}

pub(crate) fn down(size: usize, per_tunnel: usize) -> Box<dyn Trace> {
    Box::new(Steady::new(Way::Down, size, per_tunnel, Arrival::Whole, |_| ()))
}

/// The client's QUIC has no datagrams: both ways are capsules.
pub(crate) fn capsules_up(size: usize, per_tunnel: usize) -> Box<dyn Trace> {
    Box::new(Steady::new(Way::Up, size, per_tunnel, Arrival::Whole, without_datagrams))
}

pub(crate) fn capsules_down(size: usize, per_tunnel: usize) -> Box<dyn Trace> {
    Box::new(Steady::new(Way::Down, size, per_tunnel, Arrival::Whole, without_datagrams))
}

fn without_datagrams(options: &mut TransportOptions) {
    options.datagrams = false;
}

/// A connection with one tunnel, from the first packet until the gateway has forgotten both.
struct Connections {
    rig: Rig,
    resumed: bool,
}

impl Trace for Connections {
    fn round(&mut self, meter: &mut Meter) -> u64 {
        if !self.resumed {
            self.rig.forget_tickets();
        }
        let gateway = self.rig.connect();
        self.rig.open(gateway, meter);
        self.rig.disconnect(gateway, meter);
        assert_eq!(self.rig.load(), (0, 0));
        1
    }
}

fn connections(resumed: bool) -> Box<dyn Trace> {
    let mut trace = Connections { rig: Rig::new(Arrival::Whole, |_| ()), resumed };
    for _ in 0..3 {
        trace.round(&mut Meter::Off);
    }
    Box::new(trace)
}

pub(crate) fn full_handshakes() -> Box<dyn Trace> {
    connections(false)
}

pub(crate) fn resumed_handshakes() -> Box<dyn Trace> {
    connections(true)
}

/// Tunnels that open and close one after the other on a connection that stays.
struct Tunnels {
    rig: Rig,
    gateway: GatewayId,
}

impl Trace for Tunnels {
    fn round(&mut self, meter: &mut Meter) -> u64 {
        let tunnel = self.rig.open(self.gateway, meter);
        self.rig.finish(tunnel, meter);
        assert_eq!(self.rig.load(), (1, 0));
        1
    }
}

pub(crate) fn tunnels() -> Box<dyn Trace> {
    let mut rig = Rig::new(Arrival::Whole, |_| ());
    let gateway = rig.connect();
    let mut trace = Tunnels { rig, gateway };
    for _ in 0..100 {
        trace.round(&mut Meter::Off);
    }
    Box::new(trace)
}
