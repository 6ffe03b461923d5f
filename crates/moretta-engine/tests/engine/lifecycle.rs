//! Starting, configuring, reloading and closing an engine, on real sockets.

use crate::support::{self, Driven, Echo, Gateway, Identity, snapshot};
use moretta_engine::document::Event;
use moretta_engine::{Engine, EngineError};
use serde_json::{Value, json};
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

fn prepared() -> (Driven, Identity) {
    let driven = Driven::start(1);
    let identity = Identity::new();
    driven.engine.put_secret("main.key", identity.key.as_bytes()).unwrap();
    (driven, identity)
}

#[test]
fn a_configuration_that_is_none_is_refused_with_its_path() {
    for (id, config, path) in [
        ("not JSON", "{", ""),
        ("another version", r#"{"version": 2}"#, "version"),
        ("unknown key", r#"{"version": 1, "threads": 2}"#, "threads"),
        ("no worker", r#"{"version": 1, "workers": 0}"#, "workers"),
        ("more workers than slots", r#"{"version": 1, "workers": 33}"#, "workers"),
    ] {
        let error = Engine::start(config.as_bytes()).unwrap_err();
        assert_eq!((error.code(), error.path()), ("invalid_document", path), "{id}: {error}");
    }
}

#[test]
fn closing_joins_within_a_second_and_a_second_close_does_nothing() {
    let mut driven = Driven::start(2);
    let started = Instant::now();
    driven.engine.close();
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    driven.engine.close();
    driven.wait_until("closed", |event| matches!(event, Event::Closed(_)));
    assert!(!driven.has_told(|event| matches!(event, Event::Closed(_))), "told once");
    assert_eq!(driven.try_submit(json!({"generation": 1})), Err(EngineError::Closed));
    assert_eq!(driven.engine.put_secret("a", b"b"), Err(EngineError::Closed));
    assert_eq!(driven.stats()["closed"], true);
}

#[test]
fn a_closed_engine_frees_its_port() {
    let gateway = Gateway::start(2);
    let address = gateway.address;
    UdpSocket::bind(address).unwrap_err();
    gateway.driven.engine.close();
    support::bind_again(address);
}

#[test]
fn a_port_in_use_is_told_in_one_sentence_with_its_path() {
    let (mut driven, identity) = prepared();
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let mut document = snapshot(&identity, 4);
    document["listeners"][0]["addresses"] = json!(["127.0.0.1:0", address]);
    let refused = driven.refused(document);
    assert_eq!((refused.generation, refused.code.as_str()), (4, "port_in_use"));
    assert_eq!(refused.path, "listeners[0].addresses[1]");
    assert!(refused.error.contains(&address.to_string()) && refused.error.contains("in use"), "{}", refused.error);
}

/// HG-10: no wildcard by default is the configuration's business; here one that is asked for works.
#[test]
fn two_engines_never_share_a_port() {
    let gateway = Gateway::start(2);
    let (mut driven, identity) = prepared();
    let mut document = snapshot(&identity, 1);
    document["listeners"][0]["addresses"] = json!([gateway.address]);
    assert_eq!(driven.refused(document).code, "port_in_use");
}

#[test]
fn each_fault_of_a_snapshot_names_its_path_and_nothing_starts() {
    let (mut driven, identity) = prepared();
    let rows: [(&str, fn(&mut Value), &str); 12] = [
        ("unreadable key", |d| d["listeners"][0]["key_secret"] = json!("other"), "listeners[0].key_secret"),
        ("no certificate", |d| d["listeners"][0]["certificate_pem"] = json!(""), "listeners[0].certificate_pem"),
        ("no address", |d| d["listeners"][0]["addresses"] = json!([]), "listeners[0].addresses"),
        ("nameless listener", |d| d["listeners"][0]["name"] = json!(""), "listeners[0].name"),
        ("bad template", |d| d["listeners"][0]["templates"] = json!(["/x/{target_host}"]), "listeners[0].templates[0]"),
        ("no template", |d| d["listeners"][0]["templates"] = json!([]), "listeners[0].templates"),
        (
            "bad prefix",
            |d| d["policy"]["rules"][0]["destination"] = json!(["10.0.0.1/8"]),
            "policy.rules[0].destination[0]",
        ),
        ("bad port", |d| d["policy"]["rules"][0]["ports"] = json!([0]), "policy.rules[0].ports[0]"),
        ("unknown limit", |d| d["limits"] = json!({"max_tunnel": 1}), "limits.max_tunnel"),
        ("limit out of range", |d| d["limits"] = json!({"idle_timeout_seconds": 1}), "limits.idle_timeout_seconds"),
        ("resolver timeout", |d| d["resolver"] = json!({"timeout_seconds": 0.0}), "resolver.timeout_seconds"),
        ("proxy name", |d| d["proxy_name"] = json!("a b"), "proxy_name"),
    ];
    for (id, change, path) in rows {
        let mut document = snapshot(&identity, 2);
        change(&mut document);
        let refused = driven.refused(document);
        assert_eq!(refused.path, path, "{id}: {}", refused.error);
        assert_eq!(refused.code, "invalid_document", "{id}");
    }
    let document = json!({"generation": 1, "listeners": [{"name": "main", "port": 1}]});
    let error = driven.try_submit(document).unwrap_err();
    assert_eq!(error.path(), "listeners[0].port", "{error}");
    assert!(!driven.has_told(|event| matches!(event, Event::Listening(_))));
}

#[test]
fn commands_that_name_nothing_or_what_is_taken_are_refused_at_once() {
    let driven = Driven::start(1);
    let open = json!({"command": "open_gateway", "gateway": 1, "origin_or_template": "https://127.0.0.1:1"});
    driven.submit(open.clone());
    assert_eq!(driven.try_submit(open), Err(EngineError::Taken { what: "gateway", id: 1 }));
    let unknown = [
        (json!({"command": "open_udp", "gateway": 9, "tunnel": 1, "host": "a.test", "port": 53}), "gateway"),
        (json!({"command": "close_gateway", "gateway": 9}), "gateway"),
        (json!({"command": "rebind_gateway", "gateway": 9}), "gateway"),
        (json!({"command": "ping", "gateway": 9, "ping": 1}), "gateway"),
        (json!({"command": "finish_tunnel", "tunnel": 9}), "tunnel"),
        (json!({"command": "reset_tunnel", "tunnel": 9}), "tunnel"),
        (json!({"command": "close_forward", "forward": 9}), "forward"),
    ];
    for (command, what) in unknown {
        assert_eq!(driven.try_submit(command), Err(EngineError::Unknown { what, id: 9 }));
    }
    let paths = [
        (json!({"command": "open_udp", "gateway": 1, "tunnel": 1_u64 << 63, "host": "a.test", "port": 53}), "tunnel"),
        (json!({"command": "open_udp", "gateway": 1, "tunnel": 1, "host": "", "port": 53}), "host"),
        (json!({"command": "open_udp", "gateway": 1, "tunnel": 1, "host": "a.test", "port": 0}), "port"),
        (json!({"command": "open_gateway", "gateway": 2, "origin_or_template": "http://a.test"}), "origin_or_template"),
        (
            json!({"command": "open_gateway", "gateway": 2, "origin_or_template": "https://a.test", "pin_sha256": "x"}),
            "pin_sha256",
        ),
        (
            json!({"command": "open_gateway", "gateway": 2, "origin_or_template": "https://a.test",
            "timeout_seconds": 0}),
            "timeout_seconds",
        ),
        (json!({"command": "drain", "deadline_seconds": -1}), "deadline_seconds"),
    ];
    for (command, path) in paths {
        let error = driven.try_submit(command).unwrap_err();
        assert_eq!((error.code(), error.path()), ("invalid_document", path), "{error}");
    }
}

#[test]
fn a_reload_adds_keeps_and_takes_away_listeners() {
    let mut gateway = Gateway::start(2);
    let mut document = gateway.snapshot(2);
    document["listeners"][0]["addresses"] = json!(["127.0.0.1:0", "[::1]:0"]);
    gateway.driven.apply(document);
    let addresses: Vec<SocketAddr> = gateway.driven.wait_for("listening", |event| match event {
        Event::Listening(listening) => Some(listening.addresses.clone()),
        _ => None,
    });
    assert_eq!(addresses[0], gateway.address, "the socket was kept");
    assert!(addresses[1].is_ipv6());
}

#[test]
fn a_listener_that_comes_back_while_connections_live_finds_its_sockets() {
    let mut gateway = Gateway::start(2);
    let mut client = gateway.client(1);
    let mut document = gateway.snapshot(2);
    document["listeners"] = json!([]);
    gateway.driven.apply(document);
    gateway.driven.apply(gateway.snapshot(3));
    let back = gateway.driven.wait_for("listening", |event| match event {
        Event::Listening(listening) => Some(listening.addresses[0]),
        _ => None,
    });
    assert_eq!(back, gateway.address);
    let echo = Echo::start();
    let tunnel = client.open(echo.address);
    client.echo(&tunnel, b"old connection");
    client.connect(&gateway, 2);
    let tunnel = client.open_through(2, echo.address);
    client.echo(&tunnel, b"new connection");
}

#[test]
fn a_removed_listener_frees_its_port_when_its_last_connection_ends() {
    let mut gateway = Gateway::start(2);
    let mut client = gateway.client(1);
    let echo = Echo::start();
    let tunnel = client.open(echo.address);
    let mut document = gateway.snapshot(2);
    document["listeners"] = json!([]);
    gateway.driven.apply(document);
    assert_eq!(client.closed(tunnel.token()).reason, "proxy_reset", "its tunnels end, the connection lives");
    UdpSocket::bind(gateway.address).unwrap_err();
    client.driven.submit(json!({"command": "close_gateway", "gateway": 1}));
    gateway.driven.wait_for_stats("closed links", |stats| stats["gauges"]["links"] == 0);
    support::bind_again(gateway.address);
}

#[test]
fn a_drain_with_nothing_to_wait_for_is_told_at_once() {
    let mut gateway = Gateway::start(2);
    for _ in 0..2 {
        gateway.driven.submit(json!({"command": "drain", "deadline_seconds": 30}));
        gateway.driven.wait_until("drained", |event| matches!(event, Event::Drained(_)));
    }
}
