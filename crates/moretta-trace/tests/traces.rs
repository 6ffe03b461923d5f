//! Every trace does what it says; the counting itself is `make instructions`.

use moretta_trace::{Meter, TRACES};

/// Traces check each round themselves: every datagram arrives whole, in order and at its own tunnel, every connection
/// and tunnel is opened and forgotten, every input is judged as it must be.
#[test]
fn every_trace_delivers_what_it_claims_round_after_round() {
    for spec in TRACES {
        let mut trace = (spec.make)();
        let items: Vec<u64> = (0..5).map(|_| trace.round(&mut Meter::Off)).collect();

        assert!(items[0] > 0, "{} does nothing", spec.name);
        assert!(items.iter().all(|count| *count == items[0]), "{}: {items:?}", spec.name);
    }
}

#[test]
fn a_clock_measures_the_gateway_alone() {
    let spec = TRACES.iter().find(|spec| spec.name == "up-1200").unwrap();
    let mut trace = (spec.make)();
    let mut meter = Meter::Clock(std::time::Duration::ZERO);
    let begin = std::time::Instant::now();
    trace.round(&mut meter);
    let whole = begin.elapsed();

    let Meter::Clock(gateway) = meter else { panic!("another meter: {meter:?}") };
    assert!(!gateway.is_zero() && gateway < whole, "{gateway:?} of {whole:?}");
}

#[test]
fn names_are_unique() {
    let mut names: Vec<_> = TRACES.iter().map(|spec| spec.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), TRACES.len());
}
