//! Hosts, paths between them, address translation, and the packets under way.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;

use crate::{
    link::{Fate, Link, LinkCounters, LinkModel},
    random::Random,
    trace::{Trace, TraceEntry, content},
    wiretap::{Secrets, Seen, Tally, Wiretap},
};

/// A machine: paths are between machines, sockets are on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostId(pub u32);

/// A UDP datagram.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// The sender as the receiver sees it, after translation.
    pub from: SocketAddr,
    /// The receiver, before translation back.
    pub to: SocketAddr,
    /// The two ECN bits.
    pub ecn: u8,
    /// UDP payload.
    pub data: Bytes,
}

/// A packet at its destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrival {
    /// The receiving socket's own address, after translation back.
    pub socket: SocketAddr,
    /// The packet.
    pub packet: Packet,
}

/// Packets that no link is to blame for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NetworkCounters {
    /// No host has the address.
    pub no_route: u64,
    /// A translator had no mapping for the address any more.
    pub no_mapping: u64,
}

#[derive(Debug)]
struct UnderWay {
    link: (HostId, HostId),
    /// What the wiretap has read, if the packet is whole.
    seen: Option<Seen>,
    arrival: Arrival,
}

/// The wires of a world. Time is an argument; the order of arrivals is total: by time, then by sending.
#[derive(Debug)]
pub struct Network {
    seed: u64,
    /// Which host a socket's address is on.
    sockets: BTreeMap<SocketAddr, HostId>,
    /// Own address → address seen outside, for sockets behind a translator.
    outside: BTreeMap<SocketAddr, SocketAddr>,
    /// And back.
    inside: BTreeMap<SocketAddr, SocketAddr>,
    links: BTreeMap<(HostId, HostId), Link>,
    default_model: LinkModel,
    under_way: BTreeMap<(Duration, u64), UnderWay>,
    sent: u64,
    trace: Trace,
    counters: NetworkCounters,
    wiretap: Option<Wiretap>,
}

impl Network {
    /// No hosts yet; paths that are not set behave as `default_model`.
    pub fn new(seed: u64, default_model: LinkModel) -> Self {
        Self {
            seed,
            sockets: BTreeMap::new(),
            outside: BTreeMap::new(),
            inside: BTreeMap::new(),
            links: BTreeMap::new(),
            default_model,
            under_way: BTreeMap::new(),
            sent: 0,
            trace: Trace::default(),
            counters: NetworkCounters::default(),
            wiretap: None,
        }
    }

    /// Somebody listens from now on; the log that clients give their secrets to.
    pub(crate) fn tap(&mut self) -> Arc<Secrets> {
        self.wiretap.get_or_insert_default().secrets()
    }

    /// What the wiretap has counted, from the client at `host` or towards it.
    pub fn tally(&self, host: HostId, from_client: bool) -> Tally {
        self.wiretap.as_ref().map_or_else(Tally::default, |wiretap| wiretap.tally(host, from_client))
    }

    /// Puts a socket on a host.
    pub fn add_socket(&mut self, address: SocketAddr, host: HostId) {
        self.sockets.insert(address, host);
    }

    /// The socket is closed; packets under way to it are dropped by the world on arrival.
    pub fn remove_socket(&mut self, address: SocketAddr) {
        self.sockets.remove(&address);
    }

    /// The host that a socket is on.
    pub fn host_of(&self, address: SocketAddr) -> Option<HostId> {
        self.sockets.get(&address).copied()
    }

    /// From now on, what `socket` sends seems to come from `outside`, and only what is sent to `outside` reaches it.
    /// An earlier mapping is forgotten, as when a translator restarts: this is the hook for rebinding.
    pub fn translate(&mut self, socket: SocketAddr, outside: SocketAddr) {
        if let Some(old) = self.outside.insert(socket, outside) {
            self.inside.remove(&old);
        }
        self.inside.insert(outside, socket);
    }

    /// The address under which others know a socket.
    pub fn outside_address(&self, socket: SocketAddr) -> SocketAddr {
        self.outside.get(&socket).copied().unwrap_or(socket)
    }

    /// Sets how packets travel from one host to another from now on.
    pub fn set_link(&mut self, from: HostId, to: HostId, model: LinkModel) {
        self.link(from, to).set_model(model);
    }

    /// The largest payload that a link takes.
    pub fn mtu(&self, from: HostId, to: HostId) -> usize {
        self.links.get(&(from, to)).map_or(self.default_model.mtu, Link::mtu)
    }

    /// What one direction did so far.
    pub fn link_counters(&mut self, from: HostId, to: HostId) -> LinkCounters {
        self.link(from, to).counters()
    }

    fn link(&mut self, from: HostId, to: HostId) -> &mut Link {
        let Self { seed, links, default_model, .. } = self;
        links.entry((from, to)).or_insert_with(|| {
            let random = Random::new(*seed, &format!("link {} to {}", from.0, to.0));
            Link::new(default_model.clone(), random)
        })
    }

    /// Sends from a socket. What has no destination vanishes, counted.
    pub fn send(&mut self, now: Duration, socket: SocketAddr, to: SocketAddr, ecn: u8, data: &Bytes) {
        let source = self.sockets.get(&socket).copied();
        let seen = self.wiretap.as_mut().zip(source).and_then(|(wiretap, host)| wiretap.see(now, host, data));
        let destination = match self.inside.get(&to) {
            Some(inside) => *inside,
            // Behind a translator nobody is reached by his own address.
            None if self.outside.contains_key(&to) => {
                self.counters.no_mapping += 1;
                return;
            }
            None => to,
        };
        let (Some(source_host), Some(&target_host)) = (source, self.sockets.get(&destination)) else {
            self.counters.no_route += 1;
            return;
        };
        let fate = self.link(source_host, target_host).offer(now, data.len());
        let direction = (source_host.0, target_host.0);
        let ways: &[Duration] = match &fate {
            Fate::Arrives(way) | Fate::Corrupted(way, _) => &[*way],
            Fate::Doubled(first, second) => &[*first, *second],
            Fate::Lost | Fate::TooLong | Fate::QueueFull => &[],
        };
        let (data, seen) = match fate {
            Fate::Corrupted(_, bit) => (&flipped(data, bit), None),
            Fate::Arrives(_) | Fate::Doubled(..) | Fate::Lost | Fate::TooLong | Fate::QueueFull => (data, seen),
        };
        self.trace.push(TraceEntry {
            time: now,
            direction,
            bytes: data.len(),
            content: content(data),
            copies: ways.len() as u8,
        });
        let from = self.outside_address(socket);
        for way in ways {
            let packet = Packet { from, to, ecn, data: data.clone() };
            let arrival = Arrival { socket: destination, packet };
            let under_way = UnderWay { link: (source_host, target_host), seen, arrival };
            self.under_way.insert((now + *way, self.sent), under_way);
            self.sent += 1;
        }
    }

    /// When the next packet arrives.
    pub fn next_arrival(&self) -> Option<Duration> {
        self.under_way.first_key_value().map(|((time, _), _)| *time)
    }

    /// Takes the next packet that has arrived by `now`. A mapping that was changed while it was under way loses it.
    pub fn arrive(&mut self, now: Duration) -> Option<Arrival> {
        loop {
            let entry = self.under_way.first_entry()?;
            if entry.key().0 > now {
                return None;
            }
            let UnderWay { link: (source_host, target_host), seen, arrival } = entry.remove();
            let reachable = match self.inside.get(&arrival.packet.to) {
                Some(inside) => *inside == arrival.socket,
                None => arrival.packet.to == arrival.socket && !self.outside.contains_key(&arrival.socket),
            };
            if reachable && self.sockets.contains_key(&arrival.socket) {
                if let (Some(wiretap), Some(seen)) = (&mut self.wiretap, seen) {
                    wiretap.arrived(now, &seen);
                }
                return Some(arrival);
            }
            self.counters.no_mapping += 1;
            self.link(source_host, target_host).count_unreachable();
        }
    }

    /// Everything that entered a link.
    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    /// Packets without a way.
    pub fn counters(&self) -> NetworkCounters {
        self.counters
    }
}

/// The packet with one bit flipped, any of them.
fn flipped(data: &Bytes, bit: u64) -> Bytes {
    let mut data = data.to_vec();
    let bit = bit.checked_rem(data.len() as u64 * 8).unwrap_or(0);
    if let Some(byte) = data.get_mut((bit / 8) as usize) {
        *byte ^= 0x80 >> (bit % 8);
    }
    data.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALICE: &str = "10.0.0.1:1";
    const BOB: &str = "192.0.2.1:2";

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn network() -> Network {
        let mut network = Network::new(1, LinkModel::default());
        network.add_socket(address(ALICE), HostId(0));
        network.add_socket(address(BOB), HostId(1));
        network
    }

    fn send(network: &mut Network, now: u64, from: &str, to: &str, text: &'static str) {
        network.send(Duration::from_millis(now), address(from), address(to), 0, &Bytes::from(text));
    }

    #[test]
    fn packets_arrive_in_time_and_in_order() {
        let mut network = network();
        send(&mut network, 0, ALICE, BOB, "first");
        send(&mut network, 0, ALICE, BOB, "second");
        assert_eq!(network.next_arrival(), Some(Duration::from_millis(1)));
        assert_eq!(network.arrive(Duration::from_micros(999)), None);
        let texts: Vec<_> = std::iter::from_fn(|| network.arrive(Duration::from_millis(1)))
            .map(|arrival| arrival.packet.data)
            .collect();
        assert_eq!(texts, ["first", "second"]);
    }

    #[test]
    fn a_translator_shows_another_address_and_forgets_the_old_one() {
        let mut network = network();
        network.translate(address(ALICE), address("198.51.100.1:40000"));
        send(&mut network, 0, ALICE, BOB, "hello");
        let arrival = network.arrive(Duration::from_secs(1)).unwrap();
        assert_eq!(arrival.packet.from, address("198.51.100.1:40000"));
        send(&mut network, 10, BOB, "198.51.100.1:40000", "before");
        network.translate(address(ALICE), address("198.51.100.1:40001"));
        assert_eq!(network.arrive(Duration::from_secs(1)), None, "the mapping changed while it was under way");
        send(&mut network, 20, BOB, "198.51.100.1:40000", "late");
        send(&mut network, 20, BOB, ALICE, "direct");
        assert_eq!(network.arrive(Duration::from_secs(1)), None);
        send(&mut network, 30, BOB, "198.51.100.1:40001", "after");
        let arrival = network.arrive(Duration::from_secs(1)).unwrap();
        assert_eq!((arrival.socket, arrival.packet.data), (address(ALICE), Bytes::from("after")));
        assert_eq!(network.counters(), NetworkCounters { no_route: 1, no_mapping: 2 });
    }

    #[test]
    fn a_corrupted_packet_differs_in_one_bit() {
        let data = Bytes::from_static(&[0xa5; 9]);
        for bit in 0..1000 {
            let changed = flipped(&data, bit);
            let bits: u32 = data.iter().zip(&changed).map(|(a, b)| (a ^ b).count_ones()).sum();
            assert_eq!(bits, 1, "bit {bit}");
        }
        assert_eq!(flipped(&Bytes::new(), 7), Bytes::new());
    }

    #[test]
    fn the_trace_repeats_with_the_seed_and_differs_with_another() {
        let run = |seed| {
            let mut network = Network::new(seed, LinkModel::rough());
            network.add_socket(address(ALICE), HostId(0));
            network.add_socket(address(BOB), HostId(1));
            for now in 0..1000 {
                send(&mut network, now, ALICE, BOB, "payload");
            }
            network.trace().hash()
        };
        assert_eq!(run(5), run(5));
        assert_ne!(run(5), run(6));
    }
}
