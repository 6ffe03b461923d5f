//! Clients that are not ours: early datagrams, capsules, malformed ones, small limits.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "helpers of tests fail as tests do"
)]

mod support;

use std::time::Duration;

use moretta_core::{Command, FlowPath, Input, Record, TransportOptions};
use moretta_proto::error::{EndReason, Reason};
use moretta_proto::profile::Profile;
use quinn_proto::{ConnectionError, Dir};
use support::raw::{RawClient, capsule, connect_udp_frame, data_frame};
use support::{SERVER, TARGET, World, shared, snapshot_with};

const A_WHILE: Duration = Duration::from_millis(200);
const ADDRESS: &str = "198.51.100.20:5000";

/// A server at node 0 and a raw client, connected, that has sent nothing yet.
fn world_with(datagram_bytes: Option<usize>, profile: Profile) -> World {
    let mut world = World::new();
    let server = snapshot_with(|snapshot| snapshot.profile = profile);
    world.add_node(0, &shared(), server, TransportOptions::default());
    world.listen(0, SERVER);
    let now = world.now.instant;
    world.raw.push(RawClient::new(now, ADDRESS, SERVER, datagram_bytes));
    world.raw_turns();
    world.run(A_WHILE);
    assert!(world.raw[0].connected);
    world
}

fn go(world: &mut World) {
    world.raw_turns();
    world.run(A_WHILE);
}

fn delivered(world: &World) -> Vec<Vec<u8>> {
    world.nodes[0].delivered.iter().map(|(_, payload)| payload.clone()).collect()
}

/// What the connection was closed with, an HTTP/3 code.
fn close_code(world: &World) -> Option<u64> {
    match &world.raw[0].lost {
        Some(ConnectionError::ApplicationClosed(close)) => Some(close.error_code.into_inner()),
        _ => None,
    }
}

/// H3D-19, UDP-60: datagrams that overtake their request are delivered once it is accepted.
#[test]
fn datagrams_before_their_request_and_before_2xx_are_delivered() {
    let mut world = world_with(Some(65_536), Profile::hardened());
    world.nodes[0].open_answer = None;
    let raw = &mut world.raw[0];
    raw.settings(1);
    raw.datagram(b"\x00\x00before the request");
    go(&mut world);
    let stream = world.raw[0].ask_udp(TARGET, 9001);
    world.raw[0].datagram(b"\x00\x00with the request");
    world.raw[0].write(stream, &data_frame(&capsule(b"in a capsule")), false);
    go(&mut world);
    assert!(delivered(&world).is_empty(), "nothing leaves before 2xx");
    let flow = world.server_flow(0, 9001);
    world.input(0, moretta_core::Input::FlowOpened { flow, result: Ok(FlowPath::ETHERNET) });
    go(&mut world);
    assert_eq!(
        delivered(&world),
        [b"before the request".to_vec(), b"with the request".to_vec(), b"in a capsule".to_vec()]
    );
}

/// H3D-21: what comes early is bounded, and counted when it goes.
#[test]
fn early_datagrams_are_bounded() {
    let mut world = world_with(Some(65_536), Profile::hardened());
    world.raw[0].settings(1);
    for _ in 0..300 {
        world.raw[0].datagram(&[0; 1000]);
        world.raw[0].datagram(&[0; 1000]);
        world.raw_turns();
        world.run(Duration::from_millis(2));
    }
    world.run(Duration::from_secs(2));
    let counters = *world.nodes[0].core.counters();
    assert_eq!(counters.datagrams_from_peer, 600);
    assert!(counters.up_dropped_no_tunnel > 400, "{counters:?}");
    assert!(delivered(&world).is_empty());
}

/// What a connection holds when it ends is counted then, and not again while it lingers.
#[test]
fn early_datagrams_of_a_connection_that_ends_are_counted_once() {
    let mut world = world_with(Some(65_536), Profile::hardened());
    world.raw[0].settings(1);
    world.raw[0].datagram(b"\x00\x00early");
    // So long that it expires between the end of the connection and its last trace.
    world.raw_turns();
    world.run(Duration::from_millis(450));
    world.command(0, Command::Close);
    world.run(Duration::from_secs(5));
    let counters = *world.nodes[0].core.counters();
    assert_eq!((counters.datagrams_from_peer, counters.up_dropped_early), (1, 1), "{counters:?}");
}

/// H3D-10, H3D-22, UDP-57: padded integers are what they say.
#[test]
fn padded_integers_are_read() {
    let mut world = world_with(Some(65_536), Profile::hardened());
    world.raw[0].settings(1);
    world.raw[0].ask_udp(TARGET, 9001);
    go(&mut world);
    world.raw[0].datagram(b"\xc0\x00\x00\x00\x00\x00\x00\x00\x40\x00padded");
    go(&mut world);
    assert_eq!(delivered(&world), [b"padded".to_vec()]);
}

/// H3D-11, H3D-12, H3D-13: the connection ends with H3_DATAGRAM_ERROR.
#[test]
fn a_malformed_quarter_stream_id_closes_the_connection() {
    for datagram in [&b""[..], b"\xc0", b"\xd0\x00\x00\x00\x00\x00\x00\x00"] {
        let mut world = world_with(Some(65_536), Profile::hardened());
        world.raw[0].settings(1);
        world.raw[0].ask_udp(TARGET, 9001);
        go(&mut world);
        world.raw[0].datagram(datagram);
        go(&mut world);
        assert_eq!(close_code(&world), Some(0x33), "{datagram:x?}");
        assert_eq!(world.nodes[0].core.tunnels(), 0);
        assert!(
            matches!(world.nodes[0].records.last(), Some(Record::Closed(record)) if record.reason == EndReason::ConnectionClosed)
        );
    }
}

/// UDP-54, UDP-55, UDP-58: unknown contexts and none at all are dropped, the tunnel lives.
#[test]
fn datagrams_without_a_known_context_are_dropped() {
    let mut world = world_with(Some(65_536), Profile::hardened());
    world.raw[0].settings(1);
    world.raw[0].ask_udp(TARGET, 9001);
    go(&mut world);
    for datagram in [&b"\x00\x02even"[..], b"\x00\x01odd", b"\x00", b"\x00\x00good"] {
        world.raw[0].datagram(datagram);
    }
    go(&mut world);
    assert_eq!(delivered(&world), [b"good".to_vec()]);
    assert_eq!(world.nodes[0].core.counters().up_dropped_by_tunnel, 3);
}

/// H3D-14, H3D-20: an ID in range that names no request is dropped.
#[test]
fn a_datagram_for_no_request_is_dropped() {
    let mut world = world_with(Some(65_536), Profile::hardened());
    world.raw[0].settings(1);
    world.raw[0].ask_udp(TARGET, 9001);
    go(&mut world);
    world.raw[0].datagram(b"\xcf\xff\xff\xff\xff\xff\xff\xff\x00far");
    go(&mut world);
    assert_eq!(world.raw[0].lost, None);
    assert_eq!(world.nodes[0].core.counters().up_dropped_no_tunnel, 1);
}

/// H3D-15: what turns out to be an ordinary request is aborted when a datagram for it is here; others live on.
#[test]
fn a_datagram_for_an_ordinary_request_aborts_it() {
    let mut world = world_with(Some(65_536), Profile::hardened());
    world.nodes[0].open_answer = None;
    let raw = &mut world.raw[0];
    raw.settings(1);
    raw.ask_udp(TARGET, 9001);
    // GET https://proxy.example/ with a body to come: method, scheme and path from the static table.
    let mut section = vec![0x00, 0x00, 0xd1, 0xd7, 0xc1, 0x50, 13];
    section.extend_from_slice(b"proxy.example");
    let mut frame = vec![0x01, section.len() as u8];
    frame.extend_from_slice(&section);
    let get = raw.open(Dir::Bi);
    assert_eq!(get, 4);
    // The head is incomplete when the datagram comes: the request is held open.
    raw.write(get, &frame[..frame.len() - 1], false);
    go(&mut world);
    world.raw[0].datagram(b"\x01\x00nonsense");
    go(&mut world);
    world.raw[0].write(get, &frame[frame.len() - 1..], false);
    go(&mut world);
    assert_eq!(world.raw[0].resets.get(&get), Some(&0x33));
    assert_eq!(world.raw[0].lost, None, "the connection lives");
    assert_eq!(world.nodes[0].core.tunnels(), 1);
    assert!(delivered(&world).is_empty());
}

/// H3D-5: a client that does not want HTTP Datagrams is answered in capsules.
#[test]
fn without_the_setting_everything_travels_in_capsules() {
    let mut world = world_with(Some(65_536), Profile::hardened());
    world.raw[0].settings(0);
    let stream = world.raw[0].ask_udp(TARGET, 9001);
    go(&mut world);
    world.raw[0].write(stream, &data_frame(&capsule(b"question")), false);
    go(&mut world);
    assert_eq!(delivered(&world), [b"question".to_vec()]);
    let flow = world.server_flow(0, 9001);
    world.send(0, flow, b"answer");
    go(&mut world);
    assert!(world.raw[0].datagrams.is_empty(), "H3D-5: never a DATAGRAM frame");
    assert!(world.raw[0].streams[&stream].ends_with(&data_frame(&capsule(b"answer"))));
}

/// H3D-4: nothing leaves as a DATAGRAM frame before the client's SETTINGS are here.
#[test]
fn before_settings_no_datagram_frame_leaves() {
    let mut world = world_with(Some(65_536), Profile::hardened());
    let stream = world.raw[0].ask_udp(TARGET, 9001);
    go(&mut world);
    let flow = world.server_flow(0, 9001);
    world.send(0, flow, b"early");
    go(&mut world);
    assert!(world.raw[0].datagrams.is_empty());
    world.raw[0].settings(1);
    go(&mut world);
    world.send(0, flow, b"late");
    go(&mut world);
    assert_eq!(world.raw[0].datagrams, [&b"\x00\x00late"[..]]);
    assert!(world.raw[0].streams[&stream].ends_with(&data_frame(&capsule(b"early"))));
}

/// H3D-6: the setting without the transport parameter: the connection lives, payloads travel in capsules.
#[test]
fn a_setting_without_the_transport_parameter_means_capsules() {
    let mut world = world_with(None, Profile::hardened());
    world.raw[0].settings(1);
    let stream = world.raw[0].ask_udp(TARGET, 9001);
    go(&mut world);
    let flow = world.server_flow(0, 9001);
    world.send(0, flow, b"answer");
    go(&mut world);
    assert_eq!(world.raw[0].lost, None);
    assert!(world.raw[0].streams[&stream].ends_with(&data_frame(&capsule(b"answer"))));
}

/// CAP-25: a stream that has carried only capsules is answered in capsules, until its first QUIC datagram.
#[test]
fn a_stream_of_capsules_is_answered_in_capsules_until_its_first_datagram() {
    let mut world = world_with(Some(65_536), Profile::hardened());
    world.raw[0].settings(1);
    let stream = world.raw[0].ask_udp(TARGET, 9001);
    go(&mut world);
    let flow = world.server_flow(0, 9001);
    world.raw[0].write(stream, &data_frame(&capsule(b"one")), false);
    go(&mut world);
    world.send(0, flow, b"first");
    go(&mut world);
    assert!(world.raw[0].datagrams.is_empty());
    assert!(world.raw[0].streams[&stream].ends_with(&data_frame(&capsule(b"first"))));
    world.raw[0].datagram(b"\x00\x00two");
    go(&mut world);
    world.send(0, flow, b"second");
    go(&mut world);
    assert_eq!(world.raw[0].datagrams, [&b"\x00\x00second"[..]]);
    assert_eq!(delivered(&world), [b"one".to_vec(), b"two".to_vec()]);
}

/// H3D-9, K-31: no frame above what the client takes, however little that is.
#[test]
fn the_clients_limit_of_a_datagram_is_kept() {
    // The library counts 32 bytes of its own for each: it advertises what it is given here.
    for limit in [300, 40, 9] {
        let mut world = world_with(Some(limit), Profile::hardened());
        world.raw[0].settings(1);
        world.raw[0].ask_udp(TARGET, 9001);
        go(&mut world);
        let flow = world.server_flow(0, 9001);
        world.send(0, flow, &[1; 400]);
        go(&mut world);
        assert_eq!(world.raw[0].lost, None, "{limit}");
        assert!(world.raw[0].datagrams.is_empty());
        assert_eq!(world.nodes[0].core.counters().down_dropped_too_large, 1);
        assert_eq!(world.nodes[0].core.tunnels(), 1);
    }
}

/// The reply queue obeys stream credit and drops oldest.
#[test]
fn a_client_that_does_not_read_its_capsules_costs_bounded_memory() {
    let mut world = world_with(None, Profile::hardened());
    world.raw[0].settings(0);
    world.raw[0].ask_udp(TARGET, 9001);
    go(&mut world);
    let flow = world.server_flow(0, 9001);
    // From now on the client's acknowledgements and credit are lost.
    world.lose = Box::new(|_, from, _| from == ADDRESS.parse().unwrap());
    for _ in 0..500 {
        world.flow_input(0, flow, &vec![1; 64 * 1024], 1024);
        world.turn(0);
        world.run(Duration::from_millis(1));
    }
    let counters = *world.nodes[0].core.counters();
    let lost = counters.down_dropped_queue_full + counters.down_dropped_stale;
    assert_eq!(counters.datagrams_from_flows, 500 * 64);
    assert!(counters.datagrams_to_peer_in_capsules < 1000, "{counters:?}");
    assert!(lost > 30_000 && counters.datagrams_from_flows - lost - counters.datagrams_to_peer_in_capsules < 300);
}

/// CAP-8: the stream, and nothing else, is reset with H3_MESSAGE_ERROR.
#[test]
fn a_fin_inside_a_capsule_resets_the_stream() {
    let mut world = world_with(Some(65_536), Profile::interop());
    world.raw[0].settings(1);
    let stream = world.raw[0].ask_udp(TARGET, 9001);
    let other = world.raw[0].ask_udp(TARGET, 9002);
    go(&mut world);
    world.raw[0].write(stream, &data_frame(b"\x00\x20half"), true);
    go(&mut world);
    assert_eq!(world.raw[0].resets.get(&stream), Some(&0x10e));
    assert_eq!((world.raw[0].resets.get(&other), world.nodes[0].core.tunnels()), (None, 1));
}

/// CAP-1, C-1: an unknown capsule is skipped in the interop profile and closes the connection in the hardened one.
#[test]
fn an_unknown_capsule_does_what_the_profile_says() {
    for (profile, lives) in [(Profile::interop(), true), (Profile::hardened(), false)] {
        let mut world = world_with(Some(65_536), profile);
        world.raw[0].settings(1);
        let stream = world.raw[0].ask_udp(TARGET, 9001);
        go(&mut world);
        let mut bytes = b"\x42\xa5\x05hello".to_vec();
        bytes.extend_from_slice(&capsule(b"after"));
        world.raw[0].write(stream, &data_frame(&bytes), false);
        go(&mut world);
        assert_eq!(world.raw[0].lost.is_none(), lives);
        assert_eq!(delivered(&world), if lives { vec![b"after".to_vec()] } else { vec![] });
    }
}

/// UDP-43: a tunnel that carries nothing ends, also where its client keeps sending capsules that are skipped.
#[test]
fn skipped_capsules_do_not_keep_an_idle_tunnel_alive() {
    let mut world = world_with(Some(65_536), Profile::interop());
    world.raw[0].settings(1);
    let stream = world.raw[0].ask_udp(TARGET, 9001);
    go(&mut world);
    assert_eq!(world.nodes[0].core.tunnels(), 1);
    for _ in 0..11 {
        world.raw[0].write(stream, &data_frame(b"\x42\xa5\x05hello"), false);
        world.raw_turns();
        world.run(Duration::from_secs(10));
    }
    assert_eq!(world.nodes[0].core.tunnels(), 1, "not before its time");
    world.run(Duration::from_secs(15));
    assert_eq!(world.nodes[0].core.tunnels(), 0);
}

/// UDP-45, H3D-17: FIN frees the socket; what comes after it goes nowhere.
#[test]
fn a_fin_frees_the_socket_at_once() {
    let mut world = world_with(Some(65_536), Profile::hardened());
    world.raw[0].settings(1);
    let stream = world.raw[0].ask_udp(TARGET, 9001);
    go(&mut world);
    let flow = world.server_flow(0, 9001);
    world.raw[0].write(stream, b"", true);
    go(&mut world);
    assert_eq!(world.nodes[0].closed_flows, [flow]);
    assert!(world.raw[0].finished.contains(&stream), "and our side finishes too");
    world.raw[0].datagram(b"\x00\x00late");
    world.send(0, flow, b"H3D-18");
    go(&mut world);
    assert!(delivered(&world).is_empty() && world.raw[0].datagrams.is_empty());
    assert_eq!(world.raw[0].lost, None);
}

/// A request whose head comes byte by byte, then much data before it is decided: held bytes stay few.
#[test]
fn an_undecided_request_is_not_read_further() {
    let mut world = world_with(Some(65_536), Profile::hardened());
    world.nodes[0].open_answer = None;
    world.raw[0].settings(1);
    let stream = world.raw[0].open(Dir::Bi);
    for octet in connect_udp_frame(TARGET, 9001) {
        world.raw[0].write(stream, &[octet], false);
        world.raw_turns();
        world.run(Duration::from_millis(1));
    }
    go(&mut world);
    let frame = data_frame(&capsule(&[9; 1000]));
    let mut written = 0;
    while written < 60 {
        world.raw[0].write(stream, &frame, false);
        written += 1;
    }
    go(&mut world);
    // The stream's window is used up and not given back.
    let id = quinn_proto::StreamId::from(quinn_proto::VarInt::from_u64(stream).unwrap());
    let more = world.raw[0].quic.send_stream(id).write(&vec![0; 100_000]).unwrap_or(0);
    assert!(more < 16 * 1024, "{more}");
    let flow = world.server_flow(0, 9001);
    world.input(0, moretta_core::Input::FlowOpened { flow, result: Ok(FlowPath::ETHERNET) });
    go(&mut world);
    assert_eq!(delivered(&world).len(), written);
}

/// A byte behind a gap must not pin the slab of a whole train: packets are copied while streams hold bytes.
#[test]
fn packets_are_copied_only_while_streams_hold_bytes() {
    let mut world = world_with(Some(65_536), Profile::hardened());
    world.raw[0].settings(1);
    let stream = world.raw[0].ask_udp(TARGET, 9001);
    go(&mut world);
    let copied = |world: &World| world.nodes[0].core.counters().packets_copied;
    world.run(Duration::from_secs(4));
    let before = copied(&world);
    world.raw[0].datagram(b"\x00\x00steady");
    go(&mut world);
    assert_eq!(copied(&world), before, "nothing is held");

    // The first half of a capsule is lost on the way.
    let (head, tail) = (data_frame(b"\x00\x20"), data_frame(&[1; 10]));
    world.lose = Box::new(|_, from, _| from == ADDRESS.parse().unwrap());
    world.raw[0].write(stream, &head, false);
    world.raw_turns();
    world.lose = Box::new(|_, _, _| false);
    world.raw[0].write(stream, &tail, false);
    world.raw_turns();
    world.run(Duration::from_millis(12));
    for _ in 0..10 {
        world.raw[0].datagram(b"\x00\x00meanwhile");
        world.raw_turns();
        world.run(Duration::from_millis(1));
    }
    world.run(Duration::from_millis(20));
    assert!(copied(&world) >= before + 8, "{} → {}", before, copied(&world));
}

/// A request whose flow opens in the turn in which its client breaks a rule was never a tunnel: it is cancelled, and the
/// log says so.
#[test]
fn a_request_that_cannot_be_answered_any_more_is_cancelled() {
    let mut world = world_with(Some(65_536), Profile::hardened());
    world.nodes[0].open_answer = None;
    world.raw[0].settings(1);
    world.raw[0].ask_udp(TARGET, 9001);
    go(&mut world);
    let flow = world.server_flow(0, 9001);
    let second_control_stream = world.raw[0].open(Dir::Uni);
    world.raw[0].write(second_control_stream, &[0], false);
    world.raw_turns();
    // Taken together with the packet that is under way.
    let now = world.now;
    world.nodes[0].core.handle(now, Input::FlowOpened { flow, result: Ok(FlowPath::ETHERNET) });
    world.run(A_WHILE);
    let counters = *world.nodes[0].core.counters();
    assert_eq!((counters.tunnels_opened, counters.tunnels_closed, counters.tunnels_cancelled), (0, 0, 1));
    let [Record::Refused(record)] = &world.nodes[0].records[..] else { panic!("{:?}", world.nodes[0].records) };
    assert_eq!(record.reason, Reason::RequestCancelled);
    assert_eq!(world.nodes[0].closed_flows, [flow]);
}

/// RFC 9114 §5.2: GOAWAY with the largest id, a round trip later with the next one, then the end of the connection.
#[test]
fn a_drain_says_goaway_twice_before_it_closes() {
    let mut world = world_with(Some(65_536), Profile::hardened());
    world.raw[0].settings(1);
    let stream = world.raw[0].ask_udp(TARGET, 9001);
    go(&mut world);
    let deadline = world.now.instant + Duration::from_secs(30);
    world.command(0, moretta_core::Command::Drain { deadline });
    go(&mut world);
    // The first unidirectional stream of a server: control.
    let control = &world.raw[0].streams[&3];
    let goaways: Vec<u8> = vec![0x07, 0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfc, 0x07, 0x01, 0x04];
    assert!(control.ends_with(&goaways), "{control:x?}");
    assert_eq!((world.raw[0].lost.as_ref(), world.nodes[0].core.tunnels()), (None, 1));

    let late = world.raw[0].ask_udp(TARGET, 9002);
    go(&mut world);
    assert_eq!(world.raw[0].resets.get(&late), Some(&0x10b), "H3_REQUEST_REJECTED");
    assert_eq!(world.nodes[0].core.counters().requests_rejected, 1);
    world.raw[0].write(stream, b"", true);
    go(&mut world);
    assert_eq!(close_code(&world), Some(0x100), "H3_NO_ERROR");
}

/// UDP-37, HG-7: hundreds of empty datagrams share a packet, and the library loses none of them on the way in.
#[test]
fn every_datagram_of_a_packet_is_taken() {
    let mut world = world_with(Some(65_536), Profile::hardened());
    world.raw[0].settings(1);
    world.raw[0].ask_udp(TARGET, 9001);
    go(&mut world);
    let before = world.packets;
    for _ in 0..1000 {
        world.raw[0].datagram(b"\x00\x00");
    }
    go(&mut world);
    assert!(world.packets - before < 20, "{}", world.packets - before);
    assert_eq!(delivered(&world), vec![Vec::<u8>::new(); 1000]);
}

/// UDP-74: each tunnel's datagrams reach its own target, whatever their order.
#[test]
fn datagrams_of_many_tunnels_never_cross() {
    let mut world = world_with(Some(65_536), Profile::hardened());
    world.raw[0].settings(1);
    let streams: Vec<u64> = (0..50).map(|index| world.raw[0].ask_udp(TARGET, 9000 + index)).collect();
    go(&mut world);
    for round in 0..10 {
        for step in 0..streams.len() {
            let index = (step * 7 + round) % streams.len();
            let prefix =
                moretta_wire::datagram::Prefix::new(streams[index], moretta_wire::datagram::ContextId::UDP_PAYLOAD);
            let mut datagram = prefix.as_slice().to_vec();
            datagram.extend_from_slice(&(9000 + index as u16).to_be_bytes());
            world.raw[0].datagram(&datagram);
        }
        go(&mut world);
    }
    assert_eq!(world.nodes[0].delivered.len(), 500);
    for (flow, payload) in &world.nodes[0].delivered {
        let moretta_core::FlowKind::Connected { target } = world.nodes[0].flows[flow].kind else { panic!() };
        assert_eq!(payload, &target.port().to_be_bytes());
    }
}
