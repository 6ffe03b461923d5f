//! The Python module `moretta._engine`: handles and bytes.
//!
//! Holds no protocol logic and never holds the GIL while it waits. `python/moretta/engine.py` is its only importer.

use pyo3::prelude::*;

/// The version of the engine, from Cargo.toml.
#[pyfunction]
fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

/// `moretta._engine`.
#[pymodule(gil_used = false)]
fn _engine(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(version, module)?)?;
    Ok(())
}
