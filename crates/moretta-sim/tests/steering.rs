//! The kernel's rule and the core's rule for whose packet it is must be the same rule.
#![cfg(test)]

mod common;

use common::seed;
use moretta_core::{CONNECTION_ID_OCTETS, Destination};
use moretta_io::steering::{CID_BYTES, SLOTS, SteeringTable, steer};
use moretta_sim::Random;

#[test]
fn the_kernel_and_the_core_agree_about_every_packet() {
    assert_eq!(CID_BYTES, CONNECTION_ID_OCTETS);
    let mut random = Random::new(seed(40), "packets");
    let mut seen = [0_u32; 3];
    for _ in 0..50_000 {
        let mut table = SteeringTable::new();
        let mut accepting = Vec::new();
        for slot in 0..SLOTS {
            if random.chance(300) && table.join(slot) {
                let accepts = random.chance(700);
                table.set_accepting(slot, accepts);
                if accepts {
                    accepting.push(slot);
                }
            }
        }
        if table.is_empty() || accepting.is_empty() {
            continue;
        }
        let mut packet: Vec<u8> = random.bytes::<40>().to_vec();
        if random.chance(700) {
            packet[1..5].copy_from_slice(&[0, 0, 0, 1]);
        }
        if random.chance(700) {
            packet[5] = CID_BYTES as u8;
        }
        let slot = table.slot_at(steer(&packet, &table)).unwrap();
        match Destination::of(&packet) {
            Destination::Slot(owner) if table.index_of(owner.get()).is_some() => {
                assert_eq!(slot, owner.get(), "{packet:02x?}");
                seen[0] += 1;
            }
            // An owner that is gone, or a new connection.
            Destination::Slot(_) | Destination::Accepting => {
                assert!(accepting.contains(&slot), "{packet:02x?}");
                seen[1] += 1;
            }
            Destination::Malformed => seen[2] += 1,
        }
    }
    assert!(seen.iter().all(|count| *count > 100), "{seen:?}");
}
