//! The traces in nanoseconds, the gateway's part alone: `make bench-micro ARGS=up-1200`.
#![allow(missing_docs, reason = "criterion's macros write functions without")]

use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use moretta_trace::{Meter, TRACES};

fn traces(criterion: &mut Criterion) {
    for spec in TRACES {
        let mut group = criterion.benchmark_group(spec.name);
        let mut trace = None;
        // The items of a round are known once one has been done.
        let items = (spec.make)().round(&mut Meter::Off);
        group.throughput(Throughput::Elements(items));
        group.bench_function(spec.item, |bencher| {
            let trace = trace.get_or_insert_with(spec.make);
            bencher.iter_custom(|rounds| {
                let mut meter = Meter::Clock(Duration::ZERO);
                for _ in 0..rounds {
                    trace.round(&mut meter);
                }
                if let Meter::Clock(time) = meter { time } else { Duration::ZERO }
            });
        });
        group.finish();
    }
}

criterion_group! {
    name = all;
    config = Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    targets = traces
}
criterion_main!(all);
