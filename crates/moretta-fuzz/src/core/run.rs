//! One core through one input.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use moretta_core::{
    Action as Do, Command, Core, Counters, Event, FlowError, FlowId, FlowKind, FlowPath, Input, LinkId, Now, Outputs,
    QueryId, Train,
};
use moretta_proto::admission::{OpenError, ResolveError};
use moretta_proto::ledger::{Ledger, LocalLedger};
use moretta_sim::{Peer, Random, bytes3};
use quinn_proto::ConnectionError;
use quinn_proto::crypto::ClientConfig;
use quinn_proto::crypto::rustls::QuicClientConfig;

use super::actions::{Action, Change};
use super::books::Books;
use super::setup::{LISTENER, MAX_TUNNELS, Settings, ledger};
use crate::forge::{Forge, ForgingConfig};
use crate::input::Input as Choices;
use crate::tls;

const LINK: LinkId = LinkId(1);
const GATEWAY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), 443);
const STRANGER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 66)), 666);
/// A handshake is the dearest thing in a run.
const MAX_PEERS: usize = 3;
/// Turns without anything new after which a core should have come to rest.
const MAX_TURNS: usize = 1000;

struct Client {
    peer: Peer,
    forge: Forge,
    address: SocketAddr,
    requests: Vec<u64>,
    unis: Vec<u64>,
}

pub(super) struct Run {
    core: Core,
    outputs: Outputs,
    settings: Settings,
    generation: u64,
    ledger: Arc<LocalLedger>,
    now: Now,
    random: Random,
    clients: Vec<Client>,
    next_port: u16,
    held: bool,
    answers_at_once: bool,
    open_questions: VecDeque<QueryId>,
    books: Books,
}

impl Run {
    pub(super) fn new(settings: u8) -> Self {
        let settings = Settings::read(settings);
        let now = Now { instant: Instant::now(), unix: Duration::from_secs(1_798_761_600) };
        let ledger = ledger();
        let shared: Arc<dyn Ledger> = Arc::clone(&ledger) as _;
        let mut core = Core::new(settings.config(shared), settings.snapshot(1, true), now);
        core.handle(
            now,
            Input::Command(Command::AddListener { link: LINK, name: LISTENER.to_owned(), loopback: false }),
        );
        let mut run = Self {
            core,
            outputs: Outputs::new(),
            settings,
            generation: 1,
            ledger,
            now,
            random: Random::new(1, "fuzz"),
            clients: Vec::new(),
            next_port: 5000,
            held: false,
            answers_at_once: true,
            open_questions: VecDeque::new(),
            books: Books::new(),
        };
        run.connect();
        run.settle();
        run
    }

    fn connect(&mut self) {
        let forge = Forge::default();
        let inner: Arc<dyn ClientConfig> = Arc::new(QuicClientConfig::try_from(tls::client()).unwrap());
        let crypto = Arc::new(ForgingConfig { inner, forge: forge.clone() });
        let address = self.new_address();
        let peer = Peer::connect_with(self.now.instant, address, GATEWAY, crypto, &mut self.random).unwrap();
        self.clients.push(Client { peer, forge, address, requests: Vec::new(), unis: Vec::new() });
        self.settle();
        // Its control stream is the first unidirectional one; the input may write to it, too.
        let client = self.client();
        if let Some(control) = client.peer.open_uni() {
            client.unis.push(control);
            client.peer.write(control, &bytes3::control_stream(), false);
        }
    }

    fn new_address(&mut self) -> SocketAddr {
        self.next_port += 1;
        SocketAddr::new(Ipv4Addr::new(10, 0, 0, 9).into(), self.next_port)
    }

    /// The client that came last.
    fn client(&mut self) -> &mut Client {
        self.clients.last_mut().unwrap()
    }

    /// Gives also how the connection of the client that came last ended.
    pub(super) fn finish(mut self, data: &[u8]) -> (Counters, Option<ConnectionError>) {
        let mut choices = Choices::new(data);
        while let Some(action) = Action::read(&mut choices) {
            self.apply(action);
            self.settle();
            self.check();
        }
        let closed = self.client().peer.closed().cloned();
        self.end();
        (*self.core.counters(), closed)
    }

    fn apply(&mut self, action: Action<'_>) {
        match action {
            Action::Raw { stranger, long, segment_size, bytes } => {
                let from = if stranger { STRANGER } else { self.client().address };
                let mut data = BytesMut::from(bytes);
                if long {
                    data.resize(1200.max(data.len()), 0);
                }
                self.receive(from, 0, segment_size, data);
            }
            Action::Change { what, at, value } => self.change(what, at, value),
            Action::Frames(frames) => self.frames(frames),
            Action::Stream { uni, index, fin, bytes } => {
                if let Some(stream) = self.stream(uni, index) {
                    self.client().peer.write(stream, &bytes, fin);
                }
            }
            Action::Ask { target, fin } => self.ask(target, fin),
            Action::Datagram { index, bytes } => {
                let stream = self.stream(false, index).unwrap_or_default();
                self.client().peer.send_datagram(bytes3::datagram(stream, bytes).into());
            }
            Action::Reset { index, code } => {
                if let Some(stream) = self.stream(false, index) {
                    self.client().peer.reset(stream, code);
                }
            }
            Action::Hold(held) => self.held = held,
            Action::Advance { milliseconds } => self.advance(Duration::from_millis(milliseconds)),
            Action::FromTarget { flow, segment_size, bytes } => {
                if let Some(flow) = self.flow(flow) {
                    self.core.flow_share(flow);
                    self.core.handle(self.now, Input::Flow { flow, data: bytes, segment_size });
                }
            }
            Action::TargetError { flow, error } => {
                if let Some(flow) = self.flow(flow) {
                    self.core.handle(self.now, Input::FlowError { flow, error: flow_error(error) });
                }
            }
            Action::Answer { at_once, answer } => {
                self.answers_at_once = at_once;
                self.answer(answer);
            }
            Action::Stray { kind, index } => self.stray(kind, index),
            Action::Snapshot { allow } => {
                self.generation += 1;
                let snapshot = self.settings.snapshot(self.generation, allow);
                self.core.handle(self.now, Input::Snapshot(snapshot));
            }
            Action::Order { what } => self.order(what),
            Action::Elsewhere { anew: true } if self.clients.len() < MAX_PEERS => self.connect(),
            Action::Elsewhere { .. } => self.client().address = self.new_address(),
        }
    }

    /// A stream of the client: one that it has, or the next one that it may open.
    fn stream(&mut self, uni: bool, index: usize) -> Option<u64> {
        let Client { peer, requests, unis, .. } = self.client();
        let (streams, limit) = if uni { (unis, 5) } else { (requests, 10) };
        if index >= streams.len() && streams.len() < limit {
            let opened = if uni { peer.open_uni() } else { peer.open_request() };
            streams.extend(opened);
        }
        streams.get(index % streams.len().max(1)).copied()
    }

    fn ask(&mut self, target: u8, fin: bool) {
        let host = match target % 8 {
            0..=3 => format!("9.9.9.{target}"),
            4 => "host.test".to_owned(),
            5 => "127.0.0.1".to_owned(),
            6 => "nowhere.example".to_owned(),
            _ => "127.1".to_owned(),
        };
        let Client { peer, requests, .. } = self.client();
        if let Some(stream) = peer.open_request() {
            requests.push(stream);
            peer.write(stream, &bytes3::connect_udp("gateway.test", &host, 9), fin);
        }
    }

    /// A flow that is open or about to be.
    fn flow(&self, index: usize) -> Option<FlowId> {
        self.books.flows.keys().nth(index % self.books.flows.len().max(1)).copied()
    }

    fn receive(&mut self, remote: SocketAddr, ecn: u8, segment_size: usize, data: BytesMut) {
        self.books.received(remote, data.len());
        let train = Train { link: LINK, remote, local: None, ecn, segment_size, data };
        self.core.handle(self.now, Input::Train(train));
    }

    fn change(&mut self, what: Change, at: usize, value: u8) {
        let now = self.now.instant;
        let client = self.client();
        let address = client.address;
        client.peer.turn(now);
        let Some((_, ecn, packet)) = client.peer.take_packet() else { return };
        let mut data = BytesMut::from(&packet[..]);
        let at = at % data.len().max(1);
        match what {
            Change::Flip => data[at] ^= value.max(1),
            Change::Cut => data.truncate(at),
            Change::Extend => data.resize(data.len() + at, value),
            Change::Drop => return,
            Change::Twice => self.receive(address, ecn, 0, data.clone()),
        }
        self.receive(address, ecn, 0, data);
    }

    fn frames(&mut self, frames: &[u8]) {
        let now = self.now.instant;
        let Client { peer, forge, .. } = self.client();
        forge.clear();
        // A datagram of that size makes a packet with room enough; where there are none, as many bytes on a stream. What
        // is queued before it leaves before it.
        peer.turn(now);
        let room = vec![0; frames.len().max(20)];
        if !peer.send_datagram(Bytes::from(room.clone())) {
            let Some(stream) = peer.open_uni() else { return };
            peer.write(stream, &room, false);
        }
        forge.push(frames);
        self.flush_clients();
        self.client().forge.clear();
    }

    fn answer(&mut self, answer: u8) {
        if let Some(query) = self.open_questions.pop_front() {
            self.core.handle(self.now, Input::Resolved { query, result: resolved(answer) });
            return;
        }
        let waiting = self.books.flows.iter().find(|(_, (_, is_open))| !is_open).map(|(flow, _)| *flow);
        if let Some(flow) = waiting {
            self.open(flow, opened(answer));
        }
    }

    fn open(&mut self, flow: FlowId, result: Result<FlowPath, OpenError>) {
        self.books.flow_opened(flow, result.is_ok());
        self.core.handle(self.now, Input::FlowOpened { flow, result });
    }

    fn stray(&mut self, kind: u8, index: u32) {
        let flow = FlowId { index, generation: u32::from(kind) };
        if self.books.flows.contains_key(&flow) {
            return;
        }
        let input = match kind % 6 {
            0 => Input::Flow { flow, data: &[1, 2, 3], segment_size: 1 },
            1 => Input::FlowOpened { flow, result: Ok(FlowPath::ETHERNET) },
            2 => Input::FlowError { flow, error: FlowError::Closed },
            3 => Input::Resolved { query: QueryId(u64::from(index) + 1_000_000), result: resolved(0) },
            4 => Input::LinkError { link: LinkId(index), detail: "gone".to_owned() },
            _ => Input::Command(Command::FinishTunnel(moretta_core::TunnelToken(index.into()))),
        };
        self.core.handle(self.now, input);
    }

    fn order(&mut self, what: u8) {
        let command = match what % 4 {
            0 => Command::Drain { deadline: self.now.instant + Duration::from_secs(u64::from(what)) },
            1 => Command::RemoveListener { link: LINK },
            2 => Command::AddListener { link: LINK, name: LISTENER.to_owned(), loopback: false },
            _ => Command::Close,
        };
        self.core.handle(self.now, Input::Command(command));
    }

    fn advance(&mut self, time: Duration) {
        self.now.instant += time;
        self.now.unix += time;
    }

    /// Lets clients and core act until nothing moves.
    fn settle(&mut self) {
        for _ in 0..MAX_TURNS {
            let moved = if self.held { false } else { self.flush_clients() };
            let turned = self.turn();
            if !moved && !turned {
                return;
            }
        }
        panic!("the core never comes to rest");
    }

    /// Packets of the clients to the core.
    fn flush_clients(&mut self) -> bool {
        let mut moved = false;
        for index in 0..self.clients.len() {
            let client = &mut self.clients[index];
            client.peer.turn(self.now.instant);
            let address = client.address;
            while let Some((_, ecn, packet)) = self.clients[index].peer.take_packet() {
                moved = true;
                self.receive(address, ecn, 0, BytesMut::from(&packet[..]));
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
            assert_eq!(train.link, LINK);
            assert!(!train.data.is_empty());
            self.books.sent(train.remote, train.data.len());
            let Some(client) = self.clients.iter_mut().find(|client| client.address == train.remote) else { continue };
            for packet in train.data.chunks(train.segment_size.unwrap_or(train.data.len())) {
                client.peer.handle(self.now.instant, GATEWAY, train.ecn, packet);
                moved = true;
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

    /// Whether the core was told something.
    fn act(&mut self, action: Do) -> bool {
        match action {
            Do::OpenFlow { flow, kind: FlowKind::Connected { target } } => {
                self.books.open_flow(flow, target);
                if self.answers_at_once {
                    self.open(flow, Ok(FlowPath::ETHERNET));
                }
                self.answers_at_once
            }
            Do::ReadFlowPath { flow } => {
                self.core.handle(self.now, Input::FlowPath { flow, path: FlowPath::ANY });
                true
            }
            Do::CloseFlow { flow } => {
                self.books.close_flow(flow);
                false
            }
            Do::Resolve { query, .. } if self.answers_at_once => {
                self.core.handle(self.now, Input::Resolved { query, result: resolved(0) });
                true
            }
            Do::Resolve { query, .. } => {
                self.open_questions.push_back(query);
                false
            }
            Do::CancelResolve(query) => {
                self.open_questions.retain(|open| *open != query);
                false
            }
            Do::Record(record) => {
                self.books.record(&record);
                false
            }
            Do::Event(Event::Drained) => {
                assert!(!std::mem::replace(&mut self.books.is_drained, true), "drained twice");
                false
            }
            Do::ResumeFlow { flow } => {
                assert!(self.books.flows.contains_key(&flow));
                false
            }
            // Another slot's packets: there is none here.
            Do::Forward { .. } => false,
            Do::OpenFlow { kind: FlowKind::Local { .. }, .. } | Do::FlowLimit { .. } | Do::Event(_) => {
                panic!("{action:?} of a core that opened nothing")
            }
        }
    }

    fn check(&self) {
        self.books.check_datagrams(self.core.counters());
        self.books.check_amplification(STRANGER);
        assert!(self.ledger.tunnels() <= MAX_TUNNELS);
        assert!(self.core.connections() as u64 <= self.core.counters().connections_accepted);
    }

    /// The core is closed and lets go of everything.
    fn end(&mut self) {
        self.core.handle(self.now, Input::Command(Command::Close));
        self.held = true;
        self.settle();
        assert!(self.books.is_drained, "the end was not told");
        // What is closed stays for a while, to answer packets that are late (RFC 9000 §10.2).
        let until = self.now.instant + Duration::from_secs(60);
        while self.core.connections() > 0 && self.now.instant < until {
            self.advance(Duration::from_secs(1));
            self.settle();
        }
        // Whether the answers ever come is the shell's affair.
        while let Some(query) = self.open_questions.pop_front() {
            self.core.handle(self.now, Input::Resolved { query, result: resolved(0) });
        }
        self.settle();
        self.books.check_datagrams(self.core.counters());
        self.books.check_end(self.core.counters());
        assert_eq!((self.core.connections(), self.core.tunnels(), self.ledger.tunnels()), (0, 0, 0));
    }
}

fn flow_error(choice: u8) -> FlowError {
    match choice % 6 {
        0 => FlowError::Unreachable,
        1 => FlowError::TooLarge,
        2 => FlowError::Overloaded,
        3 => FlowError::Refused,
        4 => FlowError::Closed,
        _ => FlowError::Other(i32::from(choice)),
    }
}

fn opened(choice: u8) -> Result<FlowPath, OpenError> {
    match choice % 6 {
        0 => Ok(FlowPath::ETHERNET),
        1 => Err(OpenError::NoRoute),
        2 => Err(OpenError::Exhausted),
        3 => Err(OpenError::Refused),
        4 => Err(OpenError::Own),
        _ => Err(OpenError::Other(i32::from(choice))),
    }
}

fn resolved(choice: u8) -> Result<Vec<IpAddr>, ResolveError> {
    let address = |last| IpAddr::from(Ipv4Addr::new(9, 9, 9, last));
    match choice % 9 {
        0 => Ok(vec![address(1)]),
        1 => Ok(vec![address(1), address(2), address(1)]),
        2 => Ok(vec![address(1), Ipv4Addr::LOCALHOST.into()]),
        3 => Ok(Vec::new()),
        4 => Err(ResolveError::Timeout),
        5 => Err(ResolveError::NxDomain),
        6 => Err(ResolveError::NoAddress),
        7 => Err(ResolveError::Failed("SERVFAIL")),
        _ => Err(ResolveError::Overloaded),
    }
}
