//! The front end `forward`: programs that know nothing of MASQUE use a tunnel.

use crate::support::{self, Client, Echo, Gateway, PATIENCE};
use moretta_engine::document::{Event, ForwardFailed};
use serde_json::json;
use std::net::{SocketAddr, UdpSocket};

fn forward(
    client: &mut Client,
    number: u64,
    target: SocketAddr,
    change: impl FnOnce(&mut serde_json::Value),
) -> SocketAddr {
    let mut command = json!({
        "command": "forward", "forward": number, "gateway": 1, "bind": "127.0.0.1:0",
        "host": target.ip().to_string(), "port": target.port(),
    });
    change(&mut command);
    client.driven.submit(command);
    client.driven.wait_for("forwarding", |event| match event {
        Event::Forwarding(forwarding) if forwarding.forward == number => Some(forwarding.address),
        Event::ForwardFailed(failed) => panic!("{failed:?}"),
        _ => None,
    })
}

fn peer(of: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(of).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn echo(peer: &UdpSocket, datagram: &[u8]) {
    peer.send(datagram).unwrap();
    let mut buffer = [0; 2048];
    let length = peer.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], datagram);
}

fn peers(client: &Client) -> u64 {
    client.driven.stats()["gauges"]["forward_peers"].as_u64().unwrap()
}

#[test]
fn each_peer_has_a_tunnel_of_its_own() {
    let mut gateway = Gateway::start(1);
    let mut client = gateway.client(1);
    let target = Echo::start();
    let address = forward(&mut client, 1, target.address, |_| {});
    let (first, second) = (peer(address), peer(address));
    for number in 0..50_u8 {
        echo(&first, &[number; 700]);
        echo(&second, &[number; 90]);
    }
    echo(&first, b"");
    assert_eq!(peers(&client), 2);
    for _ in 0..2 {
        gateway.opened_record();
    }
    client.driven.submit(json!({"command": "close_forward", "forward": 1}));
    client.driven.wait_until("forward_closed", |event| matches!(event, Event::ForwardClosed(_)));
    for _ in 0..2 {
        gateway.closed_record();
    }
    support::bind_again(address);
    assert!(
        !client.driven.has_told(|event| matches!(event, Event::TunnelOpened(_) | Event::TunnelClosed(_))),
        "a front end's tunnels are its own business"
    );
}

#[test]
fn peers_are_bounded_and_counted() {
    let gateway = Gateway::start(1);
    let mut client = gateway.client(1);
    let target = Echo::start();
    let address = forward(&mut client, 1, target.address, |command| command["max_peers"] = json!(1));
    let (first, second) = (peer(address), peer(address));
    echo(&first, b"in");
    second.send(b"out").unwrap();
    client.driven.wait_for_stats("refused peer", |stats| stats["forwards"]["dropped_too_many_peers"] == 1);
    echo(&first, b"still in");
}

#[test]
fn a_silent_peer_loses_its_tunnel_and_gets_another_when_it_speaks() {
    let mut gateway = Gateway::start(1);
    let mut client = gateway.client(1);
    let target = Echo::start();
    let address = forward(&mut client, 1, target.address, |command| command["idle_timeout_seconds"] = json!(0.2));
    let peer = peer(address);
    echo(&peer, b"one");
    gateway.closed_record();
    let stats = client.driven.wait_for_stats("expired peer", |stats| stats["gauges"]["forward_peers"] == 0);
    assert_eq!(stats["forwards"]["expired_peers"], 1);
    echo(&peer, b"two");
}

#[test]
fn a_refused_target_costs_one_request_a_second() {
    let gateway = Gateway::start(1);
    let mut client = gateway.client(1);
    let address = forward(&mut client, 1, "192.0.2.1:53".parse().unwrap(), |_| {});
    let peer = peer(address);
    peer.send(b"one").unwrap();
    gateway.driven.wait_for_stats("refusal", |stats| stats["core"]["tunnels_refused"] == 1);
    for _ in 0..10 {
        peer.send(b"more").unwrap();
    }
    client.driven.wait_for_stats("drops", |stats| {
        let forwards = &stats["forwards"];
        forwards["dropped_refused"].as_u64().unwrap() + forwards["dropped_opening"].as_u64().unwrap() >= 9
            || stats["sockets"]["forwards"]["datagrams_received"] == 11
    });
    assert_eq!(gateway.driven.stats()["core"]["tunnels_refused"], 1);
}

#[test]
fn a_forward_that_cannot_listen_says_why() {
    let gateway = Gateway::start(1);
    let mut client = gateway.client(1);
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.driven.submit(json!({
        "command": "forward", "forward": 3, "gateway": 1, "bind": taken.local_addr().unwrap(),
        "host": "127.0.0.1", "port": 9,
    }));
    let failed: ForwardFailed = client.driven.wait_for("forward_failed", |event| match event {
        Event::ForwardFailed(failed) => Some(failed.clone()),
        _ => None,
    });
    assert_eq!((failed.forward, failed.reason.as_str()), (3, "port_in_use"));
}

#[test]
fn a_forward_ends_with_its_gateway() {
    let gateway = Gateway::start(1);
    let mut client = gateway.client(1);
    let target = Echo::start();
    let address = forward(&mut client, 1, target.address, |_| {});
    echo(&peer(address), b"works");
    gateway.driven.engine.close();
    let reason = client.driven.wait_for("forward_closed", |event| match event {
        Event::ForwardClosed(closed) => Some(closed.reason.clone()),
        _ => None,
    });
    assert_eq!(reason, "gateway_closed");
    support::bind_again(address);
}
