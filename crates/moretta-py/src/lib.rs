//! The Python module `moretta._engine`: handles and bytes.
//!
//! Holds no protocol logic and never holds the GIL while it waits: the only call that waits at all is `Engine.close`.
//! Handles refuse to work in a process that was forked from the one that made them, because the engine's threads did
//! not come along. Its only importer is `python/moretta/engine.py`; `python/moretta/_engine.pyi` describes it, and a
//! test compares the two.

mod engine;
mod fault;
mod fork;
mod positions;
mod questions;
mod tunnel;

use pyo3::prelude::*;

/// `moretta._engine`.
#[pymodule(gil_used = false)]
fn _engine(module: &Bound<'_, PyModule>) -> PyResult<()> {
    fork::watch(module.py())?;
    module.add_class::<engine::Engine>()?;
    module.add_class::<tunnel::Tunnel>()?;
    tunnel::add_outcomes(module)?;
    questions::add_functions(module)
}
