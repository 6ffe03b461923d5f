//! Floods: nothing hangs, nothing grows, and what is not delivered is counted.

use crate::support::{self, Echo, Gateway};
use moretta_engine::SendOutcome;
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

fn core(stats: &Value, name: &str) -> u64 {
    stats["core"][name].as_u64().unwrap()
}

fn drops(stats: &Value, prefix: &str) -> u64 {
    let counters = stats["core"].as_object().unwrap();
    counters.iter().filter(|(name, _)| name.starts_with(prefix)).map(|(_, count)| count.as_u64().unwrap()).sum()
}

#[test]
fn a_flood_from_the_application_is_carried_or_counted() {
    let gateway = Gateway::start(1);
    let mut client = gateway.client(1);
    let echo = Echo::start();
    let tunnel = client.open(echo.address);
    let started = Instant::now();
    let (mut queued, mut dropped) = (0, 0);
    while started.elapsed() < Duration::from_millis(300) {
        match tunnel.send(&[7; 1100]) {
            SendOutcome::Queued => queued += 1,
            SendOutcome::Dropped => dropped += 1,
            other @ (SendOutcome::TooLarge { .. } | SendOutcome::Closed) => panic!("{other:?}"),
        }
        tunnel.receive_many(1024, |datagram| assert_eq!(datagram, [7; 1100]));
    }
    let counters = tunnel.counters();
    assert_eq!((counters.sent, counters.send_dropped), (queued, dropped));
    client.driven.wait_for_stats("end of what was queued", |stats| {
        let carried = core(stats, "datagrams_to_peer") + core(stats, "datagrams_to_peer_in_capsules");
        core(stats, "datagrams_from_flows") == queued && carried + drops(stats, "down_dropped_") == queued
    });
    gateway.driven.wait_for_stats("end of what arrived", |stats| {
        let arrived = core(stats, "datagrams_from_peer");
        arrived > 0 && arrived == core(stats, "datagrams_to_flows") + drops(stats, "up_dropped_")
    });
    client.echo_after_flood(&tunnel);
}

/// A tunnel that floods does not silence another one of the same connection, nor one of another connection.
#[test]
fn a_flood_leaves_room_for_others() {
    let gateway = Gateway::start(1);
    let mut flooder = gateway.client(1);
    let mut client = gateway.client(1);
    let echo = Echo::start();
    let quiet_echo = Echo::start();
    let flood = flooder.open(echo.address);
    let quiet = client.open(quiet_echo.address);
    let stop = Arc::new(AtomicBool::new(false));
    let (flooding, stopped) = (Arc::clone(&flood), Arc::clone(&stop));
    let thread = std::thread::spawn(move || {
        while !stopped.load(Ordering::Relaxed) {
            flooding.send(&[7; 1100]);
            flooding.receive_many(1024, |_| {});
        }
    });
    let mut answered = 0;
    for number in 0..50_u8 {
        quiet.send(&[number; 64]);
        answered += client.receive_within(&quiet, Duration::from_millis(200));
    }
    stop.store(true, Ordering::Relaxed);
    thread.join().unwrap();
    // Loopback sockets are shared with the flood, so that a few may be lost there.
    assert!(answered >= 40, "{answered} of 50");
}

/// The reader is too slow: the oldest give way, and the engine goes on.
#[test]
fn an_application_that_does_not_read_loses_the_oldest() {
    let gateway = Gateway::start(1);
    let mut client = gateway.client(1);
    let (socket, address) = support::target();
    let tunnel = client.open(address);
    tunnel.send(b"hello");
    let (_, proxy) = socket.recv_from(&mut [0; 16]).unwrap();
    let deadline = Instant::now() + support::PATIENCE;
    let mut number = 0_u32;
    while tunnel.counters().receive_dropped == 0 {
        for _ in 0..64 {
            number += 1;
            socket.send_to(&number.to_be_bytes().repeat(250), proxy).unwrap();
        }
        assert!(Instant::now() < deadline, "{:?}", tunnel.counters());
        std::thread::yield_now();
    }
    let mut first = None;
    tunnel.receive_many(1, |datagram| {
        first = Some(u32::from_be_bytes([datagram[0], datagram[1], datagram[2], datagram[3]]));
    });
    assert!(first.unwrap() > 1, "the oldest are gone");
}

impl support::Client {
    /// Datagrams of the flood may still come; the one that is looked for comes behind them.
    fn echo_after_flood(&mut self, tunnel: &moretta_engine::TunnelQueue) {
        let deadline = Instant::now() + support::PATIENCE;
        loop {
            tunnel.send(b"after");
            let mut found = false;
            self.driven.wait_quietly(Duration::from_millis(20));
            tunnel.receive_many(usize::MAX, |datagram| found |= datagram == b"after");
            if found {
                return;
            }
            assert!(Instant::now() < deadline, "nothing comes after the flood");
        }
    }

    fn receive_within(&mut self, tunnel: &moretta_engine::TunnelQueue, time: Duration) -> usize {
        let deadline = Instant::now() + time;
        loop {
            let received = tunnel.receive_many(1, |_| {});
            if received > 0 || Instant::now() >= deadline {
                return received;
            }
            self.driven.wait_quietly(Duration::from_millis(1));
        }
    }
}
