//! Workers that fail, which only this crate can make them do.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    clippy::must_use_candidate,
    clippy::new_without_default,
    reason = "tests look for the one event that they are about"
)]

#[allow(dead_code, unreachable_pub, reason = "tests/engine uses the rest of it")]
#[path = "../../tests/engine/support/mod.rs"]
mod support;

use crate::document::Event;
use crate::mailbox::Message;
use crate::queue::TunnelState;
use serde_json::json;
use std::time::{Duration, Instant};
use support::{Client, Driven, Echo, Gateway};

fn fail(driven: &Driven, worker: usize, for_good: bool) {
    driven.engine.instance.workers[worker].post(Message::Fail { for_good });
}

fn restarted(driven: &mut Driven) -> usize {
    driven.wait_for("worker_restarted", |event| match event {
        Event::WorkerRestarted(restarted) => Some(restarted.worker),
        _ => None,
    })
}

/// P-6: a bug costs what its worker carried. That is recorded, the clients learn it, and the worker serves again.
#[test]
fn a_gateways_worker_that_fails_serves_again_and_the_other_one_goes_on() {
    let mut gateway = Gateway::start(2);
    let mut client = Client::start();
    let echo = Echo::start();
    let mut tunnels = Vec::new();
    // A busy worker's counters may be those of a moment ago.
    let tunnels_of = |gateway: &Gateway, all: u64| {
        let stats = gateway.driven.wait_for_stats("all tunnels", |stats| stats["gauges"]["tunnels"] == all);
        [0, 1].map(|worker| stats["workers"][worker]["gauges"]["tunnels"].as_u64().unwrap())
    };
    // Where a connection lands is chance; each worker needs one.
    while tunnels_of(&gateway, tunnels.len() as u64).contains(&0) {
        let number = tunnels.len() as u64 + 1;
        client.connect(&gateway, number);
        tunnels.push(client.open_through(number, echo.address));
        gateway.opened_record();
    }
    let [lost, kept] = tunnels_of(&gateway, tunnels.len() as u64);
    fail(&gateway.driven, 0, false);
    assert_eq!(restarted(&mut gateway.driven), 0);
    for _ in 0..lost {
        assert_eq!(gateway.closed_record().reason, "internal_error");
    }
    assert_eq!(tunnels_of(&gateway, kept), [0, kept]);
    let survivors = tunnels.iter().filter(|tunnel| {
        // Asked, the gateway answers for what it lost with a stateless reset.
        tunnel.send(b"anybody?");
        let mut came_back = false;
        let deadline = Instant::now() + support::PATIENCE;
        while !came_back && tunnel.state() == TunnelState::Open {
            tunnel.receive_many(1, |_| came_back = true);
            assert!(Instant::now() < deadline);
            std::thread::yield_now();
        }
        came_back
    });
    assert_eq!(survivors.count() as u64, kept);

    let before = gateway.driven.stats()["workers"][0]["core"]["tunnels_opened"].as_u64().unwrap();
    let mut number = 100;
    loop {
        client.connect(&gateway, number);
        let tunnel = client.open_through(number, echo.address);
        client.echo(&tunnel, b"new");
        number += 1;
        let stats = gateway.driven.stats();
        if stats["workers"][0]["core"]["tunnels_opened"].as_u64().unwrap() > before {
            assert_eq!((&stats["core"]["panicked_cores"], &stats["workers_lost"]), (&json!(1), &json!(0)));
            break;
        }
    }
    let open = gateway.driven.stats()["tunnels"]["open"].as_u64().unwrap();
    assert_eq!(open, kept + (number - 100), "what was lost is counted out");
}

/// Whoever waits for something of a client's worker is told, and can begin again.
#[test]
fn a_clients_worker_that_fails_tells_everybody_who_waits() {
    let gateway = Gateway::start(1);
    let mut client = gateway.client(1);
    let echo = Echo::start();
    let tunnel = client.open(echo.address);
    client.driven.submit(json!({
        "command": "forward", "forward": 1, "gateway": 1, "bind": "127.0.0.1:0", "host": "127.0.0.1", "port": 9,
    }));
    client.driven.wait_until("forwarding", |event| matches!(event, Event::Forwarding(_)));
    // A gateway that is not there, and a tunnel that waits for it; both behind the failure in the same inbox, or before.
    let (_silent, address) = support::target();
    let nowhere = json!({
        "command": "open_gateway", "gateway": 2, "origin_or_template": format!("https://{address}"),
        "pin_sha256": support::Identity::new().pin,
    });
    client.driven.submit(nowhere);
    let waiting = client.ask_through(2, "127.0.0.1", 9);
    client.driven.wait_for_stats("second gateway", |stats| stats["gauges"]["gateways"] == 2);
    fail(&client.driven, 0, false);
    restarted(&mut client.driven);
    assert_eq!(client.closed(tunnel.token()).reason, "internal_error");
    assert_eq!(client.refused(waiting).status, None);
    client.driven.wait_until(
        "end of gateway 1",
        |event| matches!(event, Event::GatewayClosed(closed) if closed.gateway == 1 && closed.reason == "internal_error"),
    );
    client.driven.wait_until(
        "end of gateway 2",
        |event| matches!(event, Event::GatewayFailed(failed) if failed.gateway == 2 && failed.reason == "internal_error"),
    );
    client.driven.wait_until("forward_closed", |event| matches!(event, Event::ForwardClosed(_)));
    client.driven.wait_for_stats("nothing left", |stats| {
        stats["border"]["events_reserved"] == 0 && stats["gauges"]["links"] == 0
    });

    client.connect(&gateway, 3);
    let tunnel = client.open_through(3, echo.address);
    client.echo(&tunnel, b"again");
}

#[test]
fn a_drain_goes_on_over_a_failure_and_takes_nothing_new() {
    let mut gateway = Gateway::start(1);
    let mut client = gateway.client(1);
    let tunnel = client.open(Echo::start().address);
    gateway.driven.submit(json!({"command": "drain", "deadline_seconds": 60}));
    fail(&gateway.driven, 0, false);
    gateway.driven.wait_until("drained", |event| matches!(event, Event::Drained(_)));
    tunnel.send(b"anybody?");
    client.closed(tunnel.token());
    client.driven.submit(json!({
        "command": "open_gateway", "gateway": 2, "origin_or_template": format!("https://{}", gateway.address),
        "ca_pem": gateway.identity.certificate,
    }));
    client.driven.wait_until("refusal", |event| matches!(event, Event::GatewayFailed(_)));
}

#[test]
fn a_worker_that_cannot_begin_anew_is_counted_and_the_engine_still_drains_and_closes() {
    let mut driven = Driven::start(2);
    fail(&driven, 0, true);
    let deadline = Instant::now() + support::PATIENCE;
    while driven.engine.instance.workers_lost() == 0 {
        assert!(Instant::now() < deadline);
        std::thread::yield_now();
    }
    driven.submit(json!({"command": "drain", "deadline_seconds": 0}));
    driven.wait_until("drained", |event| matches!(event, Event::Drained(_)));
    assert_eq!(driven.stats()["workers_lost"], 1);
    let started = Instant::now();
    driven.engine.close();
    assert!(started.elapsed() < Duration::from_secs(1));
}
