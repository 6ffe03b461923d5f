#![expect(clippy::wildcard_enum_match_arm, reason = "a test fails on whatever else comes")]

use std::sync::OnceLock;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::ledger::{Ledger, LocalLedger};
use crate::limits::Limits;
use crate::policy::{Policy, PolicyDocument};
use crate::profile::Profile;
use crate::snapshot::Listener;

fn at(seconds: u64) -> Now {
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    let origin = *ORIGIN.get_or_init(origin);
    Now { instant: origin + Duration::from_secs(seconds), unix: Duration::from_secs(1_700_000_000 + seconds) }
}

#[allow(clippy::disallowed_methods, reason = "an arbitrary origin; no test depends on its value")]
fn origin() -> Instant {
    Instant::now()
}

const RULES: [&str; 4] = ["9.9.9.0/24", "2620:fe::/32", "10.0.0.0/8", "*.example"];

#[expect(clippy::needless_pass_by_value, reason = "tests write the value in place")]
fn policy(rules: Value) -> Policy {
    PolicyDocument::parse(&json!({"rules": rules})).unwrap().compile().unwrap()
}

fn snapshot_with(generation: u64, profile: Profile, policy: Policy) -> Arc<Snapshot> {
    let listener = Listener { danger_allow_anonymous: true, ..Listener::default() };
    Arc::new(Snapshot {
        generation,
        profile,
        policy,
        limits: Limits::default(),
        proxy_name: "gw.example".to_owned(),
        listeners: [("main".to_owned(), listener)].into(),
    })
}

fn allowing(generation: u64) -> Arc<Snapshot> {
    let rule = json!({"id": "r", "action": "allow", "protocol": "udp", "destination": RULES, "ports": "*"});
    snapshot_with(generation, Profile::hardened(), policy(json!([rule])))
}

fn facts() -> Facts {
    Facts {
        listener: "main".into(),
        loopback: false,
        early_data: false,
        draining: false,
        tunnels_on_connection: 0,
        own: Arc::default(),
    }
}

fn request(host: &str) -> TunnelRequest {
    TunnelRequest::ConnectUdp { host: Host::parse(host).unwrap(), port: 53 }
}

fn addresses(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// An admission with the ledger that it draws on.
struct Bench {
    admission: Admission,
    local: Arc<LocalLedger>,
    ledger: Arc<dyn Ledger>,
}

impl Bench {
    fn new(host: &str, snapshot: Arc<Snapshot>, facts: Facts) -> Self {
        let local = Arc::new(LocalLedger::new(1));
        let ledger: Arc<dyn Ledger> = Arc::<LocalLedger>::clone(&local);
        Self { admission: Admission::new(request(host), snapshot, facts, at(0)), local, ledger }
    }

    fn open(host: &str) -> Self {
        Self::new(host, allowing(1), facts())
    }

    /// Steps until something else than the ledger is asked.
    fn step(&mut self) -> Step {
        match self.admission.step(at(1)) {
            Step::AskLedger => {
                self.admission.on_ledger(TunnelSlot::take(&self.ledger));
                self.admission.step(at(1))
            }
            step => step,
        }
    }

    #[track_caller]
    fn refused(&mut self) -> Refusal {
        match self.step() {
            Step::Refused(refusal) => {
                assert_eq!(self.local.tunnels(), 0, "a refusal gives the slot back");
                assert!(matches!(self.admission.step(at(2)), Step::Wait) && self.admission.is_done());
                *refusal
            }
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    fn asked_to_open(&mut self) -> String {
        match self.step() {
            Step::Open { address } => address.to_string(),
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    fn asked_to_resolve(&mut self) -> String {
        match self.step() {
            Step::Resolve { name } => name.to_string(),
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    fn accepted(&mut self) -> Accepted {
        match self.step() {
            Step::Accepted(accepted) => *accepted,
            other => panic!("{other:?}"),
        }
    }

    fn resolve(&mut self, texts: &[&str]) {
        self.asked_to_resolve();
        self.admission.on_resolved(Ok(addresses(texts)));
    }
}

/// UDP-30, UDP-33, UDP-34, CAP-13, CAP-17, CAP-19, CF-1: 200 comes after the flow is open, and from nothing else.
#[test]
fn a_literal_target_is_opened_without_a_resolver_and_then_accepted() {
    let mut bench = Bench::open("9.9.9.9");
    assert_eq!(bench.asked_to_open(), "9.9.9.9:53");
    assert!(matches!(bench.admission.step(at(1)), Step::Wait), "never 2xx before the socket is open");
    bench.admission.on_opened(Ok(()));
    let accepted = bench.accepted();
    assert_eq!(accepted.response.status, 200);
    let fields: Vec<(&[u8], &[u8])> = accepted.response.fields.iter().map(|f| (&f.name[..], &f.value[..])).collect();
    assert_eq!(fields, [(&b"capsule-protocol"[..], &b"?1"[..])]);
    assert_eq!(accepted.grant.rule, Some(RuleId::new("r")));
    assert_eq!(bench.local.tunnels(), 1, "the slot goes with the tunnel");
    drop(accepted);
    assert_eq!(bench.local.tunnels(), 0);
}

/// UDP-4, UDP-66: one look-up, and the address that was checked is the one that is opened.
#[test]
fn a_name_is_resolved_once_and_its_first_address_opened() {
    let mut bench = Bench::open("dns.example");
    assert_eq!(bench.asked_to_resolve(), "dns.example");
    assert!(matches!(bench.admission.step(at(1)), Step::Wait), "UDP-33: nothing before the answer");
    bench.admission.on_resolved(Ok(addresses(&["2620:fe::9", "9.9.9.9"])));
    assert_eq!(bench.asked_to_open(), "[2620:fe::9]:53", "the order is the resolver's");
    bench.admission.on_opened(Ok(()));
    let grant = bench.accepted().grant;
    assert_eq!(grant.address, "[2620:fe::9]:53".parse().unwrap());
    assert_eq!(grant.name.as_ref().map(Name::as_str), Some("dns.example"));
}

/// The next address is tried only after the one before it failed (RFC 6724 order until connect() succeeds).
#[test]
fn the_next_address_is_tried_after_a_failed_open_and_the_last_failure_is_the_answer() {
    let mut bench = Bench::open("dns.example");
    bench.resolve(&["2620:fe::9", "2620:fe::9", "9.9.9.9", "9.9.9.10"]);
    assert_eq!(bench.asked_to_open(), "[2620:fe::9]:53");
    bench.admission.on_opened(Err(OpenError::NoRoute));
    assert_eq!(bench.asked_to_open(), "9.9.9.9:53", "a repeated address is tried once");
    bench.admission.on_opened(Err(OpenError::Other(1)));
    assert_eq!(bench.asked_to_open(), "9.9.9.10:53");
    bench.admission.on_opened(Err(OpenError::NoRoute));
    assert_eq!(bench.refused().reason, Reason::NoRoute);
}

#[test]
fn each_way_to_fail_an_open_has_its_refusal() {
    for (error, reason, status) in [
        (OpenError::NoRoute, Reason::NoRoute, 502),
        (OpenError::Refused, Reason::ConnectionRefused, 502),
        (OpenError::Other(13), Reason::OpenFailed, 503),
        (OpenError::Exhausted, Reason::Exhausted, 503),
        (OpenError::Own, Reason::TargetProhibited, 403),
    ] {
        let mut bench = Bench::open("9.9.9.9");
        bench.asked_to_open();
        bench.admission.on_opened(Err(error));
        let refusal = bench.refused();
        assert_eq!((refusal.reason, refusal.reason.row().status), (reason, Some(status)), "{error:?}");
    }
    // HG-F7: no spin over addresses when nothing is left to open with.
    for error in [OpenError::Exhausted, OpenError::Own] {
        let mut bench = Bench::open("dns.example");
        bench.resolve(&["9.9.9.9", "9.9.9.10"]);
        bench.asked_to_open();
        bench.admission.on_opened(Err(error));
        bench.refused();
    }
}

/// UDP-31, UDP-32, PS-5, F-22.
#[test]
fn each_way_to_fail_a_look_up_has_its_refusal() {
    for (error, reason, status, rcode) in [
        (ResolveError::NxDomain, Reason::NameNotFound, 502, Some("NXDOMAIN")),
        (ResolveError::NoAddress, Reason::NameHasNoAddress, 502, Some("NOERROR")),
        (ResolveError::Failed("SERVFAIL"), Reason::DnsFailed, 502, Some("SERVFAIL")),
        (ResolveError::Failed("REFUSED"), Reason::DnsFailed, 502, Some("REFUSED")),
        (ResolveError::Timeout, Reason::DnsTimeout, 504, None),
        (ResolveError::Overloaded, Reason::Overloaded, 503, None),
    ] {
        let mut bench = Bench::open("dns.example");
        bench.asked_to_resolve();
        bench.admission.on_resolved(Err(error));
        let refusal = bench.refused();
        assert_eq!(
            (refusal.reason, refusal.reason.row().status, refusal.rcode),
            (reason, Some(status), rcode),
            "{error:?}"
        );
    }
    let mut bench = Bench::open("dns.example");
    bench.resolve(&[]);
    assert_eq!(bench.refused().reason, Reason::NameHasNoAddress);
}

/// D-2, D-3, UDP-65: wherever in the answer the prohibited address stands, nothing is opened.
#[test]
fn one_prohibited_address_refuses_the_whole_answer() {
    for texts in [
        &["127.0.0.1"][..],
        &["9.9.9.9", "127.0.0.1"],
        &["127.0.0.1", "9.9.9.9"],
        &["9.9.9.9", "::1"],
        &["9.9.9.9", "::ffff:10.0.0.1"],
        &["9.9.9.9", "0.0.0.0"],
        &["9.9.9.1", "9.9.9.2", "9.9.9.3", "9.9.9.4", "9.9.9.5", "9.9.9.6", "9.9.9.7", "9.9.9.8", "9.9.9.9", "::1"],
    ] {
        let mut bench = Bench::open("rebind.example");
        bench.resolve(texts);
        let refusal = bench.refused();
        assert_eq!(refusal.reason, Reason::TargetProhibited, "{texts:?}");
        assert_eq!(refusal.reason.row().status, Some(403));
    }
}

/// D-8: an answer of thousands is checked whole, and tried in a bounded number of attempts.
#[test]
fn a_huge_answer_is_checked_whole_and_tried_a_few_times() {
    let many: Vec<IpAddr> = (0..4000_u32).map(|n| IpAddr::from(std::net::Ipv4Addr::from(0x0a00_0000 + n))).collect();
    let mut bench = Bench::open("big.example");
    bench.asked_to_resolve();
    bench.admission.on_resolved(Ok(many.clone()));
    for attempt in 0..MAX_ATTEMPTS {
        assert_eq!(bench.asked_to_open(), format!("10.0.0.{attempt}:53"));
        bench.admission.on_opened(Err(OpenError::NoRoute));
    }
    assert_eq!(bench.refused().reason, Reason::NoRoute);

    let mut bench = Bench::open("big.example");
    bench.asked_to_resolve();
    bench.admission.on_resolved(Ok(many.into_iter().chain(addresses(&["127.0.0.1"])).collect()));
    assert_eq!(bench.refused().reason, Reason::TargetProhibited);
}

/// A refused target never reaches DNS, and a refused literal never a socket.
#[test]
fn what_policy_refuses_is_neither_resolved_nor_opened() {
    for (host, reason) in [
        ("other.test", Reason::PolicyRefused),
        ("localhost", Reason::PolicyRefused),
        ("8.8.8.8", Reason::PolicyRefused),
        ("127.0.0.1", Reason::TargetProhibited),
        ("::ffff:127.0.0.1", Reason::TargetProhibited),
    ] {
        // The prefix rules of `allowing` could match any name's answer; here only names and addresses are listed.
        let rule =
            json!({"id": "r", "action": "allow", "protocol": "udp", "destination": ["dns.example"], "ports": "*"});
        let mut bench = Bench::new(host, snapshot_with(1, Profile::hardened(), policy(json!([rule]))), facts());
        assert_eq!(bench.refused().reason, reason, "{host}");
    }
}

/// Design 6: what is asked first decides when several things are wrong.
#[test]
fn the_order_is_credentials_quota_ledger_policy() {
    let wrong = |fix: usize| {
        let mut facts = Facts {
            early_data: true,
            listener: "gone".into(),
            draining: true,
            tunnels_on_connection: usize::MAX,
            ..facts()
        };
        if fix > 0 {
            facts.early_data = false;
        }
        if fix > 1 {
            facts.listener = "main".into();
        }
        if fix > 2 {
            facts.draining = false;
        }
        if fix > 3 {
            facts.tunnels_on_connection = 0;
        }
        let mut bench = Bench::new("127.0.0.1", allowing(1), facts);
        bench.local.set_max_tunnels(u64::from(fix > 4));
        bench.refused().reason
    };
    let order: Vec<Reason> = (0..6).map(wrong).collect();
    assert_eq!(
        order,
        [
            Reason::EarlyData,
            Reason::CredentialsRequired,
            Reason::Draining,
            Reason::ConnectionTunnelLimit,
            Reason::TunnelLimit,
            Reason::TargetProhibited
        ]
    );
}

/// HG-1, UDP-67.
#[test]
fn without_an_identity_only_loopback_or_danger_is_served() {
    let mut snapshot = Arc::into_inner(allowing(1)).unwrap();
    snapshot.listeners.insert("main".to_owned(), Listener::default());
    let snapshot = Arc::new(snapshot);
    let mut bench = Bench::new("9.9.9.9", Arc::clone(&snapshot), facts());
    assert_eq!(bench.refused().reason.row().status, Some(401));
    let mut bench = Bench::new("9.9.9.9", snapshot, Facts { loopback: true, ..facts() });
    assert_eq!(bench.asked_to_open(), "9.9.9.9:53");
}

#[test]
fn a_connection_with_all_its_tunnels_is_told_429() {
    let most = Limits::default().max_tunnels_per_connection;
    let mut last = Bench::new("9.9.9.9", allowing(1), Facts { tunnels_on_connection: most - 1, ..facts() });
    assert_eq!(last.asked_to_open(), "9.9.9.9:53");
    let mut beyond = Bench::new("9.9.9.9", allowing(1), Facts { tunnels_on_connection: most, ..facts() });
    assert_eq!(beyond.refused().reason.row().status, Some(429));
}

/// The deadline is one for the whole admission, and the refusal says who was waited for.
#[test]
fn at_the_deadline_the_request_is_refused_for_what_it_waited_for() {
    let expired = |bench: &mut Bench| {
        assert_eq!(bench.admission.deadline(), at(10).instant);
        let Step::Refused(refusal) = bench.admission.step(at(10)) else { panic!("not refused") };
        assert_eq!(bench.local.tunnels(), 0);
        refusal.reason
    };
    let mut bench = Bench::open("dns.example");
    assert!(matches!(bench.admission.step(at(9)), Step::AskLedger));
    assert_eq!(expired(&mut bench), Reason::Overloaded);

    let mut bench = Bench::open("dns.example");
    bench.asked_to_resolve();
    assert!(matches!(bench.admission.step(at(9)), Step::Wait));
    assert_eq!(expired(&mut bench), Reason::DnsTimeout);
    bench.admission.on_resolved(Ok(addresses(&["9.9.9.9"])));
    assert!(matches!(bench.admission.step(at(11)), Step::Wait), "a late answer changes nothing");

    let mut bench = Bench::open("9.9.9.9");
    bench.asked_to_open();
    assert_eq!(expired(&mut bench), Reason::OpenTimeout);
}

#[test]
fn a_client_that_goes_away_gets_nothing_and_leaves_nothing() {
    let cancel: [fn(&mut Bench); 3] = [
        |_| {},
        |bench| drop(bench.step()),
        |bench| {
            bench.resolve(&["9.9.9.9"]);
            bench.asked_to_open();
        },
    ];
    for (index, reach) in cancel.into_iter().enumerate() {
        for dropped in [false, true] {
            let mut bench = Bench::open("dns.example");
            reach(&mut bench);
            let local = Arc::clone(&bench.local);
            if dropped {
                drop(bench);
            } else {
                bench.admission.cancel();
                assert!(bench.admission.is_done());
                bench.admission.on_opened(Ok(()));
                assert!(matches!(bench.admission.step(at(99)), Step::Wait));
            }
            assert_eq!(local.tunnels(), 0, "{index} {dropped}");
        }
    }
}

/// Design 6: the snapshot is pinned, and a newer one has the last word before 2xx.
#[test]
fn a_newer_snapshot_refuses_what_it_does_not_allow_just_before_2xx() {
    let denying = |id: &str, destination: &str| {
        let allow = json!({"id": "r", "action": "allow", "protocol": "udp", "destination": RULES, "ports": "*"});
        let deny = json!({"id": id, "action": "deny", "protocol": "udp", "destination": [destination], "ports": "*"});
        snapshot_with(2, Profile::interop(), policy(json!([allow, deny])))
    };
    let opened = || {
        let mut bench = Bench::open("dns.example");
        bench.resolve(&["9.9.9.9"]);
        bench.asked_to_open();
        bench.admission.on_opened(Ok(()));
        bench
    };
    for (destination, reason) in [("9.9.9.9", Reason::TargetProhibited), ("*.example", Reason::PolicyRefused)] {
        let mut bench = opened();
        bench.admission.recheck(denying("d", destination), Arc::default());
        let refusal = bench.refused();
        assert_eq!((refusal.reason, refusal.rule), (reason, Some(RuleId::new("d"))));
    }
    let mut bench = opened();
    bench.admission.recheck(denying("d", "8.8.8.8"), Arc::default());
    let accepted = bench.accepted();
    assert_eq!(accepted.grant.generation, 2);
    assert!(!accepted.response.fields.contains("proxy-status"), "the pinned profile answers");

    let mut bench = opened();
    let own = Arc::new(OwnAddresses::new([("9.9.9.9".parse().unwrap(), 32)]));
    bench.admission.recheck(allowing(3), own);
    assert_eq!(bench.refused().reason, Reason::TargetProhibited, "an address that became our own");

    let mut bench = opened();
    let mut gone = Arc::into_inner(allowing(4)).unwrap();
    gone.listeners.clear();
    bench.admission.recheck(Arc::new(gone), Arc::default());
    assert_eq!(bench.refused().reason, Reason::CredentialsRequired);
}

/// D-14: a live tunnel keeps its address, and loses it to a policy that does not allow it.
#[test]
fn a_grant_is_rechecked_by_name_and_by_the_address_it_has() {
    let mut bench = Bench::open("dns.example");
    bench.resolve(&["9.9.9.9"]);
    bench.asked_to_open();
    bench.admission.on_opened(Ok(()));
    let mut grant = bench.accepted().grant;
    let own = OwnAddresses::default();
    assert_eq!(grant.recheck(&allowing(7), &own), Ok(()));
    assert_eq!(grant.generation, 7);
    let nothing = snapshot_with(8, Profile::hardened(), Policy::deny_all());
    assert_eq!(grant.recheck(&nothing, &own).unwrap_err().reason, Reason::PolicyRefused);
    assert_eq!(grant.generation, 7, "what was refused is not marked as checked");
}

/// AU-4: a setting that is taken back takes the tunnels with it.
#[test]
fn a_grant_for_a_local_name_ends_when_local_names_are_closed_again() {
    let local = |open: bool| {
        let document = json!({
            "rules": [{"id": "r", "action": "allow", "protocol": "udp", "destination": ["9.9.9.0/24"], "ports": "*"}],
            "danger_allow_local_names": open,
        });
        snapshot_with(1, Profile::hardened(), PolicyDocument::parse(&document).unwrap().compile().unwrap())
    };
    let mut bench = Bench::new("localhost", local(true), facts());
    bench.resolve(&["9.9.9.9"]);
    bench.asked_to_open();
    bench.admission.on_opened(Ok(()));
    let mut grant = bench.accepted().grant;
    assert_eq!(grant.recheck(&local(true), &OwnAddresses::default()), Ok(()));
    let refusal = grant.recheck(&local(false), &OwnAddresses::default()).unwrap_err();
    assert_eq!(refusal.reason, Reason::PolicyRefused);
}

/// UDP-73, C-13.
#[test]
fn next_hop_is_told_in_interop_only() {
    let allow =
        || policy(json!([{"id": "r", "action": "allow", "protocol": "udp", "destination": RULES, "ports": "*"}]));
    for (profile, expected) in [
        (Profile::interop(), Some("gw.example;next-hop=\"[2620:fe::9]:53\"")),
        (Profile::hardened(), None),
        (
            Profile { proxy_status_next_hop: true, ..Profile::hardened() },
            Some("gw.example;next-hop=\"[2620:fe::9]:53\""),
        ),
    ] {
        let mut bench = Bench::new("2620:fe::9", snapshot_with(1, profile, allow()), facts());
        bench.asked_to_open();
        bench.admission.on_opened(Ok(()));
        let response = bench.accepted().response;
        let value = response.fields.get_single("proxy-status").unwrap().map(|value| &value[..]);
        assert_eq!(value, expected.map(str::as_bytes));
    }
}

#[derive(Clone, Debug)]
enum Event {
    Step,
    Ledger(bool),
    Resolved(Result<Vec<u8>, ResolveError>),
    Opened(Result<(), OpenError>),
    Recheck(bool),
    Cancel,
}

fn any_event() -> impl Strategy<Value = Event> {
    let resolve_error = prop::sample::select(
        &[
            ResolveError::Timeout,
            ResolveError::NxDomain,
            ResolveError::NoAddress,
            ResolveError::Failed("SERVFAIL"),
            ResolveError::Overloaded,
        ][..],
    );
    let open_error = prop::sample::select(
        &[OpenError::NoRoute, OpenError::Exhausted, OpenError::Refused, OpenError::Own, OpenError::Other(5)][..],
    );
    prop_oneof![
        12 => Just(Event::Step),
        6 => prop::bool::weighted(0.9).prop_map(Event::Ledger),
        6 => prop::result::maybe_err(prop::collection::vec(0_u8..12, 0..4), resolve_error).prop_map(Event::Resolved),
        6 => prop::result::maybe_err(Just(()), open_error).prop_map(Event::Opened),
        1 => any::<bool>().prop_map(Event::Recheck),
        1 => Just(Event::Cancel),
    ]
}

proptest! {
    /// Whatever is answered, in whatever order: one outcome at most, nothing opened that was not checked, and no slot
    /// kept after the end.
    #[test]
    fn any_order_of_answers_gives_one_outcome_and_keeps_no_slot(events in prop::collection::vec(any_event(), 0..40)) {
        let mut bench = Bench::open("dns.example");
        let (mut outcomes, mut accepted, mut checked) = (0, None, Vec::new());
        for (time, event) in (0..).zip(events) {
            match event {
                Event::Step => match bench.admission.step(at(time / 4)) {
                    Step::Accepted(accept) => {
                        outcomes += 1;
                        prop_assert!(checked.contains(&accept.grant.address.ip()));
                        accepted = Some(accept);
                    }
                    Step::Refused(_) => {
                        outcomes += 1;
                        prop_assert_eq!(bench.local.tunnels(), 0);
                    }
                    Step::Open { address } => prop_assert!(checked.contains(&address.ip())),
                    Step::AskLedger | Step::Resolve { .. } | Step::Wait => {}
                },
                Event::Ledger(free) => {
                    let slot = if free { TunnelSlot::take(&bench.ledger) } else { Err(LedgerFull) };
                    bench.admission.on_ledger(slot);
                }
                Event::Resolved(answer) => {
                    let addresses = |last: Vec<u8>| -> Vec<IpAddr> {
                        // Two in twelve are prohibited.
                        last.into_iter().map(|n| IpAddr::from([if n < 10 { 9 } else { 127 }, 9, 9, n])).collect()
                    };
                    let answer = answer.map(addresses);
                    if let Ok(list) = &answer {
                        checked.extend(list.iter().copied().filter(|address| !address.is_loopback()));
                    }
                    bench.admission.on_resolved(answer);
                }
                Event::Opened(answer) => bench.admission.on_opened(answer),
                Event::Recheck(allow) => {
                    let newer = if allow { allowing(2) } else { snapshot_with(2, Profile::hardened(), Policy::deny_all()) };
                    bench.admission.recheck(newer, Arc::default());
                }
                Event::Cancel => bench.admission.cancel(),
            }
        }
        prop_assert!(outcomes <= 1);
        let local = Arc::clone(&bench.local);
        drop(bench);
        prop_assert_eq!(local.tunnels(), u64::from(accepted.is_some()));
        drop(accepted);
        prop_assert_eq!(local.tunnels(), 0);
    }
}
