//! A client's core before a server that has the keys: genuine QUIC as far as the input likes it, and anything else
//! beyond; an application that opens, sends, finishes and abandons in any order.

mod actions;
mod books;
mod run;
mod setup;

pub(crate) use actions::Op;
use moretta_core::Counters;

/// One byte of settings, then actions.
pub fn target(data: &[u8]) {
    run(data);
}

fn run(data: &[u8]) -> Counters {
    run::Run::new(data.first().copied().unwrap_or_default()).finish(data.get(1..).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What came of a seed; so that the harness reaches what it means to.
    fn counters(seed: &str) -> Counters {
        let seeds = crate::seeds::core_client();
        run(&seeds.iter().find(|candidate| candidate.name == seed).unwrap().bytes)
    }

    #[test]
    fn datagrams_pass_both_ways() {
        let counters = counters("both-ways");
        assert_eq!((counters.tunnels_opened, counters.datagrams_to_flows, counters.datagrams_to_peer), (1, 2, 4));
    }

    #[test]
    fn capsules_pass_both_ways() {
        for seed in ["capsules", "capsules-only-here"] {
            let counters = counters(seed);
            assert_eq!((counters.datagrams_from_capsules, counters.datagrams_to_peer_in_capsules), (1, 1), "{seed}");
        }
    }

    #[test]
    fn answers_open_and_refuse() {
        for (seed, opened, refused) in [
            ("refused", 0, 1),
            ("interim-answers", 1, 0),
            ("two-answers", 1, 0),
            ("answers-in-the-wrong-order", 2, 1),
            ("answer-spelled-out", 1, 0),
            ("no-answer", 0, 1),
            ("settings-late", 0, 1),
            ("settings-without-connect", 0, 1),
            ("narrow", 1, 2),
        ] {
            let counters = counters(seed);
            assert_eq!((counters.tunnels_opened, counters.tunnels_refused), (opened, refused), "{seed}");
        }
    }

    #[test]
    fn connections_come_and_go() {
        assert_eq!(counters("second-address").connections_opened, 2);
        assert_eq!(counters("second-address").tunnels_opened, 1);
        assert_eq!(counters("retry").tunnels_opened, 1);
        assert_eq!(counters("connect-again-with-a-token").connections_established, 2);
        assert_eq!(counters("two-gateways").datagrams_to_peer, 1);
        assert_eq!(counters("client-moves").datagrams_to_flows, 1);
        // What comes from elsewhere is not taken (RFC 9000 §9), what comes from there again is.
        assert_eq!(counters("server-moves").datagrams_to_flows, 1);
    }

    /// C-17, H3D-27, H3D-28: there are no remembered settings to be checked, because nothing is sent by them. Every run
    /// looks at every packet; here a server whose ticket allows early data is met again.
    #[test]
    fn a_client_that_resumes_sends_no_early_data() {
        let before = crate::tls::resumed();
        assert_eq!(counters("connect-again").connections_established, 2);
        assert!(crate::tls::resumed() > before, "the second connection did not resume the first");
    }

    #[test]
    fn forged_frames_arrive() {
        assert_eq!(counters("frames-datagrams").datagrams_from_peer, 4);
        assert_eq!(counters("frames-close").connections_closed, 1);
        assert_eq!(counters("frames-stream-of-nobody").connections_closed, 1);
    }
}
