//! The generated program against the rule it was generated from, in a small interpreter of classic BPF.

use proptest::prelude::*;

use super::*;

/// What the kernel does with the instructions that the assembler writes; anything else is a bug in the assembler.
fn interpret(program: &[Instruction], packet: &[u8]) -> u32 {
    let load = |offset: u32, bytes: usize| {
        let offset = offset as usize;
        let bytes = packet.get(offset..offset + bytes)?;
        Some(bytes.iter().fold(0_u32, |value, byte| value << 8 | u32::from(*byte)))
    };
    let mut accumulator = 0_u32;
    let mut at = 0;
    for _ in 0..=program.len() {
        let Instruction { code, jump_true, jump_false, value } = program[at];
        at += 1;
        let mut branch = |holds: bool| at += usize::from(if holds { jump_true } else { jump_false });
        match code {
            LOAD_LENGTH => accumulator = packet.len() as u32,
            LOAD_BYTE | LOAD_WORD => match load(value, if code == LOAD_BYTE { 1 } else { 4 }) {
                Some(loaded) => accumulator = loaded,
                None => panic!("load beyond the end: the kernel would return 0 without asking us"),
            },
            AND => accumulator &= value,
            MODULO => accumulator %= value,
            JUMP => at += value as usize,
            JUMP_EQUAL => branch(accumulator == value),
            JUMP_GREATER_OR_EQUAL => branch(accumulator >= value),
            JUMP_IF_SET => branch(accumulator & value != 0),
            RETURN => return value,
            other => panic!("unknown instruction {other:#x}"),
        }
    }
    panic!("the program does not end")
}

fn table(members: &[(u8, bool)]) -> SteeringTable {
    let mut table = SteeringTable::new();
    for (slot, accepting) in members {
        assert!(table.join(*slot));
        assert!(table.set_accepting(*slot, *accepting));
    }
    table
}

fn long_header(first: u8, version: u32, cid: &[u8]) -> Vec<u8> {
    let mut packet = vec![0xc0 | first];
    packet.extend(version.to_be_bytes());
    packet.push(cid.len() as u8);
    packet.extend(cid);
    packet
}

const INITIAL: u8 = 0x00;
const ZERO_RTT: u8 = 0x10;
const HANDSHAKE: u8 = 0x20;

/// Packets in which each branch of the rule is likely.
fn packet() -> impl Strategy<Value = Vec<u8>> {
    let tail = proptest::collection::vec(any::<u8>(), 0..24);
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..40),
        (0..0x80_u8, any::<u8>(), tail.clone()).prop_map(|(first, octet, mut tail)| {
            tail.splice(0..0, [first, octet]);
            tail
        }),
        (0..0x40_u8, prop_oneof![Just(1_u32), any::<u32>()], prop_oneof![Just(9_u8), any::<u8>()], tail).prop_map(
            |(first, version, length, tail)| {
                let mut packet = long_header(first, version, &[]);
                packet[5] = length;
                packet.extend(tail);
                packet
            }
        ),
    ]
}

fn any_table() -> impl Strategy<Value = SteeringTable> {
    proptest::sample::subsequence((0..SLOTS).collect::<Vec<_>>(), 1..=32)
        .prop_shuffle()
        .prop_flat_map(|slots| {
            let accepting = proptest::collection::vec(any::<bool>(), slots.len());
            (Just(slots), accepting)
        })
        .prop_map(|(slots, accepting)| table(&slots.into_iter().zip(accepting).collect::<Vec<_>>()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn the_program_decides_as_the_rule_for_every_packet_and_table(table in any_table(), packet in packet()) {
        let index = interpret(&program(&table), &packet);
        prop_assert_eq!(index as usize, steer(&packet, &table));
        prop_assert!((index as usize) < table.len());
    }

    #[test]
    fn packets_with_our_cid_go_to_its_slot_whatever_the_other_bits(
        table in any_table(), position in any::<prop::sample::Index>(), bits in any::<[u8; 9]>(), first in any::<u8>(),
    ) {
        let index = position.index(table.len());
        let mut cid = bits;
        cid[0] = cid[0] & 0xe0 | table.slot_at(index).unwrap();
        let mut short = vec![first & 0x7f];
        short.extend(cid);
        prop_assert_eq!(steer(&short, &table), index);
        prop_assert_eq!(steer(&long_header(HANDSHAKE | first & 0x0f, 1, &cid), &table), index);
        let accepting = table.accepting().iter().any(|(_, accepting)| *accepting == index);
        if accepting {
            prop_assert_eq!(steer(&long_header(INITIAL | first & 0x0f, 1, &cid), &table), index);
            prop_assert_eq!(steer(&long_header(ZERO_RTT | first & 0x0f, 1, &cid), &table), index);
        }
    }

    #[test]
    fn new_connections_reach_accepting_slots_only(
        table in any_table(), cid in proptest::collection::vec(any::<u8>(), 0..20), version in any::<u32>(),
    ) {
        let accepting: Vec<_> = table.accepting().into_iter().map(|(_, index)| index).collect();
        for first in [INITIAL, ZERO_RTT] {
            let mut packet = long_header(first, version, &cid);
            packet.push(0);
            prop_assert!(accepting.contains(&steer(&packet, &table)));
        }
    }
}

#[test]
fn initials_spread_evenly_over_accepting_slots() {
    let table = table(&[(0, true), (1, true), (2, true), (3, true)]);
    let mut hits = [0; 4];
    for octet in 0..=255 {
        hits[steer(&long_header(INITIAL, 1, &[octet, 0, 0, 0, 0, 0, 0, 0]), &table)] += 1;
    }
    assert_eq!(hits, [64; 4]);
}

#[test]
fn packets_of_a_vanished_slot_are_spread_by_the_rest_of_the_cid() {
    let table = table(&[(0, true), (1, true), (2, false)]);
    let hits: Vec<_> = (0..4_u8).map(|last| steer(&[0x40, 9, 1, 2, 3, last, 5, 6, 7, 8], &table)).collect();
    assert_eq!(hits.iter().filter(|index| **index == 0).count(), 2);
    assert_eq!(hits.iter().filter(|index| **index == 1).count(), 2);
}

#[test]
fn when_one_of_four_leaves_the_last_takes_its_index() {
    let mut table = table(&[(4, true), (5, true), (6, true), (7, true)]);
    assert_eq!(table.leave(5), Some(1));
    assert_eq!((table.index_of(7), table.index_of(6), table.index_of(5)), (Some(1), Some(2), None));
    assert_eq!(steer(&[0x40, 7, 0, 0, 0, 0], &table), 1);
    assert_eq!(table.leave(5), None);
}

#[test]
fn a_slot_is_taken_once_and_below_32() {
    let mut table = table(&[(31, true)]);
    assert!(!table.join(31));
    assert!(!table.join(32));
    assert!(!table.set_accepting(3, true));
}

#[test]
fn the_largest_program_fits_the_kernels_limits() {
    let members: Vec<_> = (0..32).map(|slot| (slot, true)).collect();
    assert!(program(&table(&members)).len() < 400);
}
