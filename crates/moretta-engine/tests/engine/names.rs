//! Names: one lookup for each open, asked of a server that counts.

use crate::support::dns::{Dns, Entry};
use crate::support::{Client, Echo, Gateway};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::RecordType;
use moretta_engine::document::{Event, TunnelRefused};
use serde_json::json;

fn gateway(dns: &Dns) -> Gateway {
    Gateway::start_with(1, |document| {
        document["resolver"] = json!({
            "nameservers": [dns.address], "timeout_seconds": 0.5, "hosts": {"Written.Test": ["127.0.0.1"]},
        });
    })
}

fn asked(dns: &Dns, name: &str) -> Vec<RecordType> {
    let mut types: Vec<RecordType> =
        dns.questions().into_iter().filter(|(asked, _)| *asked == format!("{name}.")).map(|(_, kind)| kind).collect();
    types.sort();
    types
}

fn refusal(client: &mut Client, name: &str) -> TunnelRefused {
    let tunnel = client.ask(name, 53);
    client.refused(tunnel)
}

/// Exactly one lookup: one A and one AAAA question at most, for exactly this name.
#[test]
fn a_name_is_asked_once_for_each_family_and_its_address_is_connected() {
    let dns = Dns::start(&[("echo.test", Entry::Addresses(vec!["127.0.0.1".parse().unwrap()]))]);
    let mut gateway = gateway(&dns);
    let mut client = gateway.client(1);
    let echo = Echo::start();
    let number = client.ask("Echo.Test", echo.address.port());
    let tunnel = client.opened(number);
    client.echo(&tunnel, b"named");
    assert_eq!(asked(&dns, "echo.test"), [RecordType::A, RecordType::AAAA]);
    assert_eq!(dns.questions().len(), 2, "no search list, no other question: {:?}", dns.questions());
    let record = gateway.driven.wait_for("record_opened", |event| match event {
        Event::RecordOpened(record) => Some(record.clone()),
        _ => None,
    });
    assert_eq!((record.target_host.as_str(), record.target_address), ("echo.test", echo.address.ip()));
    // Kept for its time to live.
    let number = client.ask("echo.test", echo.address.port());
    client.opened(number);
    assert_eq!(dns.questions().len(), 2);
}

#[test]
fn hosts_entries_need_no_question() {
    let dns = Dns::start(&[]);
    let gateway = gateway(&dns);
    let mut client = gateway.client(1);
    let echo = Echo::start();
    let number = client.ask("written.test", echo.address.port());
    let tunnel = client.opened(number);
    client.echo(&tunnel, b"written");
    assert!(dns.questions().is_empty());
}

#[test]
fn an_address_literal_and_a_host_that_is_none_are_never_asked() {
    let dns = Dns::start(&[]);
    let gateway = gateway(&dns);
    let mut client = gateway.client(1);
    client.open(Echo::start().address);
    for host in ["127.1", "0x7f.1", "a..test", "1.2.3.256"] {
        assert_eq!(refusal(&mut client, host).status, Some(400), "{host}");
    }
    assert!(dns.questions().is_empty());
}

#[test]
fn a_name_that_policy_refuses_is_never_asked() {
    let dns = Dns::start(&[]);
    let mut gateway = gateway(&dns);
    let mut document = gateway.snapshot(2);
    let denied = json!({
        "id": "not this one", "action": "deny", "protocol": "udp", "destination": ["example.com"], "ports": "*",
    });
    document["policy"]["rules"].as_array_mut().unwrap().push(denied);
    gateway.driven.apply(document);
    let mut client = gateway.client(1);
    assert_eq!(refusal(&mut client, "example.com").status, Some(403));
    assert!(dns.questions().is_empty());
}

#[test]
fn every_failure_has_its_own_status_and_proxy_status() {
    let dns = Dns::start(&[
        ("broken.test", Entry::Code(ResponseCode::ServFail)),
        ("denied.test", Entry::Code(ResponseCode::Refused)),
        ("empty.test", Entry::Addresses(vec![])),
        ("silent.test", Entry::Silence),
    ]);
    let gateway = gateway(&dns);
    let mut client = gateway.client(1);
    let rows = [
        ("missing.test", 502, "NXDOMAIN", "name_not_found"),
        ("broken.test", 502, "SERVFAIL", "dns_failed"),
        ("denied.test", 502, "REFUSED", "dns_failed"),
        ("empty.test", 502, "dns_error", "name_has_no_address"),
        ("silent.test", 504, "dns_timeout", "dns_timeout"),
    ];
    for (name, status, word, label) in rows {
        let refused = refusal(&mut client, name);
        assert_eq!(refused.status, Some(status), "{name}: {refused:?}");
        let said = refused.proxy_status.unwrap_or_default();
        assert!(said.contains(word), "{name}: {said}");
        assert!(gateway.driven.stats()["core"]["tunnels_refused"].as_u64().unwrap() > 0, "{label}");
    }
    let answers = gateway.driven.stats()["dns"]["answers"].clone();
    for (label, count) in [("nxdomain", 1), ("failed", 2), ("no_address", 1), ("timeout", 1)] {
        assert_eq!(answers[label], count, "{label}: {answers}");
    }
}

/// D-2: one address that is not allowed refuses all.
#[test]
fn a_mixed_answer_is_refused() {
    let addresses = vec!["127.0.0.1".parse().unwrap(), "169.254.169.254".parse().unwrap()];
    let dns = Dns::start(&[("mixed.test", Entry::Addresses(addresses))]);
    let gateway = gateway(&dns);
    let mut client = gateway.client(1);
    assert_eq!(refusal(&mut client, "mixed.test").status, Some(403));
    assert_eq!(gateway.driven.stats()["gauges"]["target_sockets"], 0);
}

/// D-5, D-7: an alias is followed within the answer; an answer for another owner is none.
#[test]
fn an_alias_is_followed_and_a_foreign_answer_is_not_believed() {
    let dns = Dns::start(&[
        ("alias.test", Entry::Alias("echo.test".into())),
        ("echo.test", Entry::Addresses(vec!["127.0.0.1".parse().unwrap()])),
        ("forged.test", Entry::Foreign("127.0.0.1".parse().unwrap())),
    ]);
    let gateway = gateway(&dns);
    let mut client = gateway.client(1);
    let echo = Echo::start();
    let number = client.ask("alias.test", echo.address.port());
    let tunnel = client.opened(number);
    client.echo(&tunnel, b"alias");
    assert!(matches!(refusal(&mut client, "forged.test").status, Some(502)));
}

#[test]
fn a_new_snapshot_may_name_another_resolver() {
    let first = Dns::start(&[]);
    let mut gateway = gateway(&first);
    let mut client = gateway.client(1);
    assert_eq!(refusal(&mut client, "echo.test").status, Some(502));
    let echo = Echo::start();
    let second = Dns::start(&[("echo.test", Entry::Addresses(vec![echo.address.ip()]))]);
    let mut document = gateway.snapshot(2);
    document["resolver"] = json!({"nameservers": [second.address]});
    gateway.driven.apply(document);
    let number = client.ask("echo.test", echo.address.port());
    let tunnel = client.opened(number);
    client.echo(&tunnel, b"elsewhere");
}
