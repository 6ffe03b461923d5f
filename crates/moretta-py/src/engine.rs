//! The handle of an engine.

use crate::fault;
use crate::fork::Process;
use crate::tunnel::Tunnel;
use moretta_engine::EngineError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use std::sync::Arc;

/// A running engine; every method may be called from any thread, and only `close` waits.
#[pyclass(frozen, weakref, module = "moretta._engine")]
pub(crate) struct Engine {
    inner: Arc<moretta_engine::Engine>,
    process: Process,
}

impl Engine {
    fn inner(&self) -> PyResult<&moretta_engine::Engine> {
        if self.process.is_current() {
            Ok(&self.inner)
        } else {
            Err(fault::closed("the engine belongs to the process that was forked"))
        }
    }
}

#[pymethods]
impl Engine {
    /// Starts the threads of an engine that does not listen yet. `config`: an engine configuration document.
    #[new]
    #[pyo3(signature = (config, /))]
    fn new(py: Python<'_>, config: &[u8]) -> PyResult<Self> {
        let inner = fault::detached(py, || moretta_engine::Engine::start(config))?;
        Ok(Self { inner: Arc::new(inner), process: Process::current() })
    }

    /// Whether `close` was called.
    #[getter]
    fn closed(&self) -> bool {
        !self.process.is_current() || self.inner.is_closed()
    }

    /// A descriptor that is readable while something may wait; watch it, never read it.
    fn fileno(&self) -> PyResult<i32> {
        Ok(self.inner()?.event_fd())
    }

    /// Keeps secret bytes under a name that documents refer to.
    #[pyo3(signature = (name, secret, /))]
    fn put_secret(&self, py: Python<'_>, name: &str, secret: &[u8]) -> PyResult<()> {
        let inner = self.inner()?;
        fault::detached(py, || inner.put_secret(name, secret))
    }

    /// Takes a snapshot or a command; what becomes of it is told by events.
    #[pyo3(signature = (document, /))]
    fn submit(&self, py: Python<'_>, document: &[u8]) -> PyResult<()> {
        let inner = self.inner()?;
        fault::detached(py, || inner.submit(document))
    }

    /// Up to `limit` events, oldest first, each one JSON document.
    #[pyo3(signature = (limit, /))]
    fn take_events<'py>(&self, py: Python<'py>, limit: usize) -> PyResult<Vec<Bound<'py, PyBytes>>> {
        let inner = self.inner()?;
        let events = fault::guarded(|| inner.take_events(limit))?;
        Ok(events.iter().map(|event| PyBytes::new(py, event)).collect())
    }

    /// Up to `limit` tokens of tunnels that have datagrams to read or changed their state.
    #[pyo3(signature = (limit, /))]
    fn take_ready(&self, limit: usize) -> PyResult<Vec<u64>> {
        let inner = self.inner()?;
        fault::guarded(|| inner.take_ready(limit))
    }

    /// All counters by reason and all gauges, as one JSON document.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let inner = self.inner()?;
        let stats = fault::detached(py, || Ok::<_, EngineError>(inner.stats()))?;
        Ok(PyBytes::new(py, &stats))
    }

    /// The queues of a tunnel, until it ended and was taken.
    #[pyo3(signature = (token, /))]
    fn tunnel(&self, token: u64) -> PyResult<Option<Tunnel>> {
        Ok(self.inner()?.tunnel(token).map(|queue| Tunnel::new(queue, self.process)))
    }

    /// Ends everything at once and joins the engine's threads; a second call does nothing.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        let inner = self.inner()?;
        fault::detached(py, || {
            inner.close();
            Ok::<_, EngineError>(())
        })
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if !self.process.is_current() {
            // The engine closes when it is dropped, and the threads that it would join did not survive the fork: in
            // the child it is never dropped. (In the parent it is, and its threads never take the GIL, so that joining
            // them with the GIL held cannot deadlock.)
            std::mem::forget(Arc::clone(&self.inner));
        }
    }
}
