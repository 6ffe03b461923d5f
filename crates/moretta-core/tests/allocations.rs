//! The steady path allocates nothing of ours: neither per datagram, nor per packet, nor per turn.
//!
//! The QUIC library keeps sent packets in a B-tree, whose nodes come and go: about one for every six packets.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "helpers of tests fail as tests do"
)]
#![allow(unsafe_code, reason = "a global allocator is unsafe by its trait; this one only counts")]

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::Duration;

use bytes::BytesMut;
use moretta_core::{FlowId, Input, LinkId, Outputs, Train};
use support::World;

struct Counting;

thread_local! {
    static COUNTING: Cell<bool> = const { Cell::new(false) };
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    if COUNTING.get() {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
    }
}

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(pointer, layout, new_size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Runs `work` and returns how often it allocated.
fn allocations(work: impl FnOnce()) -> u64 {
    ALLOCATIONS.set(0);
    COUNTING.set(true);
    work();
    COUNTING.set(false);
    ALLOCATIONS.get()
}

/// Slabs like the driver's: used again once nothing of them is left.
struct Slabs(Vec<BytesMut>);

impl Slabs {
    fn take(&mut self, bytes: &[u8]) -> BytesMut {
        let slab = self.0.iter_mut().find_map(|slab| {
            slab.clear();
            slab.try_reclaim(64 * 1024).then_some(slab)
        });
        let slab = slab.expect("a slab is free: nothing pins them");
        slab.extend_from_slice(bytes);
        slab.split()
    }
}

const ROUNDS: usize = 400;
/// Packets for which the library may allocate once.
const PACKETS_PER_NODE: usize = 6;

/// One node's part of a round, counted.
struct Side<'a> {
    world: &'a mut World,
    node: usize,
    link: LinkId,
    slabs: Slabs,
    outputs: Outputs,
    allocated: u64,
    delivered: usize,
    packets: usize,
}

impl Side<'_> {
    /// Takes packets and datagrams, makes its turn, and returns the packets it sends.
    fn round(
        &mut self,
        packets: &[Vec<u8>],
        from: std::net::SocketAddr,
        flow: FlowId,
        payloads: &[u8],
        size: usize,
    ) -> Vec<Vec<u8>> {
        let now = self.world.now;
        let core = &mut self.world.nodes[self.node].core;
        for packet in packets {
            let data = self.slabs.take(packet);
            let train = Train { link: self.link, remote: from, local: None, ecn: 0, segment_size: packet.len(), data };
            self.allocated += allocations(|| core.handle(now, Input::Train(train)));
        }
        self.allocated += allocations(|| {
            if !payloads.is_empty() {
                core.handle(now, Input::Flow { flow, data: payloads, segment_size: size });
            }
        });
        let outputs = &mut self.outputs;
        self.allocated += allocations(|| while core.turn(now, outputs).again_now {});
        let mut sent = Vec::new();
        for train in outputs.trains() {
            sent.extend(train.data.chunks(train.segment_size.unwrap_or(train.data.len())).map(<[u8]>::to_vec));
        }
        self.packets += sent.len();
        self.delivered += outputs.flow_sends().map(|(_, payloads)| payloads.len()).sum::<usize>();
        outputs.clear();
        sent
    }
}

/// What one side did after its pools were filled.
#[derive(Clone, Copy, Default)]
struct Total {
    allocated: u64,
    delivered: usize,
    packets: usize,
}

/// Datagrams of one size both ways at a steady rate.
fn steady(size: usize, per_round: usize) -> [Total; 2] {
    let (mut world, gateway) = World::pair();
    let client_flow = world.open_udp(1, gateway, 1);
    let flows = [world.server_flow(0, 9001), client_flow];
    // Past MTU discovery, slow start and the first key update.
    for _ in 0..300 {
        for (node, flow) in flows.into_iter().enumerate() {
            world.flow_input(node, flow, &vec![1; 22_000], 1100);
            world.turn(node);
        }
        world.run(Duration::from_millis(12));
    }
    let addresses: Vec<_> = (0..2).map(|node| *world.nodes[node].links.values().next().unwrap()).collect();
    let payloads = vec![2; size * per_round];
    let mut totals = [Total::default(); 2];
    let mut slabs = [(); 2].map(|()| Slabs((0..64).map(|_| BytesMut::with_capacity(64 * 1024)).collect()));
    let mut outputs = [Outputs::new(), Outputs::new()];
    let mut in_flight: [Vec<Vec<u8>>; 2] = [Vec::new(), Vec::new()];
    for round in 0..ROUNDS + 100 {
        for node in 0..2 {
            let mut side = Side {
                node,
                link: *world.nodes[node].links.keys().next().unwrap(),
                slabs: Slabs(std::mem::take(&mut slabs[node].0)),
                outputs: std::mem::take(&mut outputs[node]),
                allocated: 0,
                delivered: 0,
                packets: 0,
                world: &mut world,
            };
            let packets = std::mem::take(&mut in_flight[node]);
            let sent = side.round(&packets, addresses[1 - node], flows[node], &payloads, size);
            let Side { allocated, delivered, packets, slabs: Slabs(used), outputs: drained, .. } = side;
            slabs[node].0 = used;
            outputs[node] = drained;
            in_flight[1 - node].extend(sent);
            if round >= 100 {
                totals[node].allocated += allocated;
                totals[node].delivered += delivered;
                totals[node].packets += packets;
            }
        }
        world.now.instant += Duration::from_millis(5);
    }
    totals
}

#[test]
fn the_way_of_a_datagram_allocates_nothing() {
    for (size, per_round) in [(1100, 20), (64, 300)] {
        for (node, total) in steady(size, per_round).into_iter().enumerate() {
            let Total { allocated, delivered, packets } = total;
            println!("{size} bytes, node {node}: {allocated} allocations, {delivered} datagrams, {packets} packets");
            assert!(delivered >= ROUNDS * per_round * 9 / 10, "{size} bytes, node {node}: {delivered}");
            assert!(allocated as usize * PACKETS_PER_NODE <= packets, "{size} bytes, node {node}: {allocated}");
        }
    }
}
