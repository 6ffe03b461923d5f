//! Our connection IDs: 9 octets, the first of which steers.
//!
//! Octet 0 is the slot (low five bits) and the QUIC-LB configuration (high three); eight unpredictable octets follow.
//! The steering program of the listening sockets reads the same octet at the same place ([`Destination`]).

use std::time::Duration;

use quinn_proto::{ConnectionId, ConnectionIdGenerator};

use crate::ids::SlotId;
use crate::random::Generator;

/// Octets of every connection ID that we issue.
pub const CONNECTION_ID_OCTETS: usize = 9;

/// No load balancer decodes our IDs: the value that draft-ietf-quic-load-balancers reserves for that.
pub(crate) const UNROUTABLE_CONFIGURATION: u8 = 0b111;

/// Issues connection IDs of one slot.
pub(crate) struct SlotCids {
    octet: u8,
    generator: Generator,
}

impl SlotCids {
    pub(crate) fn new(slot: SlotId, configuration: u8, generator: Generator) -> Self {
        Self { octet: (configuration << 5) | slot.get(), generator }
    }
}

impl ConnectionIdGenerator for SlotCids {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut id = [0; CONNECTION_ID_OCTETS];
        if let Some((first, rest)) = id.split_first_mut() {
            *first = self.octet;
            rest.copy_from_slice(&self.generator.take::<{ CONNECTION_ID_OCTETS - 1 }>());
        }
        ConnectionId::new(&id)
    }

    fn cid_len(&self) -> usize {
        CONNECTION_ID_OCTETS
    }

    // `None`: an ID lives as long as its connection. Rotation is asked for by the peer's migration.
    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// Where a UDP payload on a listener's link goes before any endpoint sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Starts a connection (Initial or 0-RTT packet): any accepting slot.
    Accepting,
    /// The slot named by the destination connection ID.
    Slot(SlotId),
    /// Too short to hold a connection ID of ours.
    Malformed,
}

/// First octet of a QUIC packet: the bit that tells long from short headers (RFC 9000 §17).
const LONG_HEADER: u8 = 0x80;
/// Version 1: the two bits that tell long packet types apart; 0 is Initial, 1 is 0-RTT (RFC 9000 §17.2).
const LONG_TYPE: u8 = 0x30;
const LONG_TYPE_0RTT: u8 = 0x10;
/// Where the destination connection ID's length and first octet stand in a long header: after flags and version.
const LONG_DCID_LENGTH_AT: usize = 5;
const LONG_DCID_AT: usize = 6;
/// Where the destination connection ID starts in a short header: after the flags.
const SHORT_DCID_AT: usize = 1;

impl Destination {
    /// Reads a packet's header no further than its first destination octet. The same rule is in the steering program
    /// of the listening sockets, which misses it only while sockets join or leave.
    ///
    /// Packets of versions that we do not speak go to any slot: the answer is a version negotiation, without state.
    #[must_use]
    pub fn of(packet: &[u8]) -> Self {
        let Some(&first) = packet.first() else { return Self::Malformed };
        if first & LONG_HEADER == 0 {
            return if packet.len() > CONNECTION_ID_OCTETS {
                packet.get(SHORT_DCID_AT).map_or(Self::Malformed, |&octet| Self::Slot(SlotId::of_octet(octet)))
            } else {
                Self::Malformed
            };
        }
        let Some(&length) = packet.get(LONG_DCID_LENGTH_AT) else { return Self::Malformed };
        if first & LONG_TYPE <= LONG_TYPE_0RTT || packet.get(1..LONG_DCID_LENGTH_AT) != Some(&[0, 0, 0, 1]) {
            return Self::Accepting;
        }
        // Handshake packets carry an ID that we chose.
        if usize::from(length) != CONNECTION_ID_OCTETS {
            return Self::Malformed;
        }
        packet.get(LONG_DCID_AT).map_or(Self::Malformed, |&octet| Self::Slot(SlotId::of_octet(octet)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn short(octet: u8) -> Vec<u8> {
        let mut packet = vec![0x40, octet];
        packet.extend_from_slice(&[9; 30]);
        packet
    }

    fn long(first: u8, version: u32, dcid: &[u8]) -> Vec<u8> {
        let mut packet = vec![first];
        packet.extend_from_slice(&version.to_be_bytes());
        packet.push(dcid.len() as u8);
        packet.extend_from_slice(dcid);
        packet.extend_from_slice(&[0; 40]);
        packet
    }

    #[test]
    fn every_issued_id_names_its_slot_and_no_two_are_alike() {
        let slot = SlotId::new(19).unwrap();
        let mut cids = SlotCids::new(slot, UNROUTABLE_CONFIGURATION, Generator::new(&[3; 32], "cid", 0));
        let ids: std::collections::BTreeSet<Vec<u8>> = (0..1000).map(|_| cids.generate_cid().to_vec()).collect();
        assert_eq!(ids.len(), 1000);
        for id in ids {
            assert_eq!(id.len(), CONNECTION_ID_OCTETS);
            assert_eq!(SlotId::of_octet(id[0]), slot);
            assert_eq!(id[0] >> 5, UNROUTABLE_CONFIGURATION);
        }
    }

    #[test]
    fn short_headers_go_to_the_slot_in_their_connection_id() {
        for octet in 0..=255_u8 {
            assert_eq!(Destination::of(&short(octet)), Destination::Slot(SlotId::new(octet & 31).unwrap()));
        }
    }

    #[test]
    fn initial_and_0rtt_start_a_connection_and_handshake_packets_belong_to_a_slot() {
        let dcid = [0xe5; 9];
        assert_eq!(Destination::of(&long(0xc3, 1, &dcid)), Destination::Accepting);
        assert_eq!(Destination::of(&long(0xd3, 1, &dcid)), Destination::Accepting);
        assert_eq!(Destination::of(&long(0xe3, 1, &dcid)), Destination::Slot(SlotId::new(5).unwrap()));
        assert_eq!(Destination::of(&long(0xe3, 1, &dcid[..8])), Destination::Malformed, "not an ID of ours");
        assert_eq!(Destination::of(&long(0xe3, 0x6b33_43cf, &dcid)), Destination::Accepting, "other versions");
    }

    #[test]
    fn whatever_is_cut_short_is_malformed_and_never_a_panic() {
        for packet in [short(1), long(0xe3, 1, &[5; 9])] {
            for end in 0..packet.len() {
                std::hint::black_box(Destination::of(&packet[..end]));
            }
            assert_eq!(Destination::of(&packet[..6.min(packet.len())]), Destination::Malformed);
        }
        assert_eq!(Destination::of(&[]), Destination::Malformed);
    }
}
