//! Where a peer is: which of its addresses is proved, and how much may be sent to one that is not (RFC 9000 §8, §9.3).
//!
//! Whoever has a connection may write any sender on its packets. So an address is believed, in records and shares, only
//! once the peer was shown to receive there; and what goes to another is paid for beforehand, byte by byte.

use std::net::SocketAddr;

use quinn_proto::ConnectionEvent;

use crate::connection::Connection;

/// How many bytes may go to an address that is not proved for each that came from there.
const AMPLIFICATION: u64 = 3;

/// Bytes that may go there in advance at most: eight packets.
const MAX_ADVANCE: u64 = 8 * 1452;

/// What is known about the addresses of one peer.
#[derive(Debug)]
pub(crate) struct PeerAddress {
    /// The last one that is proved; that of the handshake until there is one.
    known: SocketAddr,
    is_proved: bool,
    /// The last other one.
    claimed: Claimed,
    /// Bytes that came from the proved address and are not used up by advances; no more than a few packets' worth.
    paid: u64,
    /// The library has begun a new path and was not seen to hold it to be validated. It does so also when the peer comes
    /// back to the address that is proved.
    is_validating: bool,
}

/// An address that is not proved.
#[derive(Debug)]
struct Claimed {
    address: SocketAddr,
    received: u64,
    sent: u64,
}

impl Claimed {
    fn new(address: SocketAddr, received: u64) -> Self {
        Self { address, received, sent: 0 }
    }

    /// Bytes that may still go there.
    fn left(&self, to: SocketAddr) -> u64 {
        if self.address != to {
            return 0;
        }
        self.received.saturating_mul(AMPLIFICATION).saturating_sub(self.sent)
    }
}

impl PeerAddress {
    /// A client whose handshake begins with `received` bytes from `address`.
    pub(crate) fn claimed(address: SocketAddr, received: u64) -> Self {
        Self {
            known: address,
            is_proved: false,
            claimed: Claimed::new(address, received),
            paid: 0,
            is_validating: false,
        }
    }

    /// A server, which is where it was connected to; or a client with a token from there.
    pub(crate) fn proved(address: SocketAddr) -> Self {
        Self { is_proved: true, ..Self::claimed(address, 0) }
    }

    /// The address to put into records: the last that is proved. Before the end of a handshake, which proves that of the
    /// handshake, nothing is asked for.
    pub(crate) fn known(&self) -> SocketAddr {
        self.known
    }

    #[inline]
    pub(crate) fn is_proved(&self, address: SocketAddr) -> bool {
        self.is_proved && self.known == address
    }

    /// The peer was shown to receive here.
    pub(crate) fn prove(&mut self, address: SocketAddr) {
        self.known = address;
        self.is_proved = true;
        if self.claimed.address == address {
            self.paid = self.claimed.received.min(MAX_ADVANCE);
        }
    }

    /// The library has changed the address that it sends to.
    pub(crate) fn moved(&mut self) {
        self.is_validating = true;
    }

    #[inline]
    pub(crate) fn is_validating(&self) -> bool {
        self.is_validating
    }

    /// The library holds this address to be validated.
    fn settled(&mut self, address: SocketAddr) {
        self.is_validating = false;
        // Proved once, it has had its advance.
        if !self.is_proved(address) {
            self.prove(address);
        }
    }

    /// A packet for the connection came from this address.
    #[inline]
    pub(crate) fn received(&mut self, from: SocketAddr, bytes: usize) {
        let bytes = bytes as u64;
        if self.is_proved(from) {
            self.paid = (self.paid + bytes).min(MAX_ADVANCE);
        } else if self.claimed.address == from {
            self.claimed.received += bytes;
        } else {
            // One is remembered: who claims many loses what was left of the others.
            self.claimed = Claimed::new(from, bytes);
        }
    }

    /// How many packets of at most `packet` bytes may go to an address.
    #[inline]
    pub(crate) fn packets_to(&self, to: SocketAddr, packet: usize) -> usize {
        if self.is_proved(to) {
            return usize::MAX;
        }
        let packet = packet as u64;
        let packets = self.claimed.left(to).checked_div(packet).unwrap_or(0);
        packets.max(u64::from(self.may_advance(packet))) as usize
    }

    /// Counts a packet train; false if it must not go.
    #[inline]
    pub(crate) fn may_send(&mut self, to: SocketAddr, bytes: usize) -> bool {
        if self.is_proved(to) {
            return true;
        }
        let bytes = bytes as u64;
        if self.claimed.left(to) < bytes {
            if !self.may_advance(bytes) {
                return false;
            }
            self.paid -= bytes;
        }
        if self.claimed.address == to {
            self.claimed.sent += bytes;
        }
        true
    }

    /// The library pads a PATH_CHALLENGE to 1,200 bytes also where RFC 9000 §8.2.1 wants a small one. A client behind a
    /// translator that forgot it, and that has only small packets to send, would wait for long until three times their
    /// bytes make one such packet. So a client that has sent as much from its proved address may have such packets in
    /// advance, a few because some are lost: who makes us send to a stranger has spent as many bytes as the stranger gets.
    fn may_advance(&self, bytes: u64) -> bool {
        self.is_proved && self.paid >= bytes
    }
}

/// Looks at what the library writes to find out whether it holds an address to be proved: while it does not, each packet
/// there carries a PATH_CHALLENGE. It says so in no other way; that a PATH_RESPONSE came means nothing, since anybody can
/// make one up.
pub(crate) struct Watch {
    challenges: u64,
    probes: u64,
}

impl Watch {
    /// Before a packet is asked for. `None` where there is nothing to find out.
    #[inline]
    pub(crate) fn begin(connection: &Connection) -> Option<Self> {
        let address = &connection.address;
        if address.is_proved(connection.quic.remote_address()) && !address.is_validating() {
            return None;
        }
        let stats = connection.quic.stats();
        Some(Self { challenges: stats.frame_tx.path_challenge, probes: stats.path.sent_plpmtud_probes })
    }

    /// After the library has written packets to `to`.
    pub(crate) fn end(self, connection: &mut Connection, to: SocketAddr) {
        // Probes of the path's MTU and the last words of a connection are written apart from all other frames; answers
        // to challenges go to any address.
        let stats = connection.quic.stats();
        if stats.frame_tx.path_challenge == self.challenges
            && stats.path.sent_plpmtud_probes == self.probes
            && to == connection.quic.remote_address()
            && !connection.quic.is_closed()
            && !connection.quic.is_handshaking()
        {
            connection.address.settled(to);
        }
    }
}

/// Hands a packet to the library, and asks it for a PING in return while it validates a path.
///
/// On such a path the library (0.11.19) puts a PATH_CHALLENGE into each packet and pads it, but does not count it as
/// ack-eliciting if there was nothing but an ACK to send. Lost, such packets are in flight for good: nobody waits for
/// them, no probe follows, and once they fill the window even an ACK stays behind when there is data to go with it. With
/// a PING they count as what they are (RFC 9000 §13.2.1).
#[inline]
pub(crate) fn hand_over(connection: &mut Connection, event: ConnectionEvent) {
    let before = connection.quic.remote_address();
    connection.quic.handle_event(event);
    if connection.quic.remote_address() != before {
        connection.address.moved();
    }
    if connection.address.is_validating() {
        connection.quic.ping();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACKET: usize = 1200;

    fn address(port: u16) -> SocketAddr {
        ([192, 0, 2, 1], port).into()
    }

    /// K-36.
    #[test]
    fn before_its_handshake_ends_a_client_gets_three_times_what_it_sent_and_nothing_in_advance() {
        let home = address(1);
        let mut peer = PeerAddress::claimed(home, 1200);
        assert_eq!(peer.packets_to(home, PACKET), 3);
        assert!(peer.may_send(home, 3 * PACKET));
        assert!(!peer.may_send(home, 1));
        peer.received(home, 399);
        assert_eq!(peer.packets_to(home, PACKET), 0);
        peer.received(home, 1);
        assert_eq!(peer.packets_to(home, PACKET), 1);
        peer.prove(home);
        assert_eq!(peer.packets_to(home, PACKET), usize::MAX);
        assert!(peer.may_send(home, 100 * PACKET));
        assert_eq!(peer.packets_to(address(2), PACKET), 1, "its handshake has paid for a packet");
    }

    /// K-36: what was not paid for at the proved address is not sent to another.
    #[test]
    fn a_claimed_address_gets_three_times_its_bytes_and_a_few_packets_for_as_many_bytes_of_the_proved_one() {
        let (home, elsewhere) = (address(1), address(2));
        let mut peer = PeerAddress::proved(home);
        assert_eq!(peer.packets_to(elsewhere, PACKET), 0, "nothing came from there");
        peer.received(elsewhere, 30);
        assert!(!peer.may_send(elsewhere, PACKET));
        assert!(peer.may_send(elsewhere, 90));
        peer.received(home, PACKET);
        assert_eq!(peer.packets_to(elsewhere, PACKET), 1);
        assert!(peer.may_send(elsewhere, PACKET));
        assert!(!peer.may_send(elsewhere, PACKET));
        peer.received(elsewhere, PACKET);
        assert_eq!(peer.packets_to(elsewhere, PACKET), 2, "the advance counts against it");
        assert!(peer.may_send(elsewhere, 2 * PACKET));
        // However much was paid before, they are few.
        peer.received(home, 100 * PACKET);
        let advance = (0..100).take_while(|_| peer.may_send(elsewhere, PACKET)).count();
        assert_eq!(advance, 9);
        assert_eq!(peer.packets_to(address(3), PACKET), 0, "nor for a third address");
    }

    /// K-36: who claims one address after the other wins nothing.
    #[test]
    fn a_claim_forgotten_for_another_begins_with_nothing() {
        let (first, second) = (address(2), address(3));
        let mut peer = PeerAddress::proved(address(1));
        peer.received(first, 1200);
        peer.received(second, 10);
        assert_eq!(peer.packets_to(first, PACKET), 0);
        peer.received(first, 10);
        assert!(peer.may_send(first, 30));
        assert!(!peer.may_send(first, 1));
    }

    /// K-36: a path back to the proved address is validated too, but proves nothing new.
    #[test]
    fn who_comes_back_to_the_proved_address_has_no_other_advance() {
        let home = address(1);
        let mut peer = PeerAddress::claimed(home, 1200);
        peer.prove(home);
        peer.received(address(2), 0);
        assert!(peer.may_send(address(2), PACKET));
        peer.received(home, 0);
        peer.moved();
        assert!(peer.is_validating());
        peer.settled(home);
        assert!(!peer.is_validating());
        assert_eq!(peer.packets_to(address(2), PACKET), 0);
    }
}
