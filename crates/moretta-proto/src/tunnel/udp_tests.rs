use std::time::Duration;

use bytes::Bytes;
use moretta_wire::capsule::{CapsuleType, write_datagram, write_header};
use moretta_wire::datagram::ContextId;
use proptest::prelude::*;

use super::*;
use crate::error::Closing;

const ROOMY: usize = 1400;

fn at(seconds: u64) -> Now {
    // One origin for all tests of the process: `Instant` has no constructor of its own.
    static ORIGIN: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    let origin = *ORIGIN.get_or_init(origin);
    Now { instant: origin + Duration::from_secs(seconds), unix: Duration::from_secs(1_700_000_000 + seconds) }
}

#[allow(clippy::disallowed_methods, reason = "an arbitrary origin; no test depends on its value")]
fn origin() -> Instant {
    Instant::now()
}

fn options(role: Role, profile: Profile) -> Options {
    Options::new(role, profile, &Limits::default())
}

fn proxy(profile: Profile) -> UdpTunnel {
    UdpTunnel::new(options(Role::Proxy, profile), at(0))
}

fn interop() -> UdpTunnel {
    proxy(Profile::interop())
}

fn hardened() -> UdpTunnel {
    proxy(Profile::hardened())
}

/// Feeds stream bytes and returns the payloads with the outcome.
fn feed(tunnel: &mut UdpTunnel, bytes: &[u8]) -> (Vec<Bytes>, Result<(), EndReason>) {
    let budget = CapsuleBudget::new(256 * 1024);
    let mut payloads = Vec::new();
    let result =
        tunnel.from_peer_stream(&Bytes::copy_from_slice(bytes), &budget, &mut |payload| payloads.push(payload));
    (payloads, result)
}

fn datagram(context: u64, payload: &[u8]) -> Vec<u8> {
    let mut wire = Vec::new();
    write_datagram(ContextId::new(context).unwrap(), payload, &mut wire);
    wire
}

fn capsule(capsule_type: u64, length: u64, begun: &[u8]) -> Vec<u8> {
    let mut wire = Vec::new();
    write_header(CapsuleType::new(capsule_type).unwrap(), length, &mut wire);
    wire.extend_from_slice(begun);
    wire
}

/// UDP-35, UDP-37, UDP-57.
#[test]
fn a_payload_of_context_zero_is_forwarded_whatever_the_length_of_its_context_id() {
    let mut tunnel = interop();
    assert_eq!(tunnel.from_peer_datagram(b"\x00hello"), Verdict::Forward { offset: 1 });
    assert_eq!(tunnel.from_peer_datagram(b"\x40\x00hello"), Verdict::Forward { offset: 2 });
    assert_eq!(tunnel.from_peer_datagram(b"\x00"), Verdict::Forward { offset: 1 });
    assert_eq!(tunnel.counters().client_to_target, Traffic { datagrams: 3, bytes: 10 });
    assert_eq!(tunnel.counters().drops.total(), 0);
}

/// UDP-54, UDP-55, UDP-56, UDP-58, UDP-59.
#[test]
fn what_has_no_known_context_is_dropped_counted_and_ends_nothing() {
    for profile in [Profile::interop(), Profile::hardened()] {
        let mut tunnel = proxy(profile);
        for _ in 0..10_000 {
            assert_eq!(tunnel.from_peer_datagram(b"\x01x"), Verdict::Drop(DropReason::UnknownContext));
            assert_eq!(tunnel.from_peer_datagram(b"\x02x"), Verdict::Drop(DropReason::UnknownContext));
        }
        assert_eq!(tunnel.from_peer_datagram(&[0xff; 8]), Verdict::Drop(DropReason::UnknownContext));
        assert_eq!(tunnel.from_peer_datagram(b""), Verdict::Drop(DropReason::NoContextId));
        assert_eq!(tunnel.from_peer_datagram(b"\x40"), Verdict::Drop(DropReason::NoContextId));
        assert_eq!(tunnel.counters().drops.get(DropReason::UnknownContext), 20_001);
        assert_eq!(tunnel.counters().drops.get(DropReason::NoContextId), 2);
        assert_eq!(tunnel.from_peer_datagram(b"\x00x"), Verdict::Forward { offset: 1 });
    }
}

/// C-6: the knob counts datagrams of both kinds together.
#[test]
fn abort_after_n_unknown_contexts_ends_the_tunnel_at_the_next() {
    let profile = Profile { unknown_context: UnknownContext::AbortAfter(3), ..Profile::hardened() };
    let mut tunnel = proxy(profile);
    assert_eq!(tunnel.from_peer_datagram(b"\x02"), Verdict::Drop(DropReason::UnknownContext));
    assert_eq!(feed(&mut tunnel, &datagram(2, b"x")).1, Ok(()));
    assert_eq!(tunnel.from_peer_datagram(b"\x04"), Verdict::Drop(DropReason::UnknownContext));
    assert_eq!(tunnel.from_peer_datagram(b"\x06"), Verdict::End(EndReason::ContextFlood));
    assert_eq!(tunnel.counters().drops.get(DropReason::UnknownContext), 4);
    assert_eq!(EndReason::ContextFlood.closing(), Closing::Reset(h3_code::EXCESSIVE_LOAD));

    let mut by_capsule = proxy(Profile { unknown_context: UnknownContext::AbortAfter(0), ..Profile::hardened() });
    assert_eq!(feed(&mut by_capsule, &datagram(2, b"x")).1, Err(EndReason::ContextFlood));
}

/// UDP-46, AU-2.
#[test]
fn a_payload_above_65527_bytes_ends_its_tunnel_with_a_message_error() {
    let profile = Profile::interop();
    let roomy = Options { target_payload_bytes: usize::MAX, ..options(Role::Proxy, profile) };
    let mut tunnel = UdpTunnel::new(roomy, at(0));
    let (payloads, result) = feed(&mut tunnel, &datagram(0, &vec![1; 65_527]));
    assert_eq!((payloads.len(), result), (1, Ok(())));
    assert_eq!(payloads[0].len(), 65_527);
    assert_eq!(feed(&mut tunnel, &datagram(0, &vec![1; 65_528])).1, Err(EndReason::PayloadTooLong));
    assert_eq!(EndReason::PayloadTooLong.closing(), Closing::Reset(0x10e));
    assert!(tunnel.is_ended());

    let mut by_datagram = interop();
    assert_eq!(by_datagram.from_peer_datagram(&vec![0; 65_529]), Verdict::End(EndReason::PayloadTooLong));
}

/// CAP-1, CAP-2, CAP-4, CAP-25: interop skips, between datagrams of both kinds.
#[test]
fn interop_skips_unknown_capsules_and_counts_them() {
    let mut tunnel = interop();
    let wire = [capsule(0x2a5, 5, b"12345"), capsule(0x17, 0, b""), datagram(0, b"on")].concat();
    let (payloads, result) = feed(&mut tunnel, &wire);
    assert_eq!((payloads, result), (vec![Bytes::from_static(b"on")], Ok(())));
    assert_eq!(tunnel.from_peer_datagram(b"\x00mixed"), Verdict::Forward { offset: 1 });
    assert_eq!(tunnel.counters().unknown_capsules, 2);
    assert_eq!(tunnel.counters().unknown_capsule_bytes, 5);
    assert_eq!(tunnel.counters().client_to_target, Traffic { datagrams: 2, bytes: 7 });
}

/// HG-27, HG-E4, C-1, C-2: hardened refuses them, grease and other protocols' types included, at the header.
#[test]
fn hardened_closes_the_connection_for_an_unknown_capsule() {
    for capsule_type in [0x01, 0x02, 0x03, 0x17, 0x2a5] {
        let mut tunnel = hardened();
        let (payloads, result) =
            feed(&mut tunnel, &[datagram(0, b"before"), capsule(capsule_type, 1 << 30, b"")].concat());
        assert_eq!(payloads, [Bytes::from_static(b"before")], "what came first is delivered");
        assert_eq!(result, Err(EndReason::CapsuleClosedConnection), "{capsule_type:#x}");
        assert_eq!(tunnel.counters().unknown_capsules, 1);
    }
    assert_eq!(EndReason::CapsuleClosedConnection.closing(), Closing::CloseConnection(h3_code::GENERAL_PROTOCOL_ERROR));
    let mut tunnel = proxy(Profile { unknown_capsule: UnknownCapsule::AbortStream, ..Profile::hardened() });
    assert_eq!(feed(&mut tunnel, &capsule(0x17, 0, b"")).1, Err(EndReason::CapsuleRefused));
    assert_eq!(EndReason::CapsuleRefused.closing(), Closing::Reset(h3_code::MESSAGE_ERROR));
}

/// CAP-35: bytes that came are counted, not bytes that were announced; empty capsules are not free.
#[test]
fn unknown_capsules_end_the_tunnel_when_their_budget_is_used_up() {
    let tight = Options { unknown_capsule_bytes: 1000, ..options(Role::Proxy, Profile::interop()) };
    let mut tunnel = UdpTunnel::new(tight, at(0));
    assert_eq!(feed(&mut tunnel, &capsule(0x2a5, 1 << 40, &[0; 984])).1, Ok(()));
    assert_eq!(feed(&mut tunnel, &[0]).1, Err(EndReason::CapsuleFlood));
    assert_eq!(EndReason::CapsuleFlood.closing(), Closing::Reset(0x107));

    let mut tunnel = UdpTunnel::new(tight, at(0));
    let empty = capsule(0x17, 0, b"");
    let accepted = (0..1000).take_while(|_| feed(&mut tunnel, &empty).1.is_ok()).count();
    assert_eq!(accepted, 1000 / 16);
}

/// CAP-8: at every byte of a capsule, header included.
#[test]
fn a_stream_that_ends_inside_a_capsule_is_a_message_error() {
    let wire = datagram(0, b"payload");
    for cut in 0..=wire.len() {
        let mut tunnel = interop();
        assert_eq!(feed(&mut tunnel, &wire[..cut]).1, Ok(()));
        let clean = cut == 0 || cut == wire.len();
        let expected = if clean { EndReason::ClientFinished } else { EndReason::CapsuleTruncated };
        assert_eq!(tunnel.on_peer_fin(), Some(expected), "cut at {cut}");
    }
    assert_eq!(EndReason::CapsuleTruncated.closing(), Closing::Reset(0x10e));
    assert_eq!(EndReason::ClientFinished.closing(), Closing::Finish);
}

/// AU-14, HG-F4.
#[test]
fn a_tunnel_that_ends_inside_a_capsule_gives_back_what_it_held() {
    let budget = CapsuleBudget::new(4096);
    let mut tunnel = interop();
    let begun = Bytes::from(capsule(0, 101, &[0, 1, 2]));
    assert_eq!(tunnel.from_peer_stream(&begun, &budget, &mut |_| {}), Ok(()));
    assert_eq!(budget.held_bytes(), 100);
    assert_eq!(tunnel.end(EndReason::Drained), Some(EndReason::Drained));
    assert_eq!(budget.held_bytes(), 0, "although the machine is still there");
}

/// A client takes what the proxy was able to receive, which no path of the client's bounds.
#[test]
fn a_client_takes_capsules_up_to_the_largest_payload() {
    let mut tunnel = UdpTunnel::new(options(Role::Client, Profile::interop()), at(0));
    let (payloads, result) = feed(&mut tunnel, &datagram(0, &vec![1; 65_527]));
    assert_eq!((payloads.len(), result), (1, Ok(())));
    let (payloads, result) = feed(&mut interop(), &datagram(0, &vec![1; 65_527]));
    assert_eq!((payloads.len(), result), (0, Ok(())));
}

/// CAP-25: a stream that has carried only capsules is answered in capsules until its first QUIC datagram.
#[test]
fn a_side_that_sends_only_capsules_is_answered_in_capsules_until_its_first_datagram() {
    let mut tunnel = interop();
    assert_eq!(tunnel.to_peer(10, ROOMY), Outgoing::Datagram);
    assert_eq!(feed(&mut tunnel, &capsule(0x17, 0, b"")).1, Ok(()));
    assert_eq!(tunnel.to_peer(10, ROOMY), Outgoing::Datagram, "a capsule that is no datagram says nothing");
    feed(&mut tunnel, &datagram(0, b"x")).1.unwrap();
    assert_eq!(tunnel.to_peer(10, ROOMY), Outgoing::Capsule);
    assert_eq!(tunnel.to_peer(ROOMY + 1, ROOMY), Outgoing::Capsule, "a stream carries what a datagram could not");
    assert_eq!(tunnel.from_peer_datagram(b"\x00x"), Verdict::Forward { offset: 1 });
    feed(&mut tunnel, &datagram(0, b"x")).1.unwrap();
    assert_eq!(tunnel.to_peer(10, ROOMY), Outgoing::Datagram, "and so it stays");
}

/// H3D-4, H3D-5, H3D-6.
#[test]
fn without_negotiated_datagrams_everything_travels_in_capsules() {
    let capsules_only = Options { datagrams: false, ..options(Role::Proxy, Profile::interop()) };
    let mut tunnel = UdpTunnel::new(capsules_only, at(0));
    assert_eq!(tunnel.to_peer(1200, 0), Outgoing::Capsule);
    assert_eq!(tunnel.to_peer(65_527, 0), Outgoing::Capsule);
    assert_eq!(tunnel.to_peer(65_528, 0), Outgoing::Drop(DropReason::TooLargeForPath));
    tunnel.set_datagrams(true);
    assert_eq!(tunnel.to_peer(1200, ROOMY), Outgoing::Datagram);
}

/// UDP-53, CF-3.
#[test]
fn a_payload_that_does_not_fit_a_datagram_is_dropped_and_counted_not_put_in_a_capsule() {
    let mut tunnel = interop();
    assert_eq!(tunnel.to_peer(ROOMY, ROOMY), Outgoing::Datagram);
    assert_eq!(tunnel.to_peer(ROOMY + 1, ROOMY), Outgoing::Drop(DropReason::TooLargeForPath));
    assert_eq!(tunnel.counters().target_to_client, Traffic { datagrams: 1, bytes: ROOMY as u64 });
    assert_eq!(tunnel.counters().drops.get(DropReason::TooLargeForPath), 1);
    assert!(!tunnel.is_ended());
}

/// UDP-41, UDP-42, UDP-43, AU-13: 120 s by default, counted from the last activity.
#[test]
fn a_tunnel_ends_when_it_has_carried_nothing_for_the_idle_timeout() {
    let mut tunnel = interop();
    assert_eq!(tunnel.poll_timeout(), Some(at(120).instant));
    assert_eq!(tunnel.handle_timeout(at(119)), None);
    tunnel.on_activity(at(100));
    assert_eq!(tunnel.poll_timeout(), Some(at(220).instant));
    assert_eq!(tunnel.handle_timeout(at(219)), None);
    tunnel.on_activity(at(50));
    assert_eq!(tunnel.poll_timeout(), Some(at(220).instant), "activity never moves it back");
    assert_eq!(tunnel.handle_timeout(at(220)), Some(EndReason::IdleTimeout));
    assert_eq!(EndReason::IdleTimeout.closing(), Closing::Finish);
    assert_eq!(tunnel.poll_timeout(), None);
    assert_eq!(tunnel.handle_timeout(at(500)), None);
}

/// XC-22, XC-23, UDP-45, C-7: each way the other side can end it, on either side.
#[test]
fn every_end_of_the_stream_ends_the_tunnel_and_names_who_did_it() {
    type Case = (fn(&mut UdpTunnel) -> Option<EndReason>, EndReason, EndReason);
    let cases: [Case; 4] = [
        (UdpTunnel::on_peer_fin, EndReason::ClientFinished, EndReason::ProxyFinished),
        (UdpTunnel::on_peer_reset, EndReason::ClientReset, EndReason::ProxyReset),
        (|tunnel| tunnel.on_peer_stop_sending(h3_code::NO_ERROR), EndReason::ClientFinished, EndReason::ProxyFinished),
        (|tunnel| tunnel.on_peer_stop_sending(0x10c), EndReason::ClientReset, EndReason::ProxyReset),
    ];
    for (index, (end, at_proxy, at_client)) in cases.into_iter().enumerate() {
        for (role, expected) in [(Role::Proxy, at_proxy), (Role::Client, at_client)] {
            let mut tunnel = UdpTunnel::new(options(role, Profile::interop()), at(0));
            assert_eq!(end(&mut tunnel), Some(expected), "case {index}, {role:?}");
            assert!(tunnel.is_ended());
            assert_eq!(end(&mut tunnel), None, "only the first end counts");
        }
    }
}

/// H3D-17, H3D-18.
#[test]
fn nothing_passes_a_tunnel_that_has_ended() {
    let mut tunnel = interop();
    assert_eq!(tunnel.end(EndReason::Drained), Some(EndReason::Drained));
    assert_eq!(tunnel.from_peer_datagram(b"\x00x"), Verdict::Drop(DropReason::TunnelFinished));
    assert_eq!(tunnel.to_peer(1, ROOMY), Outgoing::Drop(DropReason::TunnelFinished));
    assert_eq!(feed(&mut tunnel, &datagram(0, b"x")), (vec![], Ok(())));
    assert_eq!(tunnel.on_target_error(TargetError::Refused, 1), None);
    assert_eq!(tunnel.end(EndReason::IdleTimeout), None);
    assert_eq!(tunnel.counters().drops.get(DropReason::TunnelFinished), 2);
}

/// H3D-18: a client that has finished still takes what the proxy sends until that finishes too, but not for ever.
#[test]
fn a_finished_half_still_takes_what_arrives_until_the_other_half_ends() {
    let client = || {
        let mut tunnel = UdpTunnel::new(options(Role::Client, Profile::interop()), at(0));
        assert!(tunnel.finish(EndReason::ClientFinished, at(10)));
        assert!(!tunnel.finish(EndReason::ClientFinished, at(10)));
        tunnel
    };
    let mut tunnel = client();
    assert_eq!(tunnel.to_peer(1, ROOMY), Outgoing::Drop(DropReason::TunnelFinished));
    assert_eq!(tunnel.from_peer_datagram(b"\x00late"), Verdict::Forward { offset: 1 });
    assert_eq!(tunnel.on_peer_fin(), Some(EndReason::ClientFinished), "it was our end, not the proxy's");

    let mut tunnel = client();
    assert_eq!(tunnel.poll_timeout(), Some(at(13).instant));
    assert_eq!(tunnel.handle_timeout(at(12)), None);
    assert_eq!(tunnel.handle_timeout(at(13)), Some(EndReason::ClientFinished));

    assert_eq!(client().on_peer_reset(), Some(EndReason::ProxyReset));
}

/// UDP-44, UDP-71, C-19: what hardened counts ends an interop tunnel, unless it concerns one datagram only.
#[test]
fn target_errors_end_only_interop_tunnels_and_never_for_a_single_datagram() {
    for error in [TargetError::Refused, TargetError::Unreachable, TargetError::Other] {
        let mut tunnel = hardened();
        assert_eq!(tunnel.on_target_error(error, 2), None);
        assert_eq!(tunnel.counters().target_errors, 1);
        assert_eq!(tunnel.counters().drops.get(DropReason::SocketError), 2);
        assert_eq!(tunnel.from_peer_datagram(b"\x00x"), Verdict::Forward { offset: 1 });
        assert_eq!(interop().on_target_error(error, 0), Some(EndReason::TargetError));
    }
    assert_eq!(EndReason::TargetError.closing(), Closing::Reset(h3_code::CONNECT_ERROR));
    for (error, drop) in
        [(TargetError::TooLarge, DropReason::TooLargeForTarget), (TargetError::Full, DropReason::SocketFull)]
    {
        for mut tunnel in [hardened(), interop()] {
            assert_eq!(tunnel.on_target_error(error, 3), None);
            assert_eq!(tunnel.counters().drops.get(drop), 3);
            assert!(!tunnel.is_ended());
        }
    }
}

#[test]
fn a_client_counts_what_arrives_as_coming_from_the_target() {
    let mut tunnel = UdpTunnel::new(options(Role::Client, Profile::interop()), at(0));
    assert_eq!(tunnel.from_peer_datagram(b"\x00four"), Verdict::Forward { offset: 1 });
    assert_eq!(tunnel.to_peer(6, ROOMY), Outgoing::Datagram);
    assert_eq!(tunnel.counters().target_to_client, Traffic { datagrams: 1, bytes: 4 });
    assert_eq!(tunnel.counters().client_to_target, Traffic { datagrams: 1, bytes: 6 });
}

/// What a test does to a tunnel, in random order.
#[derive(Clone, Debug)]
enum Event {
    Datagram(Vec<u8>),
    Stream(Vec<u8>),
    Send(usize),
    Advance(u64),
    Fin,
    Reset,
    TargetError,
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => prop::collection::vec(any::<u8>(), 0..20).prop_map(Event::Datagram),
        4 => prop::collection::vec(any::<u8>(), 0..40).prop_map(Event::Stream),
        6 => (0_usize..70_000).prop_map(Event::Send),
        1 => (0_u64..80).prop_map(Event::Advance),
        1 => Just(Event::Fin),
        1 => Just(Event::Reset),
        1 => Just(Event::TargetError),
    ]
}

proptest! {
    /// Every datagram is either let through or dropped for one reason, the tunnel ends once, and nothing passes after.
    #[test]
    fn whatever_happens_every_datagram_is_counted_once_and_the_tunnel_ends_once(
        events in prop::collection::vec(any_event(), 0..60),
        strict in any::<bool>(),
    ) {
        let profile = if strict { Profile::hardened() } else { Profile::interop() };
        let mut tunnel = proxy(profile);
        let budget = CapsuleBudget::new(4096);
        let (mut passed, mut offered, mut from_stream, mut ends, mut clock) = (0, 0, 0, 0, 0);
        for event in events {
            let over = tunnel.is_ended();
            let drops = tunnel.counters().drops.total();
            match event {
                Event::Datagram(payload) => {
                    offered += 1;
                    match tunnel.from_peer_datagram(&payload) {
                        Verdict::Forward { offset } => {
                            prop_assert!(!over && offset <= payload.len());
                            passed += 1;
                        }
                        Verdict::Drop(_) => prop_assert_eq!(tunnel.counters().drops.total(), drops + 1),
                        Verdict::End(_) => ends += 1,
                    }
                }
                Event::Stream(bytes) => {
                    let mut found = 0;
                    let read = tunnel.from_peer_stream(&Bytes::from(bytes), &budget, &mut |_| found += 1);
                    prop_assert!(!over || found == 0);
                    from_stream += found;
                    ends += u32::from(read.is_err());
                }
                Event::Send(bytes) => {
                    let outgoing = tunnel.to_peer(bytes, ROOMY);
                    prop_assert!(!over || matches!(outgoing, Outgoing::Drop(DropReason::TunnelFinished)));
                    prop_assert!(outgoing != Outgoing::Datagram || bytes <= ROOMY);
                }
                Event::Advance(seconds) => {
                    clock += seconds;
                    ends += u32::from(tunnel.handle_timeout(at(clock)).is_some());
                }
                Event::Fin => ends += u32::from(tunnel.on_peer_fin().is_some()),
                Event::Reset => ends += u32::from(tunnel.on_peer_reset().is_some()),
                Event::TargetError => ends += u32::from(tunnel.on_target_error(TargetError::Refused, 0).is_some()),
            }
            prop_assert!(budget.held_bytes() <= 4096);
            prop_assert!(!tunnel.is_ended() || budget.held_bytes() == 0);
        }
        prop_assert_eq!(tunnel.counters().client_to_target.datagrams, passed + from_stream);
        prop_assert!(passed <= offered);
        prop_assert_eq!(ends, u32::from(tunnel.is_ended()));
    }
}
