//! Which process a handle belongs to.
//!
//! A forked child has the engine's memory but none of its threads: a call could wait for ever, and a `close` would join
//! threads that do not exist there. Python tells us of each fork; handles of an earlier generation refuse.

use pyo3::prelude::*;
use pyo3::types::{PyCFunction, PyDict, PyTuple};
use std::sync::atomic::{AtomicU64, Ordering};

static FORKS: AtomicU64 = AtomicU64::new(0);

/// The process as it is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process(u64);

impl Process {
    pub(crate) fn current() -> Self {
        Self(FORKS.load(Ordering::Relaxed))
    }

    pub(crate) fn is_current(self) -> bool {
        self == Self::current()
    }
}

/// Has Python count its forks, in the child.
pub(crate) fn watch(py: Python<'_>) -> PyResult<()> {
    let forked = PyCFunction::new_closure(
        py,
        Some(c"forked"),
        None,
        |_: &Bound<'_, PyTuple>, _: Option<&Bound<'_, PyDict>>| {
            FORKS.fetch_add(1, Ordering::Relaxed);
        },
    )?;
    let arguments = PyDict::new(py);
    arguments.set_item("after_in_child", forked)?;
    py.import("os")?.call_method("register_at_fork", (), Some(&arguments))?;
    Ok(())
}
