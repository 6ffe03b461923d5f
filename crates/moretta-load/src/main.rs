//! A load generator for CONNECT-UDP gateways in the aggregated arena: a client core over batched sockets, and the target
//! in the same thread. Trains leave as one segmented send and arrive as one coalesced receive, and small datagrams share
//! packets, so that what is measured is the gateway and not the kernel's cost of single packets.
//!
//! It prints one line of JSON with the keys of `benches/driver`. `benches/run.py` runs it; by hand:
//!
//! ```text
//! moretta-load --proxy 127.0.0.1:4433 --ca ca.pem --mode up --size 1200 --rate 0 --tunnels 8 --pid $(pidof …)
//! ```

mod client;
mod machine;
mod report;
mod run;
mod settings;
mod target;

use std::io::Write;
use std::process::ExitCode;

use settings::Settings;

/// What went wrong, in words for whoever started it.
#[derive(Debug)]
pub(crate) struct Failure(pub(crate) String);

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

fn main() -> ExitCode {
    let outcome = Settings::parse(std::env::args().skip(1)).and_then(run::run);
    // A closed pipe leaves nobody to tell.
    match outcome {
        Ok(report) => {
            writeln!(std::io::stdout(), "{report}").ok();
            ExitCode::SUCCESS
        }
        Err(Failure(words)) => {
            writeln!(std::io::stderr(), "moretta-load: {words}").ok();
            ExitCode::FAILURE
        }
    }
}
