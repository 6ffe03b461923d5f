//! A world as its seed wants it, step by step, under the eyes of the model.

mod checks;

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use moretta_core::{Command, Counters, GatewayId, LinkId, TransportOptions, TunnelToken};
use moretta_proto::{limits::Limits, profile::Profile};
use moretta_sim::{ClientId, GatewaySpec, LinkModel, Random, SiteId, Stamp, TargetKind, Trace, World};

use crate::common::{GATEWAY, address};
use crate::model::{Holder, Model};
use crate::raw::RawClient;

/// Targets; those above the first few are reached over paths that lose and reorder.
const TARGETS: u8 = 7;
const CLEAN_TARGETS: u8 = 4;
const MOST_TUNNELS: u64 = 60;

struct Client {
    id: ClientId,
    /// Its socket in use, and the number of it.
    own: SocketAddr,
    links: u32,
    gateway: GatewayId,
    /// Datagrams that its tunnels' flows took, and that its applications got.
    sent: u64,
    received: u64,
    drained: bool,
}

/// What a world leaves for comparison.
pub(crate) struct Story {
    world: World,
    pub(crate) events: Vec<String>,
    /// Of all cores together.
    pub(crate) counters: Counters,
}

impl Story {
    pub(crate) fn trace(&self) -> &Trace {
        self.world.trace()
    }
}

pub(crate) struct Explorer {
    world: World,
    random: Random,
    model: Model,
    site: SiteId,
    slots: Vec<u8>,
    clients: Vec<Client>,
    raw: Vec<RawClient>,
    targets: BTreeMap<SocketAddr, (TargetKind, usize)>,
    serial: u64,
    ports: u16,
    /// Per mille of steps in which the gateway begins to drain.
    drains: u32,
    drained: bool,
    /// The gateway takes QUIC datagrams.
    datagrams: bool,
}

fn milliseconds(number: u64) -> Duration {
    Duration::from_millis(number)
}

fn target(index: u8) -> SocketAddr {
    SocketAddr::from(([9, 9, 9, index], 7000 + u16::from(index)))
}

fn raw_address(index: usize) -> SocketAddr {
    SocketAddr::from(([10, 1, 0, index as u8 + 1], 6000))
}

impl Explorer {
    /// A whole life: birth, steps, calm, death.
    pub(crate) fn live(seed: u64) -> Story {
        let mut explorer = Self::new(seed);
        let steps = 150 + explorer.random.below(600);
        for _ in 0..steps {
            explorer.step();
            explorer.observe();
        }
        explorer.calm();
        explorer.die();
        let (events, counters) = (explorer.events(), explorer.counters());
        Story { world: explorer.world, events, counters }
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.random.below(from.len() as u64) as usize].clone()
    }

    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed, "explorer");
        let mut world = World::new(seed, LinkModel::default()).unwrap();
        world.watch_levels();
        world.tap_wires();
        let slots: Vec<u8> = (0..=random.below(4) as u8).map(|slot| slot * 7).collect();
        let spec = GatewaySpec {
            slots: slots.clone(),
            limits: any_limits(&mut random),
            profile: if random.chance(500) { Profile::hardened() } else { Profile::interop() },
            transport: any_transport(&mut random),
            ..GatewaySpec::new(address(GATEWAY))
        };
        let site = world.add_gateway(&spec).unwrap();
        let drains = if random.chance(300) { 10 } else { 0 };
        let mut explorer = Self {
            world,
            random,
            model: Model::default(),
            site,
            slots,
            clients: Vec::new(),
            raw: Vec::new(),
            targets: BTreeMap::new(),
            serial: 0,
            ports: 40_000,
            drains,
            drained: false,
            datagrams: spec.transport.datagrams,
        };
        for index in 1..=TARGETS {
            let kind = explorer.pick(&[TargetKind::Echo, TargetKind::Echo, TargetKind::Sink, TargetKind::Refuse]);
            let kind = if index == 1 { TargetKind::Echo } else { kind };
            explorer.world.add_target(target(index), kind);
            explorer.targets.insert(target(index), (kind, 0));
            if index > CLEAN_TARGETS {
                let loss_per_mille = explorer.pick(&[10, 100, 300]);
                let model = LinkModel { loss_per_mille, reorder_per_mille: 100, ..LinkModel::default() };
                explorer.world.set_path(target(index), address(GATEWAY), &model);
            }
        }
        for _ in 0..explorer.random.below(4) {
            explorer.add_client();
        }
        for _ in 0..explorer.random.below(3) {
            explorer.add_raw();
        }
        if explorer.clients.is_empty() && explorer.raw.is_empty() {
            explorer.add_client();
        }
        // Most worlds let the handshakes pass first: one whose client moves meanwhile is lost (RFC 9000 §9).
        if explorer.random.chance(700) {
            explorer.world.run_for(Duration::from_secs(2));
        }
        explorer
    }

    fn add_client(&mut self) {
        let index = self.clients.len();
        let own = SocketAddr::from(([10, 0, 0, index as u8 + 1], 5000));
        let transport = any_transport(&mut self.random);
        let id = self.world.add_client(own, transport).unwrap();
        let gateway = GatewayId(index as u64 * 1000);
        self.clients.push(Client { id, own, links: 0, gateway, sent: 0, received: 0, drained: false });
        self.translate(own);
        self.change_paths(own);
        self.connect(index);
    }

    fn connect(&mut self, client: usize) {
        let Client { id, links, gateway, .. } = self.clients[client];
        let time = Duration::from_secs(self.pick(&[2, 30]));
        self.world.connect_over(id, gateway, LinkId(links), vec![address(GATEWAY)], time).unwrap();
    }

    fn add_raw(&mut self) {
        let own = raw_address(self.raw.len());
        let id = self.world.add_peer(own, address(GATEWAY)).unwrap();
        self.raw.push(RawClient::new(id));
        self.translate(own);
        self.change_paths(own);
    }

    fn translate(&mut self, own: SocketAddr) {
        self.ports += 1;
        self.world.network.translate(own, SocketAddr::from(([198, 51, 100, 7], self.ports)));
    }

    fn change_paths(&mut self, own: SocketAddr) {
        let model = self.any_path();
        self.world.set_path(own, address(GATEWAY), &model);
        if self.random.chance(400) {
            self.change_direction(own);
        }
    }

    /// One direction alone.
    fn change_direction(&mut self, own: SocketAddr) {
        let model = self.any_path();
        let (one, other) = (self.world.host_of(own).unwrap(), self.world.host_of(address(GATEWAY)).unwrap());
        let (from, to) = if self.random.chance(500) { (one, other) } else { (other, one) };
        self.world.network.set_link(from, to, model);
    }

    fn any_path(&mut self) -> LinkModel {
        if self.random.chance(20) {
            return LinkModel { loss_per_mille: 1000, ..LinkModel::default() };
        }
        LinkModel {
            delay: Duration::from_micros(self.pick(&[100, 1_000, 10_000, 60_000])),
            jitter: Duration::from_micros(self.pick(&[0, 300, 8_000])),
            loss_per_mille: self.pick(&[0, 0, 10, 30, 100, 300]),
            duplicate_per_mille: self.pick(&[0, 0, 50, 300, 1000]),
            duplicate_delay: milliseconds(self.pick(&[0, 50, 2_000])),
            corrupt_per_mille: self.pick(&[0, 0, 0, 10, 100]),
            reorder_per_mille: self.pick(&[0, 0, 50, 300]),
            reorder_delay: milliseconds(self.pick(&[2, 30, 300])),
            mtu: self.pick(&[65_507, 1500, 1472, 1452, 1400, 1280, 1252, 1232, 1200]),
            rate: self.pick(&[None, None, None, Some(50_000), Some(400_000), Some(5_000_000)]),
            queue_bytes: self.pick(&[3_000, 30_000, 200_000]),
        }
    }

    fn any_near_end(&mut self) -> SocketAddr {
        let index = self.random.below((self.clients.len() + self.raw.len()) as u64) as usize;
        match self.clients.get(index) {
            Some(client) => client.own,
            None => raw_address(index - self.clients.len()),
        }
    }

    fn step(&mut self) {
        for raw in &mut self.raw {
            raw.settle(&mut self.world);
        }
        let end = self.any_near_end();
        let tunnel = self.any_tunnel();
        match self.random.below(1000) {
            0..110 => self.open(),
            110..130 => self.end(tunnel),
            130..145 => self.translate(end),
            145..175 => self.change_direction(end),
            175..185 => self.change_paths(end),
            185..195 => self.move_client(),
            195..205 => {
                let per_mille = self.pick(&[0, 300, 1000]);
                self.world.set_misrouting(self.site, per_mille);
            }
            205..215 => self.change_accepting(),
            215..220 => self.reconnect(),
            220..235 => self.toggle_reading(),
            235..240 => {
                let pause = self.random.duration(Duration::from_secs(3));
                self.world.run_for(pause);
            }
            240..243 => self.drain_client(),
            243..253 => self.flood(tunnel),
            253..700 => self.near_end_sends(tunnel, 8),
            700..950 => self.target_sends(tunnel, 8),
            _ => {}
        }
        if !self.drained && self.random.chance(self.drains) {
            self.drained = true;
            let deadline = self.world.instant_after(milliseconds(self.random.below(3_000)));
            self.world.command_gateway(self.site, |_| Command::Drain { deadline });
        }
        let pause = self.random.duration(milliseconds(12));
        self.world.run_for(pause);
    }

    fn any_tunnel(&mut self) -> Option<u64> {
        let count = self.model.tunnels.len() as u64;
        (count > 0).then(|| *self.model.tunnels.keys().nth(self.random.below(count) as usize).unwrap())
    }

    fn open(&mut self) {
        let tunnel = self.model.tunnels.len() as u64 + 1;
        if tunnel > MOST_TUNNELS {
            return;
        }
        let target = target(1 + self.random.below(TARGETS.into()) as u8);
        let (host, may_open) = match self.random.below(10) {
            0 => ("nowhere.target.test".to_owned(), false),
            1 => ("8.8.8.8".to_owned(), false),
            2..5 => {
                let name = format!("t{tunnel}.target.test");
                self.world.set_name(&name, Ok(vec![target.ip()]));
                (name, true)
            }
            _ => (target.ip().to_string(), true),
        };
        let index = self.random.below((self.clients.len() + self.raw.len()) as u64) as usize;
        if let Some(client) = self.clients.get(index) {
            let (id, gateway) = (client.id, client.gateway);
            self.model.ask(tunnel, Holder::Client(index), target, may_open);
            self.world.open_udp(id, gateway, TunnelToken(tunnel), &host, target.port());
        } else {
            self.open_raw(index - self.clients.len(), tunnel, &host, target, may_open);
        }
    }

    fn open_raw(&mut self, index: usize, tunnel: u64, host: &str, target: SocketAddr, may_open: bool) {
        let capsules = self.random.chance(500) || !self.datagrams;
        let raw = &mut self.raw[index];
        if !raw.is_alive(&mut self.world) {
            return;
        }
        let Some(stream) = raw.open(&mut self.world, tunnel, host, target.port(), capsules) else { return };
        self.model.ask(tunnel, Holder::Raw(index, stream), target, may_open);
        // On the gateway's other side only a perfect wire keeps all of it, in order.
        let is_clean = target.port() <= 7000 + u16::from(CLEAN_TARGETS);
        self.model.tunnels.get_mut(&tunnel).unwrap().reliable = capsules && is_clean;
    }

    fn end(&mut self, tunnel: Option<u64>) {
        let Some(tunnel) = tunnel else { return };
        let reset = self.random.chance(500);
        match self.model.tunnels[&tunnel].holder {
            Holder::Client(index) => {
                let token = TunnelToken(tunnel);
                let command = if reset { Command::ResetTunnel(token) } else { Command::FinishTunnel(token) };
                self.world.command_client(self.clients[index].id, command);
            }
            Holder::Raw(index, stream) => self.raw[index].end(&mut self.world, stream, reset),
        }
    }

    fn any_client(&mut self) -> Option<usize> {
        let count = self.clients.len() as u64;
        (count > 0).then(|| self.random.below(count) as usize)
    }

    /// Another socket, which the network has not seen before.
    fn another_socket(&mut self, client: usize) -> LinkId {
        let Client { id, links, own, .. } = &mut self.clients[client];
        *links += 1;
        own.set_port(own.port() + 1);
        let (id, link, own) = (*id, LinkId(*links), *own);
        self.world.add_client_link(id, link, own);
        self.translate(own);
        link
    }

    fn move_client(&mut self) {
        let Some(client) = self.any_client() else { return };
        let link = self.another_socket(client);
        let Client { id, gateway, .. } = self.clients[client];
        self.world.rebind(id, gateway, link);
    }

    fn reconnect(&mut self) {
        let Some(client) = self.any_client().filter(|client| !self.clients[*client].drained) else { return };
        let Client { id, gateway, .. } = self.clients[client];
        self.world.command_client(id, Command::CloseGateway(gateway));
        self.another_socket(client);
        self.clients[client].gateway.0 += 1;
        self.connect(client);
    }

    fn drain_client(&mut self) {
        let Some(client) = self.any_client() else { return };
        self.clients[client].drained = true;
        let deadline = self.world.instant_after(milliseconds(self.random.below(3_000)));
        self.world.command_client(self.clients[client].id, Command::Drain { deadline });
    }

    /// Some slots take new connections, at least one does.
    fn change_accepting(&mut self) {
        let kept = self.random.below(self.slots.len() as u64) as usize;
        for (index, slot) in self.slots.clone().into_iter().enumerate() {
            let accepting = index == kept || self.random.chance(500);
            self.world.set_accepting(self.site, slot, accepting);
        }
    }

    fn toggle_reading(&mut self) {
        let Some(raw) = self.raw.first_mut() else { return };
        raw.reading = !raw.reading;
        self.world.peer(raw.id).set_reading(raw.reading);
    }

    fn payload(&mut self, tunnel: u64) -> (u64, bytes::Bytes) {
        self.serial += 1;
        let most = self.pick(&[30, 100, 1100, 1100, 1400]);
        let bytes = 24 + self.random.below(most);
        (self.serial, Stamp { tunnel, serial: self.serial }.payload(bytes as usize))
    }

    fn flood(&mut self, tunnel: Option<u64>) {
        if self.random.chance(500) {
            self.near_end_sends(tunnel, 1500);
        } else {
            self.target_sends(tunnel, 1500);
        }
    }

    fn near_end_sends(&mut self, tunnel: Option<u64>, most: u64) {
        let Some(tunnel) = tunnel else { return };
        for _ in 0..=self.random.below(most) {
            let (serial, payload) = self.payload(tunnel);
            match self.model.tunnels[&tunnel].holder {
                Holder::Client(index) => {
                    let client = &mut self.clients[index];
                    // Not taken while the tunnel is not open, which is as good a case as any.
                    if self.world.send(client.id, TunnelToken(tunnel), &payload) {
                        client.sent += 1;
                        self.model.offer_up(tunnel, serial);
                    }
                }
                Holder::Raw(index, stream) => self.raw_sends(index, stream, tunnel, serial, &payload),
            }
        }
    }

    fn raw_sends(&mut self, index: usize, stream: u64, tunnel: u64, serial: u64, payload: &[u8]) {
        let raw = &mut self.raw[index];
        let request = &raw.requests[&stream];
        if request.over || !raw.is_alive(&mut self.world) {
            return;
        }
        self.model.offer_up(tunnel, serial);
        if request.capsules {
            raw.send_capsule(&mut self.world, stream, payload, &mut self.random);
        } else {
            raw.send_datagram(&mut self.world, stream, payload);
        }
    }

    fn target_sends(&mut self, tunnel: Option<u64>, most: u64) {
        let Some(tunnel) = tunnel else { return };
        let (target, socket) = (self.model.tunnels[&tunnel].target, self.model.tunnels[&tunnel].socket);
        let Some(socket) = socket else { return };
        for _ in 0..=self.random.below(most) {
            let (serial, payload) = self.payload(tunnel);
            self.model.offer_down(tunnel, serial);
            self.world.target_sends(target, socket, &payload);
        }
    }

    /// Shows the model what has come out since the last look.
    fn observe(&mut self) {
        for (target, (kind, seen)) in &mut self.targets {
            let received = self.world.target_received(*target);
            for (from, payload) in &received[*seen..] {
                self.model.at_target(*target, *kind, *from, payload);
            }
            *seen = received.len();
        }
        for (tunnel, holder) in self.model.tunnels.iter().map(|(id, it)| (*id, it.holder)).collect::<Vec<_>>() {
            let Holder::Client(index) = holder else { continue };
            for payload in self.world.take_received(self.clients[index].id, TunnelToken(tunnel)) {
                self.clients[index].received += 1;
                self.model.at_near_end(tunnel, &payload);
            }
        }
        for raw in &mut self.raw {
            for (tunnel, payload) in raw.receive(&mut self.world) {
                self.model.at_near_end(tunnel, &payload);
            }
        }
    }

    fn counters(&self) -> Counters {
        let mut counters = self.world.gateway_counters(self.site);
        for client in &self.clients {
            counters.add(&self.world.client_counters(client.id));
        }
        counters
    }

    fn events(&self) -> Vec<String> {
        let mut lines: Vec<String> =
            self.clients.iter().flat_map(|client| self.world.events(client.id)).map(|it| format!("{it:?}")).collect();
        lines.extend(self.world.gateway_events(self.site).iter().map(|it| format!("{it:?}")));
        lines.extend(self.world.records(self.site).iter().map(|it| format!("{it:?}")));
        lines.push(format!("{:?}", self.counters()));
        lines
    }
}

fn any_limits(random: &mut Random) -> Limits {
    let mut one_of = |from: &[u64]| from[random.below(from.len() as u64) as usize];
    Limits {
        max_connections: one_of(&[2, 10_000, 10_000, 10_000]) as usize,
        half_open_before_retry: one_of(&[0, 1, 256, 256]) as usize,
        max_tunnels: one_of(&[5, 20_000, 20_000, 20_000]),
        max_tunnels_per_connection: one_of(&[2, 1024, 1024, 1024]) as usize,
        tunnel_queue_bytes: one_of(&[16_384, 65_536, 262_144]) as usize,
        tunnel_queue_time: milliseconds(one_of(&[20, 200, 1_000])),
        early_datagram_bytes: one_of(&[0, 2_000, 65_536]) as usize,
        ..Limits::default()
    }
}

fn any_transport(random: &mut Random) -> TransportOptions {
    let mut one_of = |from: &[u64]| from[random.below(from.len() as u64) as usize];
    TransportOptions {
        initial_bidi_streams: one_of(&[1, 4, 128, 128]) as u32,
        stream_receive_window: one_of(&[4_096, 65_536, 65_536]) as u32,
        receive_window: one_of(&[8_192, 524_288, 524_288]) as u32,
        send_window: one_of(&[8_192, 524_288, 524_288]),
        datagrams: one_of(&[0, 1, 1, 1, 1]) == 1,
        mtu_discovery: one_of(&[0, 1, 1]) == 1,
        max_segments: one_of(&[1, 64, 64]) as usize,
        ..TransportOptions::default()
    }
}
