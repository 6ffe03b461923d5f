//! A client that says it is elsewhere: what is believed, and what is sent there.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "helpers of tests fail as tests do"
)]

mod support;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use moretta_core::{Record, TransportOptions};
use moretta_proto::profile::Profile;
use support::raw::RawClient;
use support::{ONE_WAY, SERVER, TARGET, World, shared, snapshot_with};

const HOME: &str = "198.51.100.20:5000";
const ELSEWHERE: &str = "203.0.113.99:7000";
const A_MOMENT: Duration = Duration::from_millis(40);

/// Bytes between the server and one address.
#[derive(Default)]
struct Traffic {
    from_there: usize,
    to_there: usize,
    from_home: usize,
    /// Nothing reaches home any more: the client answers no challenge there either, which would be dear.
    home_is_deaf: bool,
}

struct Bench {
    world: World,
    traffic: Rc<RefCell<Traffic>>,
}

impl Bench {
    /// A connected client at home. What is sent elsewhere reaches nobody, unless the client moves there.
    fn new() -> Self {
        let mut world = World::new();
        let server = snapshot_with(|snapshot| snapshot.profile = Profile::hardened());
        world.add_node(0, &shared(), server, TransportOptions::default());
        world.listen(0, SERVER);
        let traffic = Rc::new(RefCell::new(Traffic::default()));
        let count = Rc::clone(&traffic);
        let (home, elsewhere): (SocketAddr, SocketAddr) = (HOME.parse().unwrap(), ELSEWHERE.parse().unwrap());
        world.lose = Box::new(move |packet, from, to| {
            let mut traffic = count.borrow_mut();
            traffic.from_there += if from == elsewhere { packet.len() } else { 0 };
            traffic.from_home += if from == home { packet.len() } else { 0 };
            traffic.to_there += if to == elsewhere { packet.len() } else { 0 };
            traffic.home_is_deaf && to == home
        });
        let now = world.now.instant;
        world.raw.push(RawClient::new(now, HOME, SERVER, Some(65_536)));
        let mut bench = Self { world, traffic };
        bench.go();
        bench.world.raw[0].settings(1);
        bench.go();
        bench
    }

    fn go(&mut self) {
        self.world.raw_turns();
        self.world.run(A_MOMENT);
    }

    /// Lets the client's packets come from here. What goes to where it was finds nobody.
    fn stand(&mut self, address: &str) {
        self.world.raw[0].address = address.parse().unwrap();
    }

    /// Asks for a tunnel; who is written down as the one that asked?
    fn asks_as(&mut self) -> SocketAddr {
        let before = self.world.nodes[0].records.len();
        self.world.raw[0].ask_udp(TARGET, 9001);
        for _ in 0..200 {
            self.go();
            if self.world.nodes[0].records.len() > before {
                break;
            }
        }
        match self.world.nodes[0].records.last() {
            Some(Record::Opened(opened)) => opened.facts.client,
            other => panic!("{other:?}"),
        }
    }

    /// One packet that holds next to nothing, from elsewhere; its sender hears no answer.
    fn claims_to_be_elsewhere(&mut self) {
        self.world.raw[0].quic.ping();
        self.stand(ELSEWHERE);
        self.world.raw_turns();
        self.stand(HOME);
        self.world.run(A_MOMENT);
    }
}

/// K-8.
#[test]
fn an_address_is_believed_once_it_has_answered_the_challenge_and_not_before() {
    let mut bench = Bench::new();
    assert_eq!(bench.asks_as(), HOME.parse().unwrap());

    bench.world.raw[0].ask_udp(TARGET, 9002);
    bench.claims_to_be_elsewhere();
    let Some(Record::Opened(opened)) = bench.world.nodes[0].records.last() else { panic!() };
    assert_eq!((opened.facts.target_port, opened.facts.client), (9002, HOME.parse().unwrap()));

    // It really moves.
    bench.stand(ELSEWHERE);
    bench.world.raw[0].quic.ping();
    for _ in 0..5 {
        bench.go();
    }
    assert_eq!(bench.asks_as(), ELSEWHERE.parse().unwrap());
    assert!(bench.world.nodes[0].core.counters().connections_migrated >= 1);
}

/// K-8: the fair share of the resolver is that of the proved address too.
#[test]
fn a_name_is_looked_up_on_the_account_of_the_proved_address() {
    let mut bench = Bench::new();
    bench.world.nodes[0].names.insert("target.example".into(), Ok(vec!["203.0.113.1".parse().unwrap()]));
    bench.world.raw[0].ask_udp("target.example", 9003);
    bench.claims_to_be_elsewhere();
    let home: SocketAddr = HOME.parse().unwrap();
    assert_eq!(bench.world.nodes[0].asked_for, [home.ip()]);
}

/// K-36, RFC 9000 §9.3: the client flees home and comes back, again and again, so that each of its packets looks like a
/// move to where nobody answers.
#[test]
fn an_address_where_nobody_answers_gets_no_more_than_the_client_paid_for() {
    let mut bench = Bench::new();
    bench.traffic.borrow_mut().home_is_deaf = true;
    for _ in 0..200 {
        bench.claims_to_be_elsewhere();
        bench.world.raw[0].quic.ping();
        bench.go();
    }
    let Traffic { from_there, to_there, from_home, .. } = *bench.traffic.borrow();
    println!("{from_there} bytes came from there, {to_there} went there; {from_home} came from home");
    assert!(bench.world.nodes[0].core.counters().connections_migrated >= 100, "the library was not misled");
    assert!(to_there > 0 && to_there <= 3 * from_there + from_home);
    bench.traffic.borrow_mut().home_is_deaf = false;
    assert_eq!(bench.asks_as(), HOME.parse().unwrap());
}

/// K-36: the client goes for good, and what it left waits to be sent to where it said it went.
#[test]
fn a_queue_for_a_client_that_moved_where_nobody_answers_stays_here() {
    let mut bench = Bench::new();
    bench.asks_as();
    bench.world.raw[0].datagram(b"\x00\x00hello");
    bench.go();
    let flow = bench.world.server_flow(0, 9001);
    bench.world.raw[0].quic.ping();
    bench.stand(ELSEWHERE);
    bench.world.raw_turns();
    bench.world.raw.clear();
    for _ in 0..200 {
        bench.world.flow_input(0, flow, &[7; 12_000], 1200);
        bench.world.run(Duration::from_millis(5));
    }
    let Traffic { from_there, to_there, .. } = *bench.traffic.borrow();
    println!("{from_there} bytes came from there, {to_there} went there");
    assert!(to_there <= 3 * from_there + 8 * 1452, "a few packets in advance, of two megabytes");
}

/// What was sent to prove the client's new address and got lost must not fill the window for good: the library counts its
/// acknowledgements there as bytes in flight, since they are padded for the challenge, and waits for none of them.
#[test]
fn challenges_lost_while_a_client_moves_do_not_silence_the_gateway() {
    let mut bench = Bench::new();
    bench.asks_as();
    bench.world.raw[0].datagram(b"\x00\x00hello");
    bench.go();
    let flow = bench.world.server_flow(0, 9001);
    // Losses for a while make the window as small as it gets.
    bench.traffic.borrow_mut().home_is_deaf = true;
    for _ in 0..60 {
        bench.world.send(0, flow, &[7; 1000]);
        bench.go();
    }
    bench.traffic.borrow_mut().home_is_deaf = false;
    let before = bench.world.raw[0].datagrams.len();
    for _ in 0..200 {
        bench.world.send(0, flow, &[7; 1000]);
        bench.go();
        if bench.world.raw[0].datagrams.len() > before {
            break;
        }
    }
    // What waits becomes too old, and nothing is in flight.
    for _ in 0..10 {
        bench.go();
    }
    // The client moves to another port. Of what goes there before its answer is back, only the first packet arrives.
    let moved: SocketAddr = "198.51.100.20:6000".parse().unwrap();
    let answers = Rc::new(RefCell::new(0));
    let count = Rc::clone(&answers);
    bench.world.lose = Box::new(move |_, _, to| {
        *count.borrow_mut() += u32::from(to == moved);
        to == moved && *count.borrow() > 1
    });
    bench.world.raw[0].address = moved;
    for _ in 0..10 {
        bench.world.raw[0].datagram(&[1; 1000]);
        bench.world.raw_turns();
        bench.world.run(Duration::from_millis(1));
    }
    bench.world.run(ONE_WAY);
    assert!(*answers.borrow() >= 4, "{} packets were sent there", answers.borrow());
    bench.world.lose = Box::new(|_, _, _| false);

    bench.world.raw[0].datagrams.clear();
    for _ in 0..100 {
        bench.world.send(0, flow, b"still there?");
        bench.world.raw[0].quic.ping();
        bench.go();
    }
    let heard = bench.world.raw[0].datagrams.iter().filter(|datagram| datagram.ends_with(b"still there?")).count();
    assert!(heard >= 90, "{heard} of 100 datagrams arrived");
    assert_eq!(bench.world.nodes[0].core.counters().connections_migrated, 1);
}
