//! What a trace counts, and what it leaves out.

use std::hint::black_box;
use std::time::{Duration, Instant};

/// What is done with the gateway's work. Everything else in a trace (the client, the links, the checks) is never measured.
#[derive(Clone, Copy, Debug)]
pub enum Meter {
    /// Nothing: while a trace warms up, and in tests.
    Off,
    /// It passes through one function, at which callgrind switches its counting on and off.
    Callgrind,
    /// Its time is added up.
    Clock(Duration),
}

impl Meter {
    /// Runs a piece of the gateway's work.
    pub(crate) fn run<R>(&mut self, work: impl FnOnce() -> R) -> R {
        match self {
            Self::Off => apart(work),
            Self::Callgrind => counted(work),
            Self::Clock(total) => {
                let begin = Instant::now();
                let result = apart(work);
                *total += begin.elapsed();
                result
            }
        }
    }
}

/// Callgrind counts from the entry of this function to its return: `tools/instructions.py` names it.
#[inline(never)]
fn counted<R>(work: impl FnOnce() -> R) -> R {
    black_box(apart(work))
}

/// One copy of the work for all meters: what is counted is what was warm before, and no second call lets the compiler
/// treat one of them differently.
#[inline(never)]
fn apart<R>(work: impl FnOnce() -> R) -> R {
    black_box(work())
}
