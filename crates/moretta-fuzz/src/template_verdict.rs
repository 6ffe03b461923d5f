//! From a configured template and a raw `:path` to the address that would be connected.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use moretta_proto::Now;
use moretta_proto::admission::{Admission, Facts, OpenError, Step};
use moretta_proto::error::Refusal;
use moretta_proto::ledger::{Ledger, LocalLedger, TunnelSlot};
use moretta_proto::policy::{OwnAddresses, PolicyDocument, Question, Verdict};
use moretta_proto::request::{self, TunnelRequest};
use moretta_proto::snapshot::{Listener, Snapshot};
use moretta_wire::head::{Fields, RequestHead};
use moretta_wire::host::Host;
use moretta_wire::prefix::{Tier, classify};
use moretta_wire::template::{PathMatch, UriTemplate};
use serde_json::json;

use crate::naive::{self, Matched};

/// Lines: a template, the raw path of a request, and the addresses that its name resolves to, one each.
pub fn target(data: &[u8]) {
    let mut lines = data.split(|byte| *byte == b'\n');
    let template = String::from_utf8_lossy(lines.next().unwrap_or_default());
    let path = lines.next().unwrap_or_default();
    let answers: Vec<IpAddr> = lines.filter_map(|line| std::str::from_utf8(line).ok()?.parse().ok()).collect();

    check_default_match(path);
    let mut templates = vec![gateways_default()];
    for parsed in [UriTemplate::parse_path(&template), UriTemplate::parse_template_or_origin(&template)] {
        match parsed {
            Ok(template) => {
                check_expansion(&template);
                templates.push(template);
            }
            Err(error) => assert!(!error.code().is_empty()),
        }
    }
    for template in &templates {
        if let PathMatch::Malformed(error) = template.match_path(path) {
            assert!(!error.code().is_empty());
        }
    }
    check_request(path, &templates, &answers);
}

fn check_default_match(path: &[u8]) {
    let matched = match gateways_default().match_path(path) {
        PathMatch::NotThisTemplate => Matched::No,
        PathMatch::Malformed(_) => Matched::Malformed,
        PathMatch::Variables { host, port, .. } => Matched::Variables(host.into_bytes(), port.into_bytes()),
    };
    assert_eq!(matched, naive::default_template(path));
}

/// What a client makes of the template, a gateway of the same template understands.
fn check_expansion(template: &UriTemplate) {
    for host in ["192.0.2.6", "2001:db8::42", "a-b.example"] {
        let expanded = template.expand(host, 443);
        assert!(expanded.path.starts_with('/') && expanded.path.bytes().all(|byte| byte.is_ascii_graphic()));
        // A template that cannot be matched without doubt serves clients only.
        if UriTemplate::parse_path(template.as_str()).is_ok() {
            match template.match_path(expanded.path.as_bytes()) {
                PathMatch::Variables { host: found, port, .. } => {
                    assert_eq!((&*found, &*port), (host, "443"), "{} in {template}", expanded.path);
                }
                other @ (PathMatch::NotThisTemplate | PathMatch::Malformed(_)) => {
                    panic!("{other:?} for {} in {template}", expanded.path)
                }
            }
        }
    }
}

/// A set of rules, and which addresses it is meant to open.
struct Case {
    snapshot: Arc<Snapshot>,
    /// A `danger_…` setting opens loopback addresses.
    loopback: bool,
    /// A rule names private prefixes.
    private: bool,
    /// There is no rule that allows.
    nothing: bool,
}

const LISTENER: &str = "main";
const DENIED: Ipv4Addr = Ipv4Addr::new(93, 184, 216, 66);
const OWN: Ipv4Addr = Ipv4Addr::new(93, 184, 216, 34);
const OWN_PORT: u16 = 4433;

static CASES: LazyLock<Vec<Case>> = LazyLock::new(|| {
    let rule = |id: &str, action: &str, destination: &[&str]| json!({"id": id, "action": action, "protocol": "udp", "destination": destination, "ports": "*"});
    let deny = rule("deny", "deny", &["93.184.216.66", "evil.example", "*.evil.example"]);
    let case = |document: &serde_json::Value, loopback, private, nothing| {
        let policy = PolicyDocument::parse(document).unwrap().compile().unwrap();
        let listeners = [(LISTENER.to_owned(), Listener::default())].into();
        let snapshot = Snapshot { policy, listeners, proxy_name: "proxy".to_owned(), ..Snapshot::default() };
        Case { snapshot: Arc::new(snapshot), loopback, private, nothing }
    };
    vec![
        case(&json!({"rules": [deny, rule("any", "allow", &["*"])]}), false, false, false),
        case(
            &json!({"rules": [deny, rule("private", "allow", &["*", "10.0.0.0/8", "192.168.0.0/16", "fc00::/7"])]}),
            false,
            true,
            false,
        ),
        case(
            &json!({
                "rules": [deny, rule("local", "allow", &["127.0.0.0/8", "::1/128", "*.example"])],
                "danger_allow_prefixes": ["127.0.0.0/8", "::1/128"], "danger_allow_local_names": true,
            }),
            true,
            false,
            false,
        ),
        case(&json!({"rules": [deny]}), false, false, true),
    ]
});

fn gateways_default() -> UriTemplate {
    UriTemplate::parse_path(UriTemplate::DEFAULT_PATH).unwrap()
}

static OWN_ADDRESSES: LazyLock<Arc<OwnAddresses>> = LazyLock::new(|| {
    let own = OwnAddresses::new([(OWN.into(), 24), ("2a00:1450::7".parse().unwrap(), 64)]);
    Arc::new(own.with_sockets([SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), OWN_PORT)]))
});

fn check_request(path: &[u8], templates: &[UriTemplate], answers: &[IpAddr]) {
    let mut fields = Fields::new();
    fields.push("capsule-protocol", "?1");
    let head = RequestHead {
        method: "CONNECT".into(),
        scheme: Some("https".into()),
        authority: Some("proxy.example".into()),
        path: Some(Bytes::copy_from_slice(path)),
        protocol: Some(request::CONNECT_UDP.into()),
        fields,
    };
    let request = match request::parse(&head, templates) {
        Ok(request) => request,
        Err(refusal) => return check_refusal(&refusal),
    };
    assert_ne!(request.port(), 0);
    let canonical = request.host().to_string();
    assert_eq!(Host::parse(&canonical).as_ref(), Ok(request.host()), "one reading of a host, however often it is read");
    // In a client's own words it is the same request.
    let again = request::connect_udp(&clients_default(), &canonical, request.port());
    assert_eq!(request::parse(&again, &[gateways_default()]).as_ref(), Ok(&request));
    for case in CASES.iter() {
        check_case(case, &request, answers);
    }
}

fn clients_default() -> UriTemplate {
    UriTemplate::for_origin("https://proxy.example").unwrap()
}

/// Admits the request with every attempt to open failing, so that all addresses it would ever connect come by.
fn check_case(case: &Case, request: &TunnelRequest, answers: &[IpAddr]) {
    let ledger = Arc::new(LocalLedger::new(1));
    let shared: Arc<dyn Ledger> = Arc::clone(&ledger) as _;
    let now = Now { instant: Instant::now(), unix: Duration::ZERO };
    let facts = Facts {
        listener: LISTENER.into(),
        loopback: true,
        early_data: false,
        draining: false,
        tunnels_on_connection: 0,
        own: Arc::clone(&OWN_ADDRESSES),
    };
    let mut admission = Admission::new(request.clone(), Arc::clone(&case.snapshot), facts, now);
    let mut opened: Vec<IpAddr> = Vec::new();
    let mut resolved = false;
    loop {
        match admission.step(now) {
            Step::AskLedger => admission.on_ledger(TunnelSlot::take(&shared)),
            Step::Resolve { name } => {
                assert!(!resolved, "resolved once");
                assert_eq!(Host::Name(name), *request.host());
                resolved = true;
                admission.on_resolved(Ok(answers.to_vec()));
            }
            Step::Open { address } => {
                assert_eq!(address.port(), request.port());
                assert!(!opened.contains(&address.ip()), "tried once");
                opened.push(address.ip());
                admission.on_opened(Err(OpenError::NoRoute));
            }
            Step::Refused(refusal) => {
                check_refusal(&refusal);
                break;
            }
            step @ (Step::Wait | Step::Accepted(_)) => panic!("{step:?} although nothing opened"),
        }
    }
    assert_eq!(ledger.tunnels(), 0, "the slot went back");
    for address in &opened {
        match request.host() {
            Host::Ipv4(asked) => assert_eq!(*address, IpAddr::from(*asked)),
            Host::Ipv6(asked) => assert_eq!(*address, IpAddr::from(*asked)),
            Host::Name(_) => assert!(answers.contains(address), "an address that nobody answered"),
        }
        check_allowed(case, *address, request.port());
    }
    check_explanation(case, request, answers, !opened.is_empty());
}

/// Judges an address that policy let pass, by other means than policy does.
fn check_allowed(case: &Case, address: IpAddr, port: u16) {
    assert!(!case.nothing, "{address} without a rule");
    assert_ne!(address, IpAddr::from(OWN), "the gateway's own address");
    for form in forms(address) {
        assert_ne!(form, IpAddr::from(DENIED), "denied, but reached as {address}");
        if is_never(form) {
            assert!(case.loopback && form.is_loopback(), "{form} reached as {address}");
            assert_ne!(port, OWN_PORT, "the gateway's own socket");
        } else if let IpAddr::V4(form) = form {
            assert!(!form.is_private() || case.private, "{form} reached as {address}");
        }
    }
    let tier = classify(address).tier;
    assert!(tier != Tier::Never || case.loopback, "{address} is {tier:?}");
    assert!(tier == Tier::Public || case.private || case.loopback, "{address} is {tier:?}");
}

/// The answer to a question is what a request would meet.
fn check_explanation(case: &Case, request: &TunnelRequest, answers: &[IpAddr], is_allowed: bool) {
    let question = Question {
        protocol: request.protocol(),
        host: request.host().to_string(),
        port: request.port(),
        answers: answers.to_vec(),
    };
    let explanation = case.snapshot.policy.explain(&question, &OWN_ADDRESSES);
    let expected = match explanation.verdict {
        Verdict::Allowed => true,
        Verdict::Refused => false,
        // Without answers the request fails as well, for want of an address.
        Verdict::DependsOnAnswers => {
            assert!(answers.is_empty());
            false
        }
    };
    assert_eq!(is_allowed, expected, "{explanation:?}");
}

fn check_refusal(refusal: &Refusal) {
    let head = refusal.response_head("proxy");
    assert!((400..600).contains(&head.status), "{refusal:?}");
    for field in &head.fields {
        let is_text = |bytes: &[u8]| bytes.iter().all(|byte| matches!(byte, 0x20..=0x7e));
        assert!(is_text(&field.name) && is_text(&field.value), "{refusal:?}");
    }
}

/// The address and the IPv4 addresses that translators, tunnels and the kernel may deliver it to.
fn forms(address: IpAddr) -> Vec<IpAddr> {
    let mut forms = vec![address];
    // `::` and `::1` have the form of compatible addresses but are none (RFC 4291 §2.5.5.1).
    if let IpAddr::V6(outer) = address
        && outer.to_bits() > 1
    {
        let words = outer.segments();
        let ipv4 = |high: u16, low: u16| Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low));
        let last = ipv4(words[6], words[7]);
        match words {
            // Compatible, mapped, translated; NAT64.
            [0, 0, 0, 0, 0 | 0xffff, 0, ..] | [0, 0, 0, 0, 0, 0xffff, ..] | [0x64, 0xff9b, 0 | 1, ..] => {
                forms.push(last.into());
            }
            // 6to4.
            [0x2002, high, low, ..] => forms.push(ipv4(high, low).into()),
            // Teredo.
            [0x2001, 0, high, low, _, _, ..] => {
                forms.extend([ipv4(high, low), Ipv4Addr::from_bits(!last.to_bits())].map(IpAddr::from));
            }
            // ISATAP.
            [_, _, _, _, 0 | 0x200, 0x5efe, ..] => forms.push(last.into()),
            _ => {}
        }
    }
    forms
}

/// Loopback, link-local, multicast, unspecified: by the standard library's reading of the RFCs, not by our table.
fn is_never(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            address.is_loopback()
                || address.is_link_local()
                || address.is_multicast()
                || address.is_broadcast()
                || address.octets()[0] == 0
        }
        IpAddr::V6(address) => {
            address.is_loopback()
                || address.is_unicast_link_local()
                || address.is_multicast()
                || address == Ipv6Addr::UNSPECIFIED
        }
    }
}
