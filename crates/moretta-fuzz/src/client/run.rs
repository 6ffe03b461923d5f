//! One client's core through one input.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use moretta_core::{
    Action as Do, Command, Core, Counters, FlowError, FlowKind, FlowPath, GatewayId, Input, LinkId, Now, OpenGateway,
    OpenUdp, Outputs, Train, TunnelToken,
};
use moretta_sim::{Peer, Random, SERVER_NAME, bytes3};
use moretta_wire::template::UriTemplate;
use moretta_wire::varint;
use quinn_proto::ServerConfig;

use super::actions::{ANSWERS, Action, Change};
use super::books::Books;
use super::setup::Settings;
use crate::forge::Forge;
use crate::input::Input as Choices;
use crate::tls;

/// Where a gateway's client looks for the server, in this order.
const ADDRESSES: [SocketAddr; 2] = [address(1, 443), address(2, 443)];
/// Where packets come from that are not from there.
const ELSEWHERE: SocketAddr = address(3, 443);
const STRANGER: SocketAddr = address(66, 666);
const CONNECT_TIME: Duration = Duration::from_secs(10);
const ANSWER_TIME: Duration = Duration::from_secs(20);
/// A handshake is the dearest thing in a run.
const MAX_GATEWAYS: u64 = 3;
const MAX_SERVERS: usize = 6;
const MAX_TUNNELS: u64 = 40;
/// Turns without anything new after which a core should have come to rest.
const MAX_TURNS: usize = 1000;

const fn address(last: u8, port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, last)), port)
}

/// The server's half of one connection.
struct Server {
    peer: Peer,
    gateway: u64,
    /// Where the client believes it to be.
    address: SocketAddr,
    /// Where the client's packets left last.
    link: LinkId,
    unis: Vec<u64>,
}

pub(super) struct Run {
    core: Core,
    outputs: Outputs,
    settings: Settings,
    forge: Forge,
    config: Arc<ServerConfig>,
    now: Now,
    random: Random,
    servers: Vec<Server>,
    gateways: u64,
    tunnels: u64,
    /// The gateway of each link, by the link's number.
    links: Vec<u64>,
    elsewhere: bool,
    held: bool,
    books: Books,
}

impl Run {
    pub(super) fn new(settings: u8) -> Self {
        let settings = Settings::read(settings);
        let now = Now { instant: Instant::now(), unix: Duration::from_secs(1_798_761_600) };
        let forge = Forge::default();
        let config = settings.server(&forge);
        let mut run = Self {
            core: Core::new(settings.config(), settings.snapshot(), now),
            outputs: Outputs::new(),
            settings,
            forge,
            config,
            now,
            random: Random::new(1, "fuzz"),
            servers: Vec::new(),
            gateways: 0,
            tunnels: 0,
            links: Vec::new(),
            elsewhere: false,
            held: false,
            books: Books::new(),
        };
        run.connect();
        run.settle();
        if settings.first_address_is_dead {
            // Half of the time is the first one's.
            run.advance(CONNECT_TIME / 2);
            run.settle();
        }
        run
    }

    fn connect(&mut self) {
        let gateway = GatewayId(self.gateways);
        self.gateways += 1;
        let link = self.new_link(gateway.0);
        self.books.connect(gateway);
        let open = OpenGateway {
            gateway,
            link,
            remotes: ADDRESSES.to_vec(),
            server_name: SERVER_NAME.to_owned(),
            tls: tls::client(),
            template: UriTemplate::for_origin(&format!("https://{SERVER_NAME}")).unwrap(),
            deadline: self.now.instant + CONNECT_TIME,
        };
        self.command(Command::OpenGateway(open));
    }

    fn new_link(&mut self, gateway: u64) -> LinkId {
        self.links.push(gateway);
        LinkId(self.links.len() as u32 - 1)
    }

    fn command(&mut self, command: Command) {
        self.core.handle(self.now, Input::Command(command));
    }

    pub(super) fn finish(mut self, data: &[u8]) -> Counters {
        let mut choices = Choices::new(data);
        while let Some(action) = Action::read(&mut choices) {
            self.apply(action);
            self.settle();
            self.books.check(self.core.counters());
        }
        self.end();
        *self.core.counters()
    }

    fn apply(&mut self, action: Action<'_>) {
        match action {
            Action::Raw { stranger, bytes } => {
                let from = if stranger { STRANGER } else { self.servers.last().map_or(STRANGER, |last| last.address) };
                let link = LinkId(self.links.len() as u32 - 1);
                self.receive(link, from, 0, BytesMut::from(bytes));
            }
            Action::Change { what, at, value } => self.change(what, at, value),
            Action::Frames(frames) => self.frames(frames),
            Action::Stream { uni, index, fin, bytes } => self.write(uni, index, &bytes, fin),
            Action::Answer { index, choice, fin } => {
                let head = bytes3::headers(ANSWERS[usize::from(choice) % ANSWERS.len()]);
                self.write(false, index, &head, fin);
            }
            Action::Datagram { raw: true, bytes, .. } => self.datagram(Bytes::copy_from_slice(bytes)),
            Action::Datagram { raw: false, index, bytes } => {
                // Those of the client, and some that there are not.
                let stream = self.requests().get(index).copied().unwrap_or(4 * index as u64);
                self.datagram(bytes3::datagram(stream, bytes).into());
            }
            Action::Reset { index, code } => self.on_request(index, |peer, stream| peer.reset(stream, code)),
            Action::Stop { index, code } => self.on_request(index, |peer, stream| peer.stop(stream, code)),
            Action::CloseServer { code } => {
                let now = self.now.instant;
                if let Some(server) = self.servers.last_mut() {
                    server.peer.close(now, code);
                }
            }
            Action::UpdateKeys => {
                if let Some(server) = self.servers.last_mut().filter(|server| server.peer.is_connected()) {
                    server.peer.update_keys();
                }
            }
            Action::Elsewhere { right } => self.elsewhere = !right,
            Action::Hold(held) => self.held = held,
            Action::Advance { milliseconds } => self.advance(Duration::from_millis(milliseconds)),
            Action::Connect if self.gateways < MAX_GATEWAYS => self.connect(),
            Action::Connect => {}
            Action::Ask { target } => self.ask(target),
            Action::FromApplication { flow, segment_size, bytes } => {
                if let Some(flow) = self.books.flows.keys().nth(flow % self.books.flows.len().max(1)).copied() {
                    self.core.flow_share(flow);
                    self.core.handle(self.now, Input::Flow { flow, data: bytes, segment_size });
                }
            }
            Action::End { index, finish } => {
                let token = TunnelToken(index as u64 % self.tunnels.max(1));
                self.command(if finish { Command::FinishTunnel(token) } else { Command::ResetTunnel(token) });
            }
            Action::FlowError { flow } => {
                if let Some(flow) = self.books.flows.keys().nth(flow % self.books.flows.len().max(1)).copied() {
                    self.core.handle(self.now, Input::FlowError { flow, error: FlowError::Closed });
                }
            }
            Action::Order { what } => self.order(what),
        }
    }

    fn order(&mut self, what: u8) {
        let newest = GatewayId(self.gateways - 1);
        let command = match what % 6 {
            0 => Command::Ping(newest),
            1 => Command::CloseGateway(newest),
            2 => Command::Rebind { gateway: newest, link: self.new_link(newest.0) },
            3 => Command::Drain { deadline: self.now.instant + Duration::from_secs(u64::from(what)) },
            4 => Command::Close,
            _ => {
                let link = LinkId(u32::from(what) % self.links.len() as u32);
                self.core.handle(self.now, Input::LinkError { link, detail: "gone".to_owned() });
                return;
            }
        };
        self.command(command);
    }

    fn ask(&mut self, target: u8) {
        if self.tunnels >= MAX_TUNNELS {
            return;
        }
        let tunnel = TunnelToken(self.tunnels);
        self.tunnels += 1;
        let gateway = GatewayId(self.gateways - 1);
        self.books.ask(tunnel, gateway);
        let host = ["192.0.2.6", "2001:db8::6", "host.test", "a%2f/ ?#"][usize::from(target % 4)].to_owned();
        self.command(Command::OpenUdp(OpenUdp {
            gateway,
            tunnel,
            flow_kind: FlowKind::Local { tunnel },
            host,
            port: 9,
            deadline: self.now.instant + ANSWER_TIME,
        }));
    }

    /// Streams of the client's that the newest server knows of: those that it answers.
    fn requests(&self) -> Vec<u64> {
        let streams = self.servers.last().into_iter().flat_map(|server| server.peer.streams());
        streams.filter(|stream| stream.is_multiple_of(4)).collect()
    }

    fn on_request(&mut self, index: usize, act: impl FnOnce(&mut Peer, u64)) {
        let requests = self.requests();
        let Some(stream) = requests.get(index % requests.len().max(1)).copied() else { return };
        if let Some(server) = self.servers.last_mut() {
            act(&mut server.peer, stream);
        }
    }

    fn write(&mut self, uni: bool, index: usize, bytes: &[u8], fin: bool) {
        if !uni {
            self.on_request(index, |peer, stream| peer.write(stream, bytes, fin));
            return;
        }
        let Some(server) = self.servers.last_mut() else { return };
        if index >= server.unis.len() && server.unis.len() < 5 {
            server.unis.extend(server.peer.open_uni());
        }
        if let Some(stream) = server.unis.get(index % server.unis.len().max(1)).copied() {
            server.peer.write(stream, bytes, fin);
        }
    }

    fn datagram(&mut self, payload: Bytes) {
        if let Some(server) = self.servers.last_mut() {
            server.peer.send_datagram(payload);
        }
    }

    fn receive(&mut self, link: LinkId, remote: SocketAddr, ecn: u8, data: BytesMut) {
        if !ADDRESSES.contains(&remote) {
            self.books.received_from_elsewhere(data.len());
        }
        let train = Train { link, remote, local: None, ecn, segment_size: 0, data };
        self.core.handle(self.now, Input::Train(train));
    }

    /// Where a server's packets come from.
    fn source(&self, server: &Server) -> SocketAddr {
        if self.elsewhere { ELSEWHERE } else { server.address }
    }

    fn change(&mut self, what: Change, at: usize, value: u8) {
        let now = self.now.instant;
        let Some(server) = self.servers.last_mut() else { return };
        server.peer.turn(now);
        let Some((_, ecn, packet)) = server.peer.take_packet() else { return };
        let (link, from) = (server.link, server.address);
        let mut data = BytesMut::from(&packet[..]);
        let at = at % data.len().max(1);
        match what {
            Change::Flip => data[at] ^= value.max(1),
            Change::Cut => data.truncate(at),
            Change::Extend => data.resize(data.len() + at, value),
            Change::Drop => return,
            Change::Twice => self.receive(link, from, ecn, data.clone()),
        }
        self.receive(link, from, ecn, data);
    }

    fn frames(&mut self, frames: &[u8]) {
        let now = self.now.instant;
        let Some(server) = self.servers.last_mut() else { return };
        self.forge.clear();
        // A datagram of that size makes a packet with room enough. What is queued before it leaves before it.
        server.peer.turn(now);
        if server.peer.send_datagram(Bytes::from(vec![0; frames.len().max(20)])) {
            self.forge.push(frames);
            self.flush_servers();
            self.forge.clear();
        }
    }

    fn advance(&mut self, time: Duration) {
        self.now.instant += time;
        self.now.unix += time;
    }

    /// Lets servers and core act until nothing moves.
    fn settle(&mut self) {
        for _ in 0..MAX_TURNS {
            let moved = if self.held { false } else { self.flush_servers() };
            let turned = self.turn();
            if !moved && !turned {
                return;
            }
        }
        panic!("the core never comes to rest");
    }

    /// Packets of the servers to the core.
    fn flush_servers(&mut self) -> bool {
        let mut moved = false;
        for index in 0..self.servers.len() {
            let server = &mut self.servers[index];
            // Its control stream is the first unidirectional one; the input may write to it, too.
            if !self.settings.no_control_stream
                && server.unis.is_empty()
                && let Some(control) = server.peer.is_connected().then(|| server.peer.open_uni()).flatten()
            {
                server.unis.push(control);
                server.peer.write(control, &bytes3::control_stream(), false);
            }
            server.peer.turn(self.now.instant);
            let (link, from) = (self.servers[index].link, self.source(&self.servers[index]));
            while let Some((_, ecn, packet)) = self.servers[index].peer.take_packet() {
                moved = true;
                self.receive(link, from, ecn, BytesMut::from(&packet[..]));
            }
        }
        moved
    }

    /// One turn of the core; whether there is more to do.
    fn turn(&mut self) -> bool {
        let wake = self.core.turn(self.now, &mut self.outputs);
        let mut outputs = std::mem::take(&mut self.outputs);
        let mut moved = wake.again_now;
        for train in outputs.trains() {
            assert!(!train.data.is_empty());
            if !ADDRESSES.contains(&train.remote) {
                // RFC 9000 §9: a server does not move, whatever its packets' sources say. What is left are stateless
                // resets, shorter than what provoked them (§10.3).
                self.books.sent_elsewhere(train.data.len());
                continue;
            }
            for packet in train.data.chunks(train.segment_size.unwrap_or(train.data.len())) {
                moved |= self.arrive(train.link, train.remote, train.ecn, packet);
            }
        }
        for (flow, payloads) in outputs.flow_sends() {
            self.books.deliver(flow, payloads);
        }
        let actions = std::mem::take(&mut outputs.actions);
        outputs.clear();
        self.outputs = outputs;
        for action in actions {
            moved |= self.act(action);
        }
        // A timer that is due already asks for another turn; that this ends is what `settle` sees to.
        moved |= wake.at.is_some_and(|at| at <= self.now.instant);
        moved
    }

    /// A packet of the client. Whether somebody took it.
    fn arrive(&mut self, link: LinkId, at: SocketAddr, ecn: u8, packet: &[u8]) -> bool {
        let gateway = self.links[link.0 as usize];
        let client = address(9, 5000 + link.0 as u16);
        // C-17: whoever could replay it could ask for a tunnel.
        assert!(!has_early_data(packet), "early data");
        if self.settings.first_address_is_dead && at == ADDRESSES[0] {
            return false;
        }
        let known = |server: &&mut Server| (server.gateway, server.address) == (gateway, at);
        if let Some(server) = self.servers.iter_mut().rev().find(known) {
            server.link = link;
            server.peer.handle(self.now.instant, client, ecn, packet);
            return true;
        }
        if self.servers.len() >= MAX_SERVERS {
            return false;
        }
        let (config, retry) = (Arc::clone(&self.config), self.settings.retry);
        match Peer::accept(self.now.instant, at, client, packet, config, retry, &mut self.random) {
            Ok(peer) => {
                self.servers.push(Server { peer, gateway, address: at, link, unis: Vec::new() });
                true
            }
            Err(Some(answer)) => {
                self.receive(link, at, 0, BytesMut::from(&answer[..]));
                true
            }
            Err(None) => false,
        }
    }

    /// Whether the core was told something.
    fn act(&mut self, action: Do) -> bool {
        match action {
            Do::OpenFlow { flow, kind: FlowKind::Local { tunnel } } => {
                self.books.open_flow(flow, tunnel);
                self.core.handle(self.now, Input::FlowOpened { flow, result: Ok(FlowPath::ANY) });
                true
            }
            Do::CloseFlow { flow } => {
                self.books.close_flow(flow);
                false
            }
            Do::ResumeFlow { flow } => {
                assert!(self.books.flows.contains_key(&flow));
                false
            }
            Do::FlowLimit { flow, max_datagram_bytes } => {
                assert!(self.books.flows.contains_key(&flow));
                assert!(max_datagram_bytes <= 65_527);
                false
            }
            Do::Event(event) => {
                self.books.note(&event);
                false
            }
            // Another slot's packets: there is none here.
            Do::Forward { .. } => false,
            Do::OpenFlow { kind: FlowKind::Connected { .. }, .. }
            | Do::ReadFlowPath { .. }
            | Do::Resolve { .. }
            | Do::CancelResolve(_)
            | Do::Record(_) => panic!("{action:?} of a core that serves nobody"),
        }
    }

    /// The core is closed and lets go of everything.
    fn end(&mut self) {
        self.command(Command::Close);
        self.held = true;
        self.settle();
        assert!(self.books.is_drained, "the end was not told");
        // What is closed stays for a while, to answer packets that are late (RFC 9000 §10.2).
        let until = self.now.instant + Duration::from_secs(60);
        while self.core.connections() > 0 && self.now.instant < until {
            self.advance(Duration::from_secs(1));
            self.settle();
        }
        self.books.check(self.core.counters());
        self.books.check_end(self.core.counters());
        assert_eq!((self.core.connections(), self.core.tunnels()), (0, 0));
    }
}

/// Whether a 0-RTT packet is among those of a datagram (RFC 9000 §12.2, §17.2).
fn has_early_data(mut datagram: &[u8]) -> bool {
    while let [first, _, _, _, _, rest @ ..] = datagram
        && first & 0x80 != 0
    {
        let kind = first >> 4 & 3;
        if kind == 1 {
            return true;
        }
        // Retry, and version negotiation, are a server's.
        let mut input = rest;
        for _ in 0..2 {
            let (length, after) = input.split_first().unwrap();
            input = &after[usize::from(*length)..];
        }
        if kind == 0 {
            input = &take_varint(input).1[take_varint(input).0..];
        }
        let (length, after) = take_varint(input);
        datagram = &after[length..];
    }
    false
}

fn take_varint(bytes: &[u8]) -> (usize, &[u8]) {
    let (value, used) = varint::decode(bytes).unwrap();
    (usize::try_from(value).unwrap(), &bytes[used..])
}
