//! How the engine's errors, and panics of our own code, become Python exceptions.

use moretta_engine::EngineError;
use pyo3::import_exception;
use pyo3::prelude::*;
use std::panic::{AssertUnwindSafe, catch_unwind};

import_exception!(moretta.errors, EngineClosed);
import_exception!(moretta.errors, EngineFault);

/// Runs `call` without the GIL.
///
/// # Errors
/// What `call` returned, or `EngineFault` when it panicked: a bug of ours ends one call and never the interpreter.
pub(crate) fn detached<T: Send>(py: Python<'_>, call: impl FnOnce() -> Result<T, EngineError> + Send) -> PyResult<T> {
    py.detach(|| guarded(call)).and_then(|result| result.map_err(|error| raised(&error)))
}

/// Runs `call` and turns a panic into `EngineFault`.
pub(crate) fn guarded<T>(call: impl FnOnce() -> T) -> PyResult<T> {
    // What a panicking call leaves behind is behind locks that recover, or is dropped with the call.
    catch_unwind(AssertUnwindSafe(call)).map_err(|panic| {
        let words = panic
            .downcast_ref::<&str>()
            .map(ToString::to_string)
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_default();
        EngineFault::new_err((format!("the engine panicked, which is a bug: {words}"), "panic", ""))
    })
}

/// A handle whose owner is gone.
pub(crate) fn closed(why: &'static str) -> PyErr {
    EngineClosed::new_err(why)
}

fn raised(error: &EngineError) -> PyErr {
    if matches!(error, EngineError::Closed) {
        return closed("the engine is closed");
    }
    EngineFault::new_err((error.to_string(), error.code(), error.path().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use pyo3::types::PyList;

    /// Runs with the package's own errors, which need nothing but Python.
    fn with_package(test: impl FnOnce(Python<'_>)) {
        Python::initialize();
        Python::attach(|py| {
            let path = py.import("sys").unwrap().getattr("path").unwrap();
            path.cast::<PyList>().unwrap().insert(0, concat!(env!("CARGO_MANIFEST_DIR"), "/../../python")).unwrap();
            test(py);
        });
    }

    #[test]
    fn a_panic_is_an_exception_and_no_end_of_the_interpreter() {
        with_package(|py| {
            let error = guarded(|| panic!("found {}", 7)).unwrap_err();
            assert!(error.is_instance_of::<EngineFault>(py));
            assert!(error.to_string().contains("bug: found 7"), "{error}");
            assert_eq!(error.value(py).getattr("code").unwrap().to_string(), "panic");
            let error = detached(py, || -> Result<(), EngineError> { panic!("without the GIL") }).unwrap_err();
            assert!(error.is_instance_of::<EngineFault>(py));
        });
    }

    #[test]
    fn an_error_of_the_engine_keeps_its_code_and_path() {
        with_package(|py| {
            let error = detached(py, || -> Result<(), EngineError> {
                Err(EngineError::Document { path: "workers".into(), message: "must be 1 to 32".into() })
            })
            .unwrap_err();
            let value = error.value(py);
            assert_eq!(value.getattr("code").unwrap().to_string(), "invalid_document");
            assert_eq!(value.getattr("path").unwrap().to_string(), "workers");
            let error = detached(py, || -> Result<(), EngineError> { Err(EngineError::Closed) }).unwrap_err();
            assert!(error.is_instance_of::<EngineClosed>(py));
        });
    }
}
