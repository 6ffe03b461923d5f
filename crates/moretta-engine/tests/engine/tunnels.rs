//! Tunnels through a real gateway and a real client over loopback sockets.

use crate::support::{self, Client, Driven, Echo, Gateway, Identity, target};
use moretta_engine::document::{Event, GatewayFailed};
use moretta_engine::{SendOutcome, TunnelState};
use moretta_io::{OutgoingTrain, SocketOptions, UdpSocket};
use serde_json::json;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

fn target_sockets(gateway: &Gateway) -> u64 {
    gateway.driven.stats()["gauges"]["target_sockets"].as_u64().unwrap()
}

/// UDP-1, H3D-5: payloads of all sizes pass both ways unchanged and in order.
#[test]
fn datagrams_pass_both_ways() {
    let mut gateway = Gateway::start(1);
    let mut client = gateway.client(1);
    let echo = Echo::start();
    let tunnel = client.open(echo.address);
    for size in [0, 1, 2, 63, 64, 512, 1199, 1200] {
        client.echo(&tunnel, &vec![size as u8; size]);
    }
    for number in 0..200_u16 {
        assert_eq!(tunnel.send(&number.to_be_bytes().repeat(100)), SendOutcome::Queued);
    }
    let received = client.receive(&tunnel, 200);
    for (number, datagram) in received.iter().enumerate() {
        assert_eq!(*datagram, (number as u16).to_be_bytes().repeat(100));
    }
    let record = gateway.opened_record();
    assert_eq!(record.listener, "main");
    assert_eq!(SocketAddr::new(record.target_address, record.target_port), echo.address);
    assert_eq!(record.rule.as_deref(), Some("loopback"));
}

/// CF-4: an inner QUIC handshake works from its first packet.
#[test]
fn the_first_datagram_may_have_1200_bytes() {
    let gateway = Gateway::start(1);
    let mut client = gateway.client(1);
    let tunnel = client.open(Echo::start().address);
    assert!(tunnel.max_datagram_bytes() >= 1200, "{}", tunnel.max_datagram_bytes());
    let max = tunnel.max_datagram_bytes();
    assert_eq!(tunnel.send(&vec![0; max + 1]), SendOutcome::TooLarge { max });
}

#[test]
fn what_was_sent_before_the_answer_is_not_lost() {
    let gateway = Gateway::start(1);
    let mut client = gateway.client(1);
    let echo = Echo::start();
    let number = client.ask(&echo.address.ip().to_string(), echo.address.port());
    let tunnel = client.driven.engine.tunnel(number).unwrap();
    assert_eq!(tunnel.send(b"early"), SendOutcome::Queued);
    client.opened(number);
    assert_eq!(client.receive(&tunnel, 1), [b"early".to_vec()]);
}

/// What is more than a tunnel's queue takes waits in the kernel, where it costs nobody anything: also when large trains
/// follow single datagrams.
#[test]
fn a_flow_is_read_no_faster_than_its_queue_has_room() {
    let gateway = Gateway::start(1);
    let mut client = gateway.client(1);
    let (socket, address) = target();
    let tunnel = client.open(address);
    tunnel.send(b"hello");
    let mut buffer = [0; 64];
    let (_, proxy) = socket.recv_from(&mut buffer).unwrap();
    socket.send_to(&[1; 100], proxy).unwrap();
    assert_eq!(client.receive(&tunnel, 1).len(), 1);

    let options = SocketOptions { send_buffer_bytes: 4 << 20, ..SocketOptions::target() };
    drop(socket);
    let mut trains = UdpSocket::open_client(address, &options).unwrap();
    for _ in 0..24 {
        let data = vec![2; 40 * 1000];
        let train = OutgoingTrain { remote: Some(proxy), local: None, ecn: 0, segment_size: Some(1000), data: &data };
        assert_eq!(trains.send_train(&train).dropped, 0);
    }

    let stats = gateway.driven.wait_for_stats("all of it read", |stats| stats["core"]["datagrams_from_flows"] == 961);
    assert_eq!(stats["core"]["down_dropped_queue_full"], 0, "{stats}");
}

/// UDP-3: the gateway's socket is connected; strangers are not heard.
#[test]
fn only_the_target_is_heard() {
    let gateway = Gateway::start(1);
    let mut client = gateway.client(1);
    let (socket, address) = target();
    let tunnel = client.open(address);
    tunnel.send(b"hello");
    let mut buffer = [0; 64];
    let (_, proxy) = socket.recv_from(&mut buffer).unwrap();
    let (stranger, _) = target();
    stranger.send_to(b"forged", proxy).unwrap();
    socket.send_to(b"true", proxy).unwrap();
    assert_eq!(client.receive(&tunnel, 1), [b"true".to_vec()]);
}

#[test]
fn a_refused_target_says_why_and_is_recorded() {
    let mut gateway = Gateway::start(1);
    let mut client = gateway.client(1);
    let rows = [
        ("no rule", "9.9.9.9", 53, 403, "http_request_denied"),
        ("never", "169.254.169.254", 80, 403, "destination_ip_prohibited"),
        ("not a host", "127.1", 53, 400, "http_request_error"),
    ];
    for (id, host, port, status, token) in rows {
        let number = client.ask(host, port);
        let refused = client.refused(number);
        assert_eq!(refused.status, Some(status), "{id}: {refused:?}");
        assert!(refused.proxy_status.unwrap_or_default().contains(token), "{id}");
        let record = gateway.driven.wait_for("record_refused", |event| match event {
            Event::RecordRefused(record) => Some(record.clone()),
            _ => None,
        });
        assert_eq!(record.status, Some(status), "{id}");
        assert_eq!(record.target_host.as_deref().unwrap_or(host), host, "{id}");
    }
    let stats = gateway.driven.stats();
    assert_eq!(
        stats["gateway_tunnels"]["refused"],
        json!({"policy_refused": 1, "target_prohibited": 1, "bad_target_host": 1}),
        "exact, whatever records are shed"
    );
    assert_eq!(client.driven.stats()["gauges"]["tunnels"], 0);
    assert_eq!(target_sockets(&gateway), 0);
}

/// Security: never a socket of the gateway itself, whatever the danger settings say.
#[test]
fn the_gateways_own_listener_is_no_target() {
    let gateway = Gateway::start_with(1, |document| document["policy"]["danger_allow_own_addresses"] = json!(true));
    let mut client = gateway.client(1);
    let number = client.ask("127.0.0.1", gateway.address.port());
    assert_eq!(client.refused(number).status, Some(403));
}

/// AU-12: the socket is closed at most 100 ms after the tunnel.
#[test]
fn a_finished_tunnel_gives_its_descriptor_back_and_is_recorded() {
    let mut gateway = Gateway::start(1);
    let mut client = gateway.client(1);
    let echo = Echo::start();
    let tunnel = client.open(echo.address);
    client.echo(&tunnel, b"four");
    let opened = gateway.opened_record();
    assert_eq!(target_sockets(&gateway), 1);
    client.driven.submit(json!({"command": "finish_tunnel", "tunnel": tunnel.token()}));
    let closed = gateway.closed_record();
    let told = Instant::now();
    gateway.driven.wait_for_stats("closed socket", |stats| stats["gauges"]["target_sockets"] == 0);
    assert!(told.elapsed() < Duration::from_millis(100), "{:?}", told.elapsed());
    assert_eq!((closed.tunnel_id, closed.reason.as_str()), (opened.tunnel_id, "client_finished"));
    let counters = closed.counters;
    assert_eq!((counters.datagrams_to_target, counters.bytes_to_target), (1, 4));
    assert_eq!((counters.datagrams_from_target, counters.bytes_from_target), (1, 4));
    client.closed(tunnel.token());
    assert_eq!(tunnel.state(), TunnelState::Closed);
    assert_eq!(tunnel.send(b"late"), SendOutcome::Closed);
    assert!(client.driven.engine.tunnel(tunnel.token()).is_none(), "its end was taken");
}

#[test]
fn a_reset_tunnel_is_recorded_as_reset() {
    let mut gateway = Gateway::start(1);
    let mut client = gateway.client(1);
    let tunnel = client.open(Echo::start().address);
    client.driven.submit(json!({"command": "reset_tunnel", "tunnel": tunnel.token()}));
    assert_eq!(gateway.closed_record().reason, "client_reset");
    client.closed(tunnel.token());
    gateway.driven.wait_for_stats("closed socket", |stats| stats["gauges"]["target_sockets"] == 0);
}

#[test]
fn a_tunnel_may_be_given_up_while_it_is_being_opened() {
    let gateway = Gateway::start(1);
    let mut client = gateway.client(1);
    let number = client.ask("127.0.0.1", 9);
    client.driven.submit(json!({"command": "reset_tunnel", "tunnel": number}));
    client.driven.wait_for("an end", |event| match event {
        Event::TunnelRefused(refused) if refused.tunnel == number => Some(()),
        Event::TunnelClosed(closed) if closed.tunnel == number => Some(()),
        _ => None,
    });
    client.echo_works(&gateway);
}

#[test]
fn a_gateway_that_closes_ends_the_clients_tunnels() {
    let gateway = Gateway::start(1);
    let mut client = gateway.client(1);
    let tunnel = client.open(Echo::start().address);
    gateway.driven.engine.close();
    client.closed(tunnel.token());
    client.driven.wait_for("gateway_closed", |event| match event {
        Event::GatewayClosed(closed) => Some(closed.gateway),
        _ => None,
    });
    let again = json!({"command": "open_udp", "gateway": 1, "tunnel": 77, "host": "127.0.0.1", "port": 9});
    assert_eq!(client.driven.try_submit(again).unwrap_err().code(), "unknown_number");
}

#[test]
fn closing_the_connection_ends_its_tunnels_on_both_sides() {
    let mut gateway = Gateway::start(1);
    let mut client = gateway.client(1);
    let tunnel = client.open(Echo::start().address);
    client.driven.submit(json!({"command": "close_gateway", "gateway": 1}));
    client.closed(tunnel.token());
    gateway.closed_record();
    gateway.driven.wait_for_stats("closed socket", |stats| stats["gauges"]["target_sockets"] == 0);
}

/// C-19: hardened counts what ICMP says and the tunnel lives.
#[test]
fn a_target_that_is_not_there_ends_nothing() {
    let gateway = Gateway::start(1);
    let mut client = gateway.client(1);
    let (socket, address) = target();
    let tunnel = client.open(address);
    drop(socket);
    tunnel.send(b"anybody?");
    gateway.driven.wait_for_stats("reported error", |stats| {
        stats["sockets"]["targets"]["reported"]["connection_refused"].as_u64().unwrap() > 0
    });
    let socket = support::bind_again(address);
    socket.set_read_timeout(Some(support::PATIENCE)).unwrap();
    tunnel.send(b"now?");
    let mut buffer = [0; 64];
    assert_eq!(socket.recv(&mut buffer).unwrap(), 4);
}

/// C-19: interop resets the stream.
#[test]
fn a_target_that_is_not_there_ends_the_tunnel_under_interop() {
    let mut gateway = Gateway::start_with(1, |document| document["profile"] = json!("interop"));
    let mut client = gateway.client(1);
    let (socket, address) = target();
    let tunnel = client.open(address);
    drop(socket);
    tunnel.send(b"anybody?");
    assert_eq!(gateway.closed_record().reason, "target_error");
    client.closed(tunnel.token());
}

#[test]
fn a_reload_keeps_tunnels_whose_target_is_still_allowed() {
    let mut gateway = Gateway::start(1);
    let mut client = gateway.client(1);
    let echo = Echo::start();
    let tunnel = client.open(echo.address);
    client.echo(&tunnel, b"before");
    let other = Identity::new();
    gateway.driven.engine.put_secret("other.key", other.key.as_bytes()).unwrap();
    let mut document = gateway.snapshot(2);
    document["listeners"][0]["certificate_pem"] = json!(other.certificate);
    document["listeners"][0]["key_secret"] = json!("other.key");
    gateway.driven.apply(document);
    client.echo(&tunnel, b"after");
    gateway.identity = other;
    client.connect(&gateway, 2);
}

#[test]
fn a_reload_ends_tunnels_whose_target_is_allowed_no_more() {
    let mut gateway = Gateway::start(1);
    let mut client = gateway.client(1);
    let tunnel = client.open(Echo::start().address);
    let mut document = gateway.snapshot(2);
    document["policy"]["rules"] = json!([]);
    gateway.driven.apply(document);
    assert_eq!(gateway.closed_record().reason, "policy_changed");
    client.closed(tunnel.token());
}

#[test]
fn a_refused_reload_changes_nothing() {
    let mut gateway = Gateway::start(1);
    let mut client = gateway.client(1);
    let echo = Echo::start();
    let tunnel = client.open(echo.address);
    let mut document = gateway.snapshot(2);
    document["policy"]["rules"] = json!([]);
    document["listeners"][0]["key_secret"] = json!("missing");
    let refused = gateway.driven.refused(document);
    assert_eq!((refused.generation, refused.path.as_str()), (2, "listeners[0].key_secret"));
    client.echo(&tunnel, b"still here");
    client.echo_works(&gateway);
}

#[test]
fn a_drain_takes_no_new_tunnel_and_ends_when_the_last_has_ended() {
    let mut gateway = Gateway::start(1);
    let mut client = gateway.client(1);
    let echo = Echo::start();
    let tunnel = client.open(echo.address);
    gateway.driven.submit(json!({"command": "drain", "deadline_seconds": 60}));
    gateway.driven.wait_for_stats("drain", |_| true);
    client.echo(&tunnel, b"still here");
    let number = client.ask("127.0.0.1", echo.address.port());
    client.refused(number);
    client.driven.submit(json!({"command": "finish_tunnel", "tunnel": tunnel.token()}));
    gateway.driven.wait_until("drained", |event| matches!(event, Event::Drained(_)));
}

#[test]
fn a_drain_closes_what_is_left_at_its_deadline() {
    let mut gateway = Gateway::start(1);
    let mut client = gateway.client(1);
    let tunnel = client.open(Echo::start().address);
    gateway.driven.submit(json!({"command": "drain", "deadline_seconds": 0}));
    gateway.driven.wait_until("drained", |event| matches!(event, Event::Drained(_)));
    client.closed(tunnel.token());
}

fn failure(change: impl FnOnce(&Gateway, &mut serde_json::Value)) -> GatewayFailed {
    let gateway = Gateway::start(1);
    let mut client = Driven::start(1);
    let mut command = json!({
        "command": "open_gateway", "gateway": 1, "origin_or_template": format!("https://{}", gateway.address),
    });
    change(&gateway, &mut command);
    client.submit(command);
    client
        .wait_for("gateway_failed", |event| match event {
            Event::GatewayFailed(failed) => Some(Ok(failed.clone())),
            Event::GatewayConnected(connected) => Some(Err(connected.clone())),
            _ => None,
        })
        .unwrap()
}

#[test]
fn a_gateway_is_trusted_by_authority_name_and_pin_or_not_at_all() {
    let rows: [(&str, fn(&Gateway, &mut serde_json::Value)); 4] = [
        ("system roots", |_, _| {}),
        ("another authority", |_, command| command["ca_pem"] = json!(Identity::new().certificate)),
        ("another name", |gateway, command| {
            command["ca_pem"] = json!(gateway.identity.certificate);
            command["server_name"] = json!("other.test");
        }),
        ("another key", |_, command| command["pin_sha256"] = json!(Identity::new().pin)),
    ];
    for (id, change) in rows {
        let failed = failure(change);
        assert_eq!(failed.reason, "tls_failed", "{id}: {failed:?}");
    }
}

#[test]
fn a_pinned_key_is_trusted_without_any_authority() {
    let gateway = Gateway::start(1);
    let mut client = Driven::start(1);
    client.submit(json!({
        "command": "open_gateway", "gateway": 1, "pin_sha256": gateway.identity.pin,
        "origin_or_template": format!("https://{}", gateway.address), "server_name": "anything.test",
    }));
    client.wait_until("gateway_connected", |event| matches!(event, Event::GatewayConnected(_)));
}

#[test]
fn a_gateway_that_is_not_there_fails_in_time() {
    let (_silent, address) = target();
    let mut client = Driven::start(1);
    client.submit(json!({
        "command": "open_gateway", "gateway": 1, "origin_or_template": format!("https://{address}"),
        "timeout_seconds": 0.3, "pin_sha256": Identity::new().pin,
    }));
    client.submit(json!({"command": "open_udp", "gateway": 1, "tunnel": 1, "host": "127.0.0.1", "port": 9}));
    let started = Instant::now();
    client.wait_until("tunnel_refused", |event| matches!(event, Event::TunnelRefused(_)));
    let failed = client.wait_for("gateway_failed", |event| match event {
        Event::GatewayFailed(failed) => Some(failed.clone()),
        _ => None,
    });
    assert_eq!(failed.reason, "timed_out");
    assert!(started.elapsed() < Duration::from_secs(2));
    client.submit(json!({"command": "open_gateway", "gateway": 1, "origin_or_template": "https://127.0.0.1:9",
        "timeout_seconds": 0.1, "pin_sha256": Identity::new().pin}));
}

/// A name with addresses of both families finds the gateway at the one that answers.
#[test]
fn the_other_family_is_tried_when_the_first_does_not_answer() {
    let gateway = Gateway::start(1);
    let mut client = Driven::start(1);
    client.submit(json!({"generation": 1, "resolver": {"hosts": {"gateway.test": ["::1", "127.0.0.1"]}}}));
    client.submit(json!({
        "command": "open_gateway", "gateway": 1, "ca_pem": gateway.identity.certificate, "timeout_seconds": 5,
        "origin_or_template": format!("https://gateway.test:{}", gateway.address.port()),
    }));
    client.submit(json!({"command": "open_udp", "gateway": 1, "tunnel": 1, "host": "127.0.0.1", "port": 9}));
    client.submit(json!({"command": "open_udp", "gateway": 1, "tunnel": 2, "host": "127.0.0.1", "port": 9}));
    client.submit(json!({"command": "reset_tunnel", "tunnel": 2}));
    let connected = client.wait_for("gateway_connected", |event| match event {
        Event::GatewayConnected(connected) => Some(connected.remote),
        Event::GatewayFailed(failed) => panic!("{failed:?}"),
        _ => None,
    });
    assert_eq!(connected, gateway.address);
    client.wait_for("tunnel_opened", |event| match event {
        Event::TunnelOpened(opened) => (opened.tunnel == 1).then_some(()),
        _ => None,
    });
    client.wait_for("tunnel_refused", |event| match event {
        Event::TunnelRefused(refused) => (refused.tunnel == 2).then_some(()),
        _ => None,
    });
}

#[test]
fn an_address_where_nothing_listens_fails_at_once() {
    let (socket, address) = target();
    drop(socket);
    let mut client = Driven::start(1);
    let started = Instant::now();
    client.submit(json!({
        "command": "open_gateway", "gateway": 1, "origin_or_template": format!("https://{address}"),
        "pin_sha256": Identity::new().pin,
    }));
    let failed = client.wait_for("gateway_failed", |event| match event {
        Event::GatewayFailed(failed) => Some(failed.clone()),
        _ => None,
    });
    assert_eq!(failed.reason, "connection_refused");
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
}

#[test]
fn a_gateway_whose_name_does_not_exist_fails_with_the_reason() {
    let dns = support::dns::Dns::start(&[]);
    let mut client = Driven::start(1);
    client.apply(json!({"generation": 1, "resolver": {"nameservers": [dns.address]}}));
    client.submit(json!({"command": "open_gateway", "gateway": 1, "origin_or_template": "https://no.test"}));
    let failed = client.wait_for("gateway_failed", |event| match event {
        Event::GatewayFailed(failed) => Some(failed.clone()),
        _ => None,
    });
    assert_eq!(failed.reason, "nxdomain", "{failed:?}");
}

#[test]
fn gateway_and_target_may_be_reached_by_ipv6() {
    let gateway = Gateway::start_with(2, |document| document["listeners"][0]["addresses"] = json!(["[::1]:0"]));
    let mut client = Client::start();
    client.driven.submit(json!({
        "command": "open_gateway", "gateway": 1, "pin_sha256": gateway.identity.pin,
        "origin_or_template": format!("https://{}", gateway.address),
    }));
    let echo = Echo::start_at("[::1]:0");
    let tunnel = client.open(echo.address);
    client.echo(&tunnel, b"six");
}

/// A listener that others can reach serves nobody without an identity, unless its setting says so.
#[test]
fn an_anonymous_client_is_refused_where_the_listener_is_not_on_loopback() {
    let gateway = Gateway::start_with(1, |document| document["listeners"][0]["addresses"] = json!(["0.0.0.0:0"]));
    let mut client = Client::start();
    client.driven.submit(json!({
        "command": "open_gateway", "gateway": 1, "pin_sha256": gateway.identity.pin,
        "origin_or_template": format!("https://127.0.0.1:{}", gateway.address.port()),
    }));
    let tunnel = client.ask("127.0.0.1", 9);
    assert_eq!(client.refused(tunnel).status, Some(401));
}

#[test]
fn an_idle_engine_sleeps() {
    let gateway = Gateway::start(1);
    let mut client = gateway.client(1);
    let echo = Echo::start();
    let tunnel = client.open(echo.address);
    client.echo(&tunnel, b"awake");
    let polls = |driven: &Driven| driven.stats()["shell"]["polls"].as_u64().unwrap();
    let before = (polls(&gateway.driven), polls(&client.driven));
    // Nothing will come: this waits on the descriptor for the whole time.
    client.driven.wait_quietly(Duration::from_millis(300));
    let after = (polls(&gateway.driven), polls(&client.driven));
    assert!(after.0 - before.0 < 30 && after.1 - before.1 < 30, "{before:?} {after:?}");
}

/// HG-10: a wildcard listener answers from the address that it was asked at.
#[test]
fn a_wildcard_listener_answers_from_the_address_it_was_asked_at() {
    let gateway = Gateway::start_with(2, |document| {
        document["listeners"][0]["addresses"] = json!(["0.0.0.0:0"]);
        document["listeners"][0]["danger_allow_anonymous"] = json!(true);
    });
    let mut client = Driven::start(1);
    for (number, address) in [(1, "127.0.0.1"), (2, "127.0.0.77")] {
        client.submit(json!({
            "command": "open_gateway", "gateway": number, "pin_sha256": gateway.identity.pin,
            "origin_or_template": format!("https://{address}:{}", gateway.address.port()),
        }));
        client.wait_for("gateway_connected", |event| match event {
            Event::GatewayConnected(connected) if connected.gateway == number => Some(()),
            Event::GatewayFailed(failed) => panic!("{failed:?}"),
            _ => None,
        });
    }
}

/// Room that was reserved for events comes back, whatever became of what it was reserved for.
#[test]
fn reserved_room_comes_back() {
    let mut gateway = Gateway::start(1);
    let mut client = gateway.client(1);
    let echo = Echo::start();
    let tunnel = client.open(echo.address);
    let refused = client.ask("9.9.9.9", 53);
    client.refused(refused);
    client.driven.submit(json!({"command": "ping", "gateway": 1, "ping": 1}));
    client.driven.wait_until("pong", |event| matches!(event, Event::Pong(_)));
    client.driven.submit(json!({"command": "finish_tunnel", "tunnel": tunnel.token()}));
    client.closed(tunnel.token());
    for (number, bind) in [(1, "127.0.0.1:0"), (2, "192.0.2.1:1")] {
        client.driven.submit(json!({
            "command": "forward", "forward": number, "gateway": 1, "bind": bind, "host": "127.0.0.1", "port": 9,
        }));
    }
    client.driven.wait_until("forward_failed", |event| matches!(event, Event::ForwardFailed(_)));
    client.driven.wait_until("forwarding", |event| matches!(event, Event::Forwarding(_)));
    client.driven.submit(json!({"command": "close_forward", "forward": 1}));
    client.driven.wait_until("forward_closed", |event| matches!(event, Event::ForwardClosed(_)));
    client.driven.submit(json!({"command": "close_gateway", "gateway": 1}));
    client.driven.wait_until("gateway_closed", |event| matches!(event, Event::GatewayClosed(_)));
    client.driven.submit(json!({"command": "open_gateway", "gateway": 2, "origin_or_template": "https://127.0.0.1:9",
        "timeout_seconds": 1, "pin_sha256": Identity::new().pin}));
    client.driven.wait_until("gateway_failed", |event| matches!(event, Event::GatewayFailed(_)));
    gateway.closed_record();
    let mut broken = gateway.snapshot(2);
    broken["proxy_name"] = json!("");
    gateway.driven.refused(broken);
    gateway.driven.apply(gateway.snapshot(3));
    for driven in [&mut client.driven, &mut gateway.driven] {
        driven.wait_quietly(Duration::from_millis(1));
        driven.wait_for_stats("empty border", |stats| stats["border"]["events_reserved"] == 0);
    }
}

#[test]
fn a_ping_measures_the_way_to_the_gateway() {
    let gateway = Gateway::start(1);
    let mut client = gateway.client(1);
    client.driven.submit(json!({"command": "ping", "gateway": 1, "ping": 5}));
    let pong = client.driven.wait_for("pong", |event| match event {
        Event::Pong(pong) => Some(pong.clone()),
        _ => None,
    });
    assert_eq!((pong.gateway, pong.ping), (1, 5));
    assert!(pong.round_trip_seconds > 0.0 && pong.round_trip_seconds < 1.0, "{pong:?}");
    assert!(pong.handshake_seconds > 0.0, "{pong:?}");
}

impl Client {
    /// A new tunnel works.
    fn echo_works(&mut self, _gateway: &Gateway) {
        let echo = Echo::start();
        let tunnel = self.open(echo.address);
        self.echo(&tunnel, b"works");
    }
}
