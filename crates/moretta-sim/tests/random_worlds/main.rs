//! Random worlds: a seed makes a gateway, clients, targets, paths, and everything that happens to them; a model that
//! knows nothing of the cores watches what goes in and comes out.
//!
//! `SEED=n` runs that world alone, `WORLDS=n` so many, `WORLDS_SECONDS=n` as many as fit (`make worlds`).
#![cfg(test)]

#[path = "../common/mod.rs"]
mod common;
mod explorer;
mod model;
mod raw;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use explorer::{Explorer, Story};
use moretta_core::Counters;

/// Worlds that an ordinary test run explores.
const WORLDS: u64 = 200;
/// Where those begin.
const FIRST_SEED: u64 = 1;

/// What must have happened somewhere in an ordinary run, or it has shown little.
const SEEN: [&str; 25] = [
    "packets_forwarded",
    "endpoint_answers",
    "retries_sent",
    "connections_address_validated",
    "refused_connection_limit",
    "refused_draining",
    "failed_handshakes",
    "connections_migrated",
    "tunnels_refused",
    "tunnels_cancelled",
    "requests_rejected",
    "datagrams_to_flows",
    "datagrams_from_capsules",
    "datagrams_to_peer",
    "datagrams_to_peer_lost_mtu_shrank",
    "datagrams_to_peer_in_capsules",
    "up_dropped_no_tunnel",
    "up_dropped_early",
    "down_dropped_queue_full",
    "down_dropped_stale",
    "down_dropped_too_large",
    "down_dropped_closed",
    "down_dropped_at_close",
    "flow_errors_unreachable",
    "turns_coalesced",
];

/// What an exploration found.
#[derive(Default)]
struct Found {
    worlds: u64,
    failed: Vec<u64>,
    counters: Counters,
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// Runs worlds on all cores until it is `enough`.
fn explore(first: u64, enough: impl Fn(u64) -> bool + Sync) -> Found {
    let (next, found) = (AtomicU64::new(0), Mutex::new(Found::default()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if enough(index) {
                        return;
                    }
                    let seed = first + index;
                    let lived = catch_unwind(AssertUnwindSafe(|| Explorer::live(seed)));
                    let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
                    found.worlds += 1;
                    if let Ok(story) = lived {
                        found.counters.add(&story.counters);
                    } else {
                        println!("repeat with SEED={seed}");
                        found.failed.push(seed);
                    }
                }
            });
        }
    });
    found.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Nothing is delivered twice, in the wrong tunnel, or that was not sent; counters add up; queues stay within their
/// bounds; streams progress; and everything ends with nothing left.
#[test]
fn whatever_happens_the_five_properties_hold() {
    let began = Instant::now();
    let found = match (number("SEED"), number("WORLDS_SECONDS")) {
        (Some(seed), None) => explore(seed, |index| index >= 1),
        (seed, Some(seconds)) => {
            // A long run goes where no run went before, unless it is told where to begin.
            let fresh = || std::time::UNIX_EPOCH.elapsed().map_or(0, |time| time.as_secs()) << 20;
            explore(seed.unwrap_or_else(fresh), |_| began.elapsed() >= Duration::from_secs(seconds))
        }
        (None, None) => explore(FIRST_SEED, |index| index >= number("WORLDS").unwrap_or(WORLDS)),
    };
    let Found { worlds, failed, counters } = found;
    println!("{worlds} worlds in {:?}: {counters:?}", began.elapsed());
    assert!(failed.is_empty(), "{} of {worlds} worlds failed, repeat with SEED= one of {failed:?}", failed.len());
    let unseen: Vec<_> = counters.entries().filter(|(name, count)| *count == 0 && SEEN.contains(name)).collect();
    assert!(worlds < WORLDS || unseen.is_empty(), "never seen: {unseen:?}");
}

/// The same seed makes the same packets, bit by bit, at the same times, the same events, the same records and the same counts.
#[test]
fn a_seed_repeats_any_world_exactly() {
    let first = number("SEED").unwrap_or(FIRST_SEED);
    for seed in first..first + 6 {
        println!("repeat with SEED={seed}");
        let (one, other) = (Explorer::live(seed), Explorer::live(seed));
        assert_eq!(one.trace().first_difference(other.trace()), None);
        assert_eq!(one.trace().hash(), other.trace().hash());
        let Story { events, .. } = &one;
        let difference = events.iter().zip(&other.events).find(|(one, other)| one != other);
        assert_eq!(difference, None);
        assert_eq!(events.len(), other.events.len());
        println!("{} packets, trace {:016x}, {} events", one.trace().entries().len(), one.trace().hash(), events.len());
    }
}
