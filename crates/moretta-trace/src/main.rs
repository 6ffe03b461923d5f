//! Runs one trace, with the gateway's work marked for callgrind: `moretta-trace NAME`. Without a name: lists them.
//!
//! Prints one line of JSON. `tools/instructions.py` runs it; by hand:
//!
//! ```text
//! valgrind --tool=callgrind --toggle-collect='moretta_trace::meter::counted*' target/release/moretta-trace up-1200
//! ```

use std::io::Write;
use std::process::ExitCode;

use moretta_trace::{Meter, Spec, TRACES};
use serde_json::{Value, json};

fn main() -> ExitCode {
    let document = match std::env::args().nth(1) {
        None => list(),
        Some(name) => {
            let Some(spec) = TRACES.iter().find(|spec| spec.name == name) else {
                writeln!(std::io::stderr(), "moretta-trace: there is no trace called {name:?}").ok();
                return ExitCode::FAILURE;
            };
            run(spec)
        }
    };
    writeln!(std::io::stdout(), "{document}").ok();
    ExitCode::SUCCESS
}

fn list() -> Value {
    TRACES.iter().map(|spec| json!({"name": spec.name, "item": spec.item, "rounds": spec.rounds})).collect()
}

fn run(spec: &Spec) -> Value {
    let mut trace = (spec.make)();
    let mut meter = Meter::Callgrind;
    let items: u64 = (0..spec.rounds).map(|_| trace.round(&mut meter)).sum();
    json!({"name": spec.name, "item": spec.item, "items": items, "cpu": moretta_trace::cpu_features()})
}
