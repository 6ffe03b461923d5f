#![expect(clippy::wildcard_enum_match_arm, reason = "a test fails on whatever else comes")]

use std::net::{IpAddr, Ipv4Addr};

use serde_json::{Value, json};

use super::*;

#[expect(clippy::needless_pass_by_value, reason = "tests write the value in place")]
fn policy(document: Value) -> Policy {
    PolicyDocument::parse(&document).unwrap().compile().unwrap()
}

fn rule(id: &str, action: &str, destination: &[&str]) -> Value {
    json!({"id": id, "action": action, "protocol": "udp", "destination": destination, "ports": "*"})
}

fn allow(destination: &[&str]) -> Policy {
    policy(json!({"rules": [rule("allow", "allow", destination)]}))
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap_or_else(|_| panic!("{text}"))
}

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

/// The verdict on an address that the request names.
fn check(policy: &Policy, text: &str) -> Decision {
    policy.check_address(Protocol::Udp, None, address(text), 53, &OwnAddresses::default())
}

/// The verdict on an address that `host` resolved to.
fn check_answer(policy: &Policy, host: &str, text: &str) -> Decision {
    policy.check_address(Protocol::Udp, Some(&name(host)), address(text), 53, &OwnAddresses::default())
}

fn check_name(policy: &Policy, text: &str) -> HostDecision {
    policy.check_host(Protocol::Udp, &Host::Name(name(text)), 53)
}

fn why(decision: HostDecision) -> Why {
    match decision {
        HostDecision::Refused(decision) => decision.why,
        other => panic!("{other:?}"),
    }
}

/// HG-18: no list, no service.
#[test]
fn without_rules_nothing_is_allowed() {
    for policy in [Policy::deny_all(), policy(json!({"rules": []}))] {
        let decision = check(&policy, "8.8.8.8");
        assert_eq!((decision.allowed, decision.why), (false, Why::NothingMatched));
        assert_eq!(why(check_name(&policy, "dns.google")), Why::NothingMatched);
    }
}

#[test]
fn a_rule_that_denies_wins_over_every_rule_that_allows_wherever_it_stands() {
    for ids in [["a", "d"], ["d", "a"]] {
        let rules = ids.map(|id| match id {
            "a" => rule("a", "allow", &["8.8.8.0/24", "dns.google", "*"]),
            _ => rule("d", "deny", &["8.8.8.8", "*.evil.example"]),
        });
        let policy = policy(json!({"rules": rules}));
        let decision = check(&policy, "8.8.8.8");
        assert_eq!((decision.why, decision.rule), (Why::DeniedByRule, Some(RuleId::new("d"))));
        assert_eq!(check(&policy, "8.8.8.9").rule, Some(RuleId::new("a")));
        assert_eq!(why(check_name(&policy, "x.evil.example")), Why::DeniedByRule);
        assert_eq!(check_name(&policy, "evil.example"), HostDecision::Resolve);
        assert!(!check_answer(&policy, "dns.google", "8.8.8.8").allowed, "denied by address, however it was found");
    }
}

#[test]
fn the_first_rule_that_allows_is_the_one_that_is_named() {
    let rules =
        [rule("first", "allow", &["8.8.0.0/16"]), rule("longer", "allow", &["8.8.8.8"]), rule("any", "allow", &["*"])];
    let policy = policy(json!({"rules": rules}));
    assert_eq!(check(&policy, "8.8.8.8").rule, Some(RuleId::new("first")));
    assert_eq!(check(&policy, "9.9.9.9").rule, Some(RuleId::new("any")));
}

/// HG-2.
#[test]
fn protocol_and_port_belong_to_the_match() {
    let policy = policy(json!({"rules": [
        {"id": "dns", "action": "allow", "protocol": "udp", "destination": ["9.9.9.9"], "ports": [53, "8000-8100"]},
    ]}));
    let verdict = |protocol, port| {
        policy.check_address(protocol, None, address("9.9.9.9"), port, &OwnAddresses::default()).allowed
    };
    for (port, allowed) in
        [(52, false), (53, true), (54, false), (7999, false), (8000, true), (8100, true), (8101, false)]
    {
        assert_eq!(verdict(Protocol::Udp, port), allowed, "{port}");
        assert!(!verdict(Protocol::Tcp, port) && !verdict(Protocol::Ip, port), "{port}");
    }
}

/// S-a, S-c, UDP-63, UDP-64, AU-4: with every public address granted, none of these is reached.
#[test]
fn any_public_address_reaches_no_special_one() {
    let policy = allow(&["*", "0.0.0.0/0", "::/0"]);
    for text in [
        "127.0.0.1",
        "127.0.0.53",
        "127.255.255.255",
        "0.0.0.0",
        "0.0.0.1",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.0.1",
        "169.254.0.1",
        "169.254.169.254",
        "100.64.0.1",
        "100.100.100.200",
        "192.0.0.192",
        "192.0.2.1",
        "198.51.100.1",
        "203.0.113.1",
        "198.18.0.1",
        "192.88.99.1",
        "168.63.129.16",
        "224.0.0.1",
        "239.255.255.250",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "::ffff:169.254.169.254",
        "::ffff:0:127.0.0.1",
        "::127.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b::10.0.0.1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::a00:1",
        "64:ff9b:1:fffe::7f00:1",
        "2002:7f00:1::",
        "2002:a00:1::1",
        "2002:a9fe:a9fe::",
        "2001:0:7f00:1::",
        "2001:0:53aa:64c:0:0:80ff:fffe",
        "fe80::1",
        "fe80::5efe:7f00:1",
        "fec0::1",
        "fc00::1",
        "fd00:ec2::254",
        "fd20:ce::254",
        "ff02::1",
        "ff05::2",
        "ff0e::1",
        "100::1",
        "2001:db8::1",
        "2001:2::1",
        "2001:10::1",
        "5f00::1",
        "3fff::1",
        "2a00:1450::",
    ] {
        for decision in [check(&policy, text), check_answer(&policy, "rebind.test", text)] {
            assert!(!decision.allowed, "{text}");
            let refusal = decision.refusal().unwrap();
            assert_eq!(refusal.reason, Reason::TargetProhibited, "{text}");
            assert_eq!(refusal.reason.row().proxy_status, Some("destination_ip_prohibited"));
        }
    }
    for text in [
        "100.63.255.255",
        "100.128.0.1",
        "172.15.255.255",
        "172.32.0.1",
        "198.17.255.255",
        "198.20.0.1",
        "223.255.255.255",
        "9.255.255.255",
        "11.0.0.1",
        "2620:fe::fe",
        "64:ff9b::808:808",
    ] {
        assert!(check(&policy, text).allowed, "{text}");
    }
}

/// C-15: default-deny opens to a rule that names the prefix; a wider prefix does not name it.
#[test]
fn a_private_prefix_opens_to_a_rule_that_names_it_and_to_no_wider_one() {
    let named = allow(&["10.50.0.0/16"]);
    assert!(check(&named, "10.50.1.2").allowed);
    assert!(!check(&named, "10.51.1.2").allowed);
    for wide in ["0.0.0.0/0", "8.0.0.0/5", "*"] {
        let decision = check(&allow(&[wide]), "10.50.1.2");
        assert_eq!((decision.allowed, decision.why), (false, Why::PrefixNotNamed), "{wide}");
    }
    assert!(check(&allow(&["10.0.0.0/8"]), "10.50.1.2").allowed, "the special prefix itself is its name");
    // An exception that a longer special prefix makes inside a wider one is named by the wider one too.
    assert!(check(&allow(&["192.0.0.0/24"]), "192.0.0.8").allowed);
    assert!(check(&allow(&["2a00:1450::/128"]), "2a00:1450::").allowed, "a router that is named by itself");
}

/// The rule in the record is the one that opened a private address, not a wide or a named one that could not.
#[test]
fn the_rule_that_is_named_is_one_that_could_allow() {
    let rules = [
        rule("wide", "allow", &["0.0.0.0/0", "*"]),
        rule("name", "allow", &["dns.corp.example"]),
        rule("corp", "allow", &["10.50.0.0/16"]),
    ];
    let policy = policy(json!({"rules": rules}));
    assert_eq!(check(&policy, "10.50.0.1").rule, Some(RuleId::new("corp")));
    assert_eq!(check_answer(&policy, "dns.corp.example", "10.50.0.1").rule, Some(RuleId::new("corp")));
}

/// A name rule admits public answers; a private one needs a rule that names its prefix.
#[test]
fn a_name_rule_admits_public_answers_only() {
    let by_name = allow(&["dns.corp.example"]);
    assert_eq!(check_name(&by_name, "dns.corp.example"), HostDecision::Resolve);
    assert!(check_answer(&by_name, "dns.corp.example", "9.9.9.9").allowed);
    assert!(!check_answer(&by_name, "dns.corp.example", "10.50.0.1").allowed);
    assert!(!check_answer(&by_name, "other.example", "9.9.9.9").allowed);
    assert!(!check(&by_name, "9.9.9.9").allowed, "a name rule allows no literal");
    let both = allow(&["dns.corp.example", "10.50.0.0/16"]);
    assert!(check_answer(&both, "dns.corp.example", "10.50.0.1").allowed);
    assert!(!check_answer(&both, "dns.corp.example", "10.51.0.1").allowed);
}

#[test]
fn a_name_that_no_rule_can_allow_is_refused_before_it_is_resolved() {
    let policy = policy(json!({"rules": [
        {"id": "names", "action": "allow", "protocol": "udp", "destination": ["a.example", "*.b.example"], "ports": [53]},
        {"id": "prefix", "action": "allow", "protocol": "udp", "destination": ["10.0.0.0/8"], "ports": [161]},
    ]}));
    let verdict = |text, port| policy.check_host(Protocol::Udp, &Host::Name(name(text)), port);
    for (text, port, resolved) in [
        ("a.example", 53, true),
        ("x.y.b.example", 53, true),
        ("A.EXAMPLE.", 53, true),
        ("b.example", 53, false),
        ("c.example", 53, false),
        ("a.example", 54, false),
        ("c.example", 161, true),
    ] {
        assert_eq!(verdict(text, port) == HostDecision::Resolve, resolved, "{text} {port}");
    }
    assert_eq!(policy.check_host(Protocol::Tcp, &Host::Name(name("a.example")), 53), verdict("c.example", 53));
}

/// AU-4, S-d.
#[test]
fn names_of_the_machine_are_refused_whatever_the_rules_unless_danger_opens_them() {
    let destination = ["*", "127.0.0.0/8"];
    let document = |local: bool| {
        json!({"rules": [rule("r", "allow", &destination)], "danger_allow_prefixes": ["127.0.0.0/8"],
               "danger_allow_local_names": local})
    };
    for text in ["localhost", "LOCALHOST", "localhost.", "a.localhost", "localhost.localdomain", "ip6-localhost"] {
        assert_eq!(why(check_name(&policy(document(false)), text)), Why::LocalName, "{text}");
        assert_eq!(check_name(&policy(document(true)), text), HostDecision::Resolve, "{text}");
    }
    // Names with a meaning inside a network only are no public names: * does not reach them, a name rule does.
    for text in ["metadata", "metadata.google.internal", "printer.local", "wpad", "kubernetes.default.svc"] {
        assert_eq!(why(check_name(&allow(&["*"]), text)), Why::NothingMatched, "{text}");
        assert_eq!(check_name(&allow(&[text]), text), HostDecision::Resolve, "{text}");
        assert!(!check_answer(&allow(&["*", "10.0.0.0/8"]), text, "9.9.9.9").allowed, "{text}");
        assert!(check_answer(&allow(&["*", "10.0.0.0/8"]), text, "10.0.0.1").allowed, "{text}");
    }
}

/// C-15: what is never a target needs the setting and the rule, both.
#[test]
fn danger_opens_a_prefix_to_rules_and_allows_nothing_by_itself() {
    let danger = |rules: Value| policy(json!({"rules": rules, "danger_allow_prefixes": ["127.0.0.0/8", "::1"]}));
    let only_danger = danger(json!([]));
    assert_eq!(check(&only_danger, "127.0.0.1").why, Why::PrefixNotNamed);
    assert_eq!(check(&danger(json!([rule("r", "allow", &["*", "0.0.0.0/0"])])), "127.0.0.1").why, Why::PrefixNotNamed);
    let both = danger(json!([rule("r", "allow", &["127.0.0.0/8", "::1"])]));
    assert!(check(&both, "127.0.0.1").allowed && check(&both, "::1").allowed);
    assert!(check_answer(&both, "loop.test", "127.0.0.1").allowed);
    assert_eq!(check(&both, "::ffff:127.0.0.1").why, Why::PrefixNotNamed, "another way to write it is another address");
    assert_eq!(check(&both, "169.254.169.254").why, Why::Never);
    let denied = danger(json!([rule("a", "allow", &["127.0.0.0/8"]), rule("d", "deny", &["127.0.0.1"])]));
    assert_eq!(check(&denied, "127.0.0.1").why, Why::DeniedByRule);
}

/// UDP-63, S-a: own addresses, in every form, whatever their tier.
#[test]
fn own_addresses_are_refused_unless_danger_opens_them_and_own_sockets_always() {
    let own = OwnAddresses::new([(address("9.1.2.3"), 24), (address("127.0.0.1"), 8)])
        .with_sockets(["9.1.2.3:4433".parse().unwrap(), "127.0.0.1:4433".parse().unwrap()]);
    let verdict =
        |policy: &Policy, text: &str, port| policy.check_address(Protocol::Udp, None, address(text), port, &own).why;
    let rules = json!([rule("r", "allow", &["*", "64:ff9b::/96"])]);
    let plain = policy(json!({"rules": rules}));
    for text in ["9.1.2.3", "9.1.2.255", "64:ff9b::901:203"] {
        assert_eq!(verdict(&plain, text, 53), Why::OwnAddress, "{text}");
    }
    assert_eq!(verdict(&plain, "9.1.2.4", 53), Why::AllowedByRule);
    for danger in [
        json!({"rules": rules, "danger_allow_own_addresses": true}),
        json!({"rules": rules, "danger_allow_prefixes": ["9.1.2.3"]}),
    ] {
        assert_eq!(verdict(&policy(danger.clone()), "9.1.2.3", 53), Why::AllowedByRule);
        assert_eq!(verdict(&policy(danger), "9.1.2.3", 4433), Why::OwnSocket);
    }
    let loopback =
        policy(json!({"rules": [rule("r", "allow", &["127.0.0.0/8"])], "danger_allow_prefixes": ["127.0.0.0/8"]}));
    assert_eq!(verdict(&loopback, "127.0.0.1", 53), Why::AllowedByRule);
    assert_eq!(verdict(&loopback, "127.0.0.1", 4433), Why::OwnSocket);
}

/// A rule that denies an IPv4 address denies every IPv6 address that is delivered to it.
#[test]
fn a_denied_ipv4_address_is_denied_behind_a_translator_too() {
    let rules = [rule("a", "allow", &["*", "64:ff9b::/96"]), rule("d", "deny", &["8.8.8.0/24"])];
    let policy = policy(json!({"rules": rules}));
    assert_eq!(check(&policy, "64:ff9b::808:808").why, Why::DeniedByRule);
    assert!(check(&policy, "64:ff9b::909:909").allowed);
    // And what is private behind it needs the name of the private prefix.
    assert!(!check(&policy, "64:ff9b::a00:1").allowed);
    assert!(check(&allow(&["*", "10.0.0.0/8"]), "64:ff9b::a00:1").allowed);
}

/// C-13: the status is one, the Proxy-Status error tells the two apart, and the client never learns the rule.
#[test]
fn a_refused_address_and_a_refused_target_differ_in_the_proxy_status_error_only() {
    let policy = policy(json!({"rules": [rule("d", "deny", &["8.8.8.8", "bad.example"])]}));
    let by_address = check(&policy, "8.8.8.8").refusal().unwrap();
    let by_absence = check(&policy, "9.9.9.9").refusal().unwrap();
    assert_eq!((by_address.reason, by_absence.reason), (Reason::TargetProhibited, Reason::PolicyRefused));
    for refusal in [by_address, by_absence] {
        let head = refusal.response_head("gw");
        assert_eq!(head.status, 403);
        assert!(!format!("{head:?}").contains("8.8.8.8") && !format!("{head:?}").contains("details"));
    }
}

#[test]
fn an_explanation_shows_every_check_up_to_the_one_that_decides() {
    let policy = policy(json!({"rules": [rule("corp", "allow", &["dns.corp.example"])]}));
    let question = |host: &str, answers: &[&str]| Question {
        protocol: Protocol::Udp,
        host: host.to_owned(),
        port: 53,
        answers: answers.iter().map(|text| address(text)).collect(),
    };
    let explain = |host: &str, answers: &[&str]| policy.explain(&question(host, answers), &OwnAddresses::default());

    let open = explain("dns.corp.example", &[]);
    assert_eq!(open.verdict, Verdict::DependsOnAnswers);
    let private = explain("dns.corp.example", &["9.9.9.9", "10.0.0.1"]);
    assert_eq!((private.verdict, private.why), (Verdict::Refused, Some(Why::PrefixNotNamed)));
    let last = serde_json::to_value(private.steps.last().unwrap()).unwrap();
    let expected = json!({"check": "tier", "outcome": "refused", "address": "10.0.0.1", "tier": "default-deny",
                          "prefix": classify(address("10.0.0.1")).name});
    assert_eq!(last, expected);
    let allowed = explain("dns.corp.example", &["9.9.9.9"]);
    assert_eq!((allowed.verdict, allowed.rule), (Verdict::Allowed, Some(RuleId::new("corp"))));
    let checks: Vec<Check> = allowed.steps.iter().map(|step| step.check).collect();
    assert_eq!(
        checks,
        [
            Check::LocalName,
            Check::NameDenied,
            Check::NameAllowable,
            Check::OwnSocket,
            Check::OwnAddress,
            Check::Tier,
            Check::AddressDenied,
            Check::AddressAllowed
        ]
    );
    let malformed = explain("127.1", &[]);
    assert_eq!((malformed.verdict, malformed.reason), (Verdict::Refused, Some(Reason::BadTargetHost)));
}

/// 100,000 rules: a look-up walks a few nodes, not the rules. Counted in time only as a guard against quadratic work.
#[test]
fn a_hundred_thousand_rules_compile_and_answer_without_a_walk() {
    let rules: Vec<RuleDocument> = (0..100_000_u32)
        .map(|index| RuleDocument {
            id: format!("r{index}"),
            action: if index % 10 == 9 { Action::Deny } else { Action::Allow },
            protocol: Protocol::Udp,
            destination: vec![
                IpAddr::from(Ipv4Addr::from(0x0800_0000 + index * 4)).to_string(),
                format!("h{index}.example"),
            ],
            ports: PortsDocument::List(vec![PortSpec::Number(u64::from(index % 1000) + 1)]),
        })
        .collect();
    let policy = Policy::compile(&rules, &Danger::default()).unwrap();
    assert_eq!(policy.len(), 100_000);
    let own = OwnAddresses::default();
    for index in (0..100_000_u32).step_by(7) {
        let address = IpAddr::from(Ipv4Addr::from(0x0800_0000 + index * 4));
        let port = (index % 1000) as u16 + 1;
        let decision = policy.check_address(Protocol::Udp, None, address, port, &own);
        assert_eq!(decision.rule, Some(RuleId::new(&format!("r{index}"))));
        assert_eq!(decision.allowed, index % 10 != 9);
        assert!(!policy.check_address(Protocol::Udp, None, address, port + 1, &own).allowed);
    }
}
