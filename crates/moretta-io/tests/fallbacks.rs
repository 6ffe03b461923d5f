//! HG-9: what a kernel, an interface or a filter refuses is done another way, with the same bytes, and counted once.
#![cfg(test)]

mod common;

use std::time::{Duration, Instant};

use common::{Link, payloads, receive_at};
use moretta_io::{
    Events, Interest, OutgoingTrain, Poller, Refuse, SendBatch, SocketCounters, SocketOptions, Trigger, UdpSocket,
    WakeFd,
};

const NONE: Refuse = Refuse { gso: false, gro: false, recvmmsg: false, sendmmsg: false };

const REFUSALS: [(&str, Refuse); 6] = [
    ("nothing refused", NONE),
    ("no segmentation", Refuse { gso: true, ..NONE }),
    ("no receive offload", Refuse { gro: true, ..NONE }),
    ("no recvmmsg", Refuse { recvmmsg: true, ..NONE }),
    ("no sendmmsg", Refuse { sendmmsg: true, ..NONE }),
    ("nothing but recvmsg and sendmsg", Refuse { gso: true, gro: true, recvmmsg: true, sendmmsg: true }),
];

fn fallbacks(counters: &SocketCounters) -> Refuse {
    let bit = |counter: u64| match counter {
        0 => false,
        1 => true,
        other => panic!("a fallback was counted {other} times"),
    };
    Refuse {
        gso: bit(counters.fallback_gso),
        gro: bit(counters.fallback_gro),
        recvmmsg: bit(counters.fallback_recvmmsg),
        sendmmsg: bit(counters.fallback_sendmmsg),
    }
}

#[test]
fn a_flow_delivers_the_same_datagrams_whatever_is_refused() {
    let sizes = [900, 900, 900, 10, 0, 1300, 1300, 65_000, 5, 5, 5, 4];
    for (id, refuse) in REFUSALS {
        let mut link =
            Link::open_with("127.0.0.1:0".parse().unwrap(), &SocketOptions { refuse, ..SocketOptions::target() });
        let payloads = payloads(&sizes);
        let mut batch = SendBatch::new();
        for round in 0..3 {
            let outcome = link.flow.send_batch(&mut batch, &payloads);
            assert_eq!((outcome.sent, outcome.dropped), (payloads.len(), 0), "{id}, round {round}");
            assert_eq!(link.target_receives(payloads.len()), payloads, "{id}, round {round}");
            link.target_sends(&payloads);
            assert_eq!(link.flow_receives(payloads.len()), payloads, "{id}, round {round}");
        }
        assert_eq!(fallbacks(link.flow.counters()), refuse, "{id}");
        assert_eq!(link.flow.counters().send_dropped.total(), 0, "{id}");
    }
}

#[test]
fn quic_sockets_deliver_the_same_trains_whatever_is_refused() {
    let data: Vec<u8> = (0..20_000_u32).map(|byte| (byte % 241) as u8).collect();
    for (id, refuse) in REFUSALS {
        let options = SocketOptions { refuse, ..SocketOptions::quic() };
        let mut listener = UdpSocket::open_listener("127.0.0.1:0".parse().unwrap(), &options).unwrap();
        let mut client = UdpSocket::open_client("127.0.0.1:0".parse().unwrap(), &options).unwrap();
        for _ in 0..3 {
            let remote = Some(listener.local_address());
            let train = OutgoingTrain { remote, local: None, ecn: 2, segment_size: Some(1200), data: &data };
            assert_eq!(client.send_train(&train).sent, 17, "{id}");
            let received = receive_at(&mut listener, 17);
            assert!(received.iter().all(|datagram| datagram.len() <= 1200), "{id}");
            assert!(received.concat() == data, "{id}: bytes differ");
        }
        assert_eq!(fallbacks(client.counters()).gso, refuse.gso, "{id}");
        assert_eq!(fallbacks(listener.counters()).recvmmsg, refuse.recvmmsg, "{id}");
    }
}

#[test]
fn segmentation_is_given_up_only_after_single_datagrams_passed() {
    let options = SocketOptions { refuse: Refuse { gso: true, ..NONE }, ..SocketOptions::target() };
    let mut link = Link::open_with("127.0.0.1:0".parse().unwrap(), &options);
    // Every single send fails as well, so nothing is known about segmentation.
    let outcome = link.flow.send_batch(&mut SendBatch::new(), &payloads(&[65_530, 65_530]));
    assert_eq!((outcome.sent, outcome.dropped), (0, 2));
    assert_eq!(link.flow.counters().fallback_gso, 0);
    link.flow_sends(&payloads(&[10, 10]));
    assert_eq!(link.flow.counters().fallback_gso, 1);
}

#[test]
fn waits_end_at_their_deadline_with_and_without_nanoseconds() {
    for poller in [Poller::new().unwrap(), Poller::without_precise_waits().unwrap()] {
        let mut events = Events::with_capacity(4);
        let start = Instant::now();
        let timeout = Duration::from_micros(1_300);
        poller.wait(&mut events, Some(timeout)).unwrap();
        assert!(events.is_empty());
        assert!(start.elapsed() >= timeout, "woke after {:?}", start.elapsed());
    }
}

#[test]
fn a_wake_is_seen_once_and_never_lost() {
    for poller in [Poller::new().unwrap(), Poller::without_precise_waits().unwrap()] {
        let wake = WakeFd::new().unwrap();
        let mut events = Events::with_capacity(4);
        poller.register(std::os::fd::AsFd::as_fd(&wake), 42, Interest::Readable, Trigger::Level).unwrap();
        poller.wait(&mut events, Some(Duration::ZERO)).unwrap();
        assert!(events.is_empty());
        assert!(!wake.drain());
        wake.wake();
        wake.wake();
        poller.wait(&mut events, None).unwrap();
        assert_eq!(events.iter().map(|event| (event.key, event.readable)).collect::<Vec<_>>(), [(42, true)]);
        assert!(wake.drain());
        assert!(!wake.drain());
        poller.wait(&mut events, Some(Duration::ZERO)).unwrap();
        assert!(events.is_empty());
    }
}

#[test]
fn a_wake_from_another_thread_ends_a_wait() {
    let poller = Poller::new().unwrap();
    let wake = WakeFd::new().unwrap();
    poller.register(std::os::fd::AsFd::as_fd(&wake), 1, Interest::Readable, Trigger::Edge).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| wake.wake());
        let mut events = Events::with_capacity(1);
        poller.wait(&mut events, Some(Duration::from_secs(10))).unwrap();
        assert_eq!(events.len(), 1);
    });
}

#[test]
fn edge_tells_once_level_tells_again_and_modify_tells_anew() {
    let poller = Poller::new().unwrap();
    let (edge, level) = (WakeFd::new().unwrap(), WakeFd::new().unwrap());
    let fd = std::os::fd::AsFd::as_fd;
    poller.register(fd(&edge), 1, Interest::Readable, Trigger::Edge).unwrap();
    poller.register(fd(&level), 2, Interest::Both, Trigger::Level).unwrap();
    edge.wake();
    level.wake();
    let mut events = Events::with_capacity(8);
    let mut keys = || {
        poller.wait(&mut events, Some(Duration::ZERO)).unwrap();
        let mut keys: Vec<_> = events.iter().map(|event| event.key).collect();
        keys.sort_unstable();
        keys
    };
    assert_eq!(keys(), [1, 2]);
    assert_eq!(keys(), [2]);
    poller.modify(fd(&edge), 3, Interest::Readable, Trigger::Edge).unwrap();
    poller.deregister(fd(&level)).unwrap();
    assert_eq!(keys(), [3]);
    assert!(poller.deregister(fd(&level)).is_err());
}
