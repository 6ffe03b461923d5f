//! A gateway's core before a client that has the keys: genuine QUIC as far as the input likes it, and anything else
//! beyond; answers of shell and targets in any order.

mod actions;
mod books;
mod run;
mod setup;

pub(crate) use actions::Op;
use moretta_core::Counters;
use quinn_proto::ConnectionError;

/// One byte of settings, then actions.
pub fn target(data: &[u8]) {
    run(data);
}

fn run(data: &[u8]) -> (Counters, Option<ConnectionError>) {
    run::Run::new(data.first().copied().unwrap_or_default()).finish(data.get(1..).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use quinn_proto::TransportErrorCode;

    use super::*;

    /// What came of a seed; so that the harness reaches what it means to.
    fn outcome(seed: &str) -> (Counters, Option<ConnectionError>) {
        let seeds = crate::seeds::core_datagrams();
        run(&seeds.iter().find(|candidate| candidate.name == seed).unwrap().bytes)
    }

    fn counters(seed: &str) -> Counters {
        outcome(seed).0
    }

    /// RFC 9221 §3 (H3D-7).
    #[test]
    fn a_datagram_for_a_server_that_takes_none_is_a_protocol_violation() {
        for seed in ["no-datagrams-frame", "no-datagrams-empty-frame"] {
            let (counters, closed) = outcome(seed);
            let Some(ConnectionError::ConnectionClosed(close)) = closed else { panic!("{seed}: {closed:?}") };
            assert_eq!(close.error_code, TransportErrorCode::PROTOCOL_VIOLATION, "{seed}");
            assert_eq!((counters.datagrams_from_peer, counters.tunnels_closed), (0, 1), "{seed}");
        }
    }

    #[test]
    fn datagrams_pass_both_ways() {
        let counters = counters("both-ways");
        assert_eq!((counters.tunnels_opened, counters.datagrams_to_flows, counters.datagrams_to_peer), (1, 2, 4));
    }

    #[test]
    fn forged_frames_arrive() {
        assert_eq!(counters("frames-datagrams").datagrams_from_peer, 4);
        let counters = counters("frames-stream-beyond-limits");
        assert_eq!((counters.connections_closed, counters.connections_established), (1, 1));
    }

    #[test]
    fn clients_move_and_prove_themselves() {
        assert_eq!(counters("client-moves").connections_migrated, 1);
        assert_eq!(counters("retry-always").connections_address_validated, 1);
        assert_eq!(counters("two-clients").connections_established, 2);
    }

    /// quinn-proto takes a final size below what has come, and stumbles over it: that costs its connection alone.
    #[test]
    fn a_fault_of_the_library_ends_its_connection_and_no_other() {
        let counters = counters("frames-final-size-shrinks");
        assert_eq!((counters.panicked_connections, counters.panicked_endpoints), (1, 0), "{counters:?}");
        assert_eq!(counters.connections_closed, 1);
    }

    #[test]
    fn flows_fail_and_flood() {
        assert!(counters("flood-from-target").down_dropped_queue_full > 0);
        assert_eq!(counters("target-gone").tunnels_closed, 1);
        let names = counters("names-that-fail");
        assert_eq!((names.tunnels_refused, names.tunnels_opened), (2, 1));
        assert_eq!(counters("policy-changes").tunnels_opened, 2);
    }
}
