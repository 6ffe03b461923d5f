//! The handle of a client tunnel's datagrams.

use crate::fault;
use crate::fork::Process;
use moretta_engine::{SendOutcome, TunnelQueue};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::PyBytes;
use std::sync::Arc;

const QUEUED: u8 = 0;
const DROPPED: u8 = 1;
const TOO_LARGE: u8 = 2;
const CLOSED: u8 = 3;

/// The two datagram queues of one client tunnel; nothing here waits.
#[pyclass(frozen, module = "moretta._engine")]
pub(crate) struct Tunnel {
    queue: Arc<TunnelQueue>,
    process: Process,
}

impl Tunnel {
    pub(crate) fn new(queue: Arc<TunnelQueue>, process: Process) -> Self {
        Self { queue, process }
    }

    fn queue(&self) -> PyResult<&TunnelQueue> {
        // A fork may have copied a held lock, which nobody would ever release in the child.
        if self.process.is_current() {
            Ok(&self.queue)
        } else {
            Err(fault::closed("the tunnel belongs to the process that was forked"))
        }
    }
}

#[pymethods]
impl Tunnel {
    /// Largest UDP payload in bytes that one QUIC packet can carry now.
    #[getter]
    fn max_datagram_size(&self) -> PyResult<usize> {
        Ok(self.queue()?.max_datagram_bytes())
    }

    /// Queues one payload towards the target: `QUEUED`, `DROPPED` (the queue is full), `TOO_LARGE` or `CLOSED`.
    #[pyo3(signature = (datagram, /))]
    fn send(&self, datagram: &[u8]) -> PyResult<u8> {
        let queue = self.queue()?;
        fault::guarded(|| code(queue.send(datagram)))
    }

    /// Queues payloads in order until one is too large or the tunnel is closed.
    ///
    /// Returns how many were dealt with, and why it stopped: `QUEUED` (all were), `TOO_LARGE` or `CLOSED`. Dropped
    /// ones count as dealt with.
    #[pyo3(signature = (datagrams, /))]
    #[expect(clippy::needless_pass_by_value, reason = "PyO3 hands over what it extracted")]
    fn send_many(&self, datagrams: Vec<PyBackedBytes>) -> PyResult<(usize, u8)> {
        let queue = self.queue()?;
        fault::guarded(|| {
            for (count, datagram) in datagrams.iter().enumerate() {
                match queue.send(datagram) {
                    SendOutcome::Queued | SendOutcome::Dropped => {}
                    stop @ (SendOutcome::TooLarge { .. } | SendOutcome::Closed) => return (count, code(stop)),
                }
            }
            (datagrams.len(), QUEUED)
        })
    }

    /// The oldest received payload, or None.
    fn recv<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let queue = self.queue()?;
        fault::guarded(|| {
            let mut received = None;
            queue.receive_many(1, |datagram| received = Some(PyBytes::new(py, datagram)));
            received
        })
    }

    /// Up to `limit` received payloads, oldest first.
    #[pyo3(signature = (limit, /))]
    fn recv_many<'py>(&self, py: Python<'py>, limit: usize) -> PyResult<Vec<Bound<'py, PyBytes>>> {
        let queue = self.queue()?;
        fault::guarded(|| {
            let mut received = Vec::new();
            queue.receive_many(limit, |datagram| received.push(PyBytes::new(py, datagram)));
            received
        })
    }

    /// Datagrams sent, dropped on the way in, received, and dropped because nobody took them.
    fn counters(&self) -> PyResult<(u64, u64, u64, u64)> {
        let counters = self.queue()?.counters();
        Ok((counters.sent, counters.send_dropped, counters.received, counters.receive_dropped))
    }
}

fn code(outcome: SendOutcome) -> u8 {
    match outcome {
        SendOutcome::Queued => QUEUED,
        SendOutcome::Dropped => DROPPED,
        SendOutcome::TooLarge { .. } => TOO_LARGE,
        SendOutcome::Closed => CLOSED,
    }
}

pub(crate) fn add_outcomes(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("QUEUED", QUEUED)?;
    module.add("DROPPED", DROPPED)?;
    module.add("TOO_LARGE", TOO_LARGE)?;
    module.add("CLOSED", CLOSED)
}
