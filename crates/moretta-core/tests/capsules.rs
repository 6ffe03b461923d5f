//! DATAGRAM capsules in pieces: how large a payload is assembled follows the path to the target, and how much of them
//! all follows the connection's budget.

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

use moretta_core::{FlowError, FlowPath, Input, Record, TransportOptions};
use moretta_proto::error::DropReason;
use moretta_proto::profile::Profile;
use support::raw::{RawClient, capsule, data_frame};
use support::{SERVER, TARGET, World, shared, snapshot_with};

const A_WHILE: Duration = Duration::from_millis(200);
/// What does not fit one packet arrives in pieces. At once the stream's window takes no more.
const PIECE: usize = 30_000;

/// A raw client with a tunnel to each of these ports, over flows that carry as much as `path` says.
fn world(path: FlowPath, ports: std::ops::Range<u16>) -> (World, Vec<u64>) {
    let mut world = World::new();
    let server = snapshot_with(|snapshot| snapshot.profile = Profile::hardened());
    world.add_node(0, &shared(), server, TransportOptions::default());
    world.listen(0, SERVER);
    world.nodes[0].open_answer = Some(Ok(path));
    let now = world.now.instant;
    world.raw.push(RawClient::new(now, "198.51.100.20:5000", SERVER, Some(65_536)));
    world.raw_turns();
    world.run(A_WHILE);
    world.raw[0].settings(1);
    let streams = ports.map(|port| world.raw[0].ask_udp(TARGET, port)).collect();
    go(&mut world);
    (world, streams)
}

fn go(world: &mut World) {
    world.raw_turns();
    world.run(A_WHILE);
}

fn write(world: &mut World, stream: u64, bytes: &[u8]) {
    for piece in bytes.chunks(PIECE) {
        world.raw[0].write(stream, piece, false);
        go(world);
    }
}

/// A payload of this size in a capsule that comes in many packets.
fn send(world: &mut World, stream: u64, payload_bytes: usize) {
    write(world, stream, &data_frame(&capsule(&vec![9; payload_bytes])));
}

fn delivered(world: &World) -> Vec<usize> {
    world.nodes[0].delivered.iter().map(|(_, payload)| payload.len()).collect()
}

/// Ends the tunnel and says what its record counts as dropped.
fn drops(world: &mut World, stream: u64, reason: DropReason) -> u64 {
    world.raw[0].write(stream, &[], true);
    go(world);
    match world.nodes[0].records.last() {
        Some(Record::Closed(closed)) => closed.counters.drops.get(reason),
        other => panic!("{other:?}"),
    }
}

/// C-12: the assembly buffer is as large as what the socket said when it was opened, to the byte.
#[test]
fn a_split_capsule_is_assembled_up_to_what_the_path_carries_and_skipped_above() {
    for fits in [1372, 60_000, 65_527] {
        let (mut world, streams) = world(FlowPath { max_payload_bytes: fits }, 9001..9002);
        let stream = streams[0];
        send(&mut world, stream, fits);
        assert_eq!(delivered(&world), [fits]);
        if fits < 65_527 {
            send(&mut world, stream, fits + 1);
            send(&mut world, stream, fits);
            assert_eq!(delivered(&world), [fits, fits]);
            assert_eq!(drops(&mut world, stream, DropReason::CapsuleTooLarge), 1);
        }
    }
}

/// C-12, C-19: what the socket learns about its path changes what is assembled, and ends nothing.
#[test]
fn a_path_that_changes_changes_what_is_assembled() {
    let (mut world, streams) = world(FlowPath { max_payload_bytes: 9000 }, 9001..9002);
    let (stream, flow) = (streams[0], world.server_flow(0, 9001));
    send(&mut world, stream, 9000);
    world.input(0, Input::FlowError { flow, error: FlowError::TooLarge });
    world.input(0, Input::FlowPath { flow, path: FlowPath { max_payload_bytes: 1200 } });
    send(&mut world, stream, 1201);
    assert_eq!(delivered(&world), [9000]);
    // Nobody tells when a path grows again: who skips something asks.
    assert_eq!(world.nodes[0].asked_paths, [flow]);
    world.input(0, Input::FlowPath { flow, path: FlowPath { max_payload_bytes: 1400 } });
    send(&mut world, stream, 1400);
    assert_eq!(delivered(&world), [9000, 1400]);
    assert_eq!(world.nodes[0].asked_paths, [flow]);
    assert_eq!(drops(&mut world, stream, DropReason::CapsuleTooLarge), 1);
}

/// What the path carries may become known between the opening of the socket and 2xx.
#[test]
fn a_path_that_changes_before_the_answer_counts() {
    let (mut world, _) = world(FlowPath::ETHERNET, 9001..9002);
    world.nodes[0].open_answer = None;
    let stream = world.raw[0].ask_udp(TARGET, 9002);
    go(&mut world);
    let flow = world.server_flow(0, 9002);
    let now = world.now;
    let core = &mut world.nodes[0].core;
    core.handle(now, Input::FlowOpened { flow, result: Ok(FlowPath::ETHERNET) });
    core.handle(now, Input::FlowPath { flow, path: FlowPath { max_payload_bytes: 1500 } });
    go(&mut world);
    send(&mut world, stream, 1500);
    assert_eq!(delivered(&world), [1500]);
}

/// C-12, HG-F4, AU-7: 256 KiB for all tunnels of a connection together, although each alone may hold the largest payload
/// there is: four of them; the fifth is skipped, and lives.
#[test]
fn what_all_tunnels_of_a_connection_assemble_together_is_bounded() {
    let (mut world, streams) = world(FlowPath::ANY, 9001..9006);
    let wire = data_frame(&capsule(&vec![7; 65_527]));
    for stream in &streams {
        write(&mut world, *stream, &wire[..PIECE]);
    }
    assert!(delivered(&world).is_empty());
    for stream in &streams {
        write(&mut world, *stream, &wire[PIECE..]);
    }
    assert_eq!(delivered(&world), [65_527; 4]);
    // What was held has come back.
    write(&mut world, streams[4], &wire);
    assert_eq!(delivered(&world), [65_527; 5]);
    assert_eq!(drops(&mut world, streams[4], DropReason::CapsuleBudget), 1);
    assert_eq!(drops(&mut world, streams[0], DropReason::CapsuleBudget), 0);
}
