//! What can be wrong with a call to the engine.

use thiserror::Error;

/// Why the engine refuses a call. Each is one sentence with its remedy; `code` is stable.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum EngineError {
    /// A document is not one of ours, or a value in it is not allowed.
    #[error("{}{message}", at(path))]
    Document {
        /// Path of the offending value, e.g. `listeners[0].certificate_pem`; empty for the whole.
        path: String,
        /// What was expected and what came.
        message: String,
    },
    /// Another process listens there.
    #[error("{}{address} is in use: stop the other program or choose another port", at(path))]
    PortInUse {
        /// Path of the address in its document.
        path: String,
        /// The address.
        address: std::net::SocketAddr,
    },
    /// The system does not let this user do that.
    #[error("{}no permission to {what}: run as a user that may, or choose another value", at(path))]
    Permission {
        /// Path in the document.
        path: String,
        /// What was tried.
        what: String,
    },
    /// A system call failed.
    #[error("{}could not {what}: {error}", at(path))]
    System {
        /// Path in the document.
        path: String,
        /// What was tried.
        what: String,
        /// The system's words.
        error: String,
    },
    /// The engine does not know that number.
    #[error("there is no {what} {id}: it was never opened, or has ended")]
    Unknown {
        /// `gateway`, `tunnel` or `forward`.
        what: &'static str,
        /// The caller's number.
        id: u64,
    },
    /// The number is taken.
    #[error("{what} {id} is already open: choose another number")]
    Taken {
        /// `gateway`, `tunnel` or `forward`.
        what: &'static str,
        /// The caller's number.
        id: u64,
    },
    /// Too much waits already.
    #[error("the engine's inbox is full ({limit} documents wait): take events, then try again")]
    Busy {
        /// The bound.
        limit: usize,
    },
    /// The engine was closed.
    #[error("the engine is closed: start another one")]
    Closed,
}

fn at(path: &str) -> String {
    if path.is_empty() { String::new() } else { format!("{path}: ") }
}

impl EngineError {
    /// A word that stays the same over versions.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Document { .. } => "invalid_document",
            Self::PortInUse { .. } => "port_in_use",
            Self::Permission { .. } => "permission_denied",
            Self::System { .. } => "system_error",
            Self::Unknown { .. } => "unknown_number",
            Self::Taken { .. } => "number_taken",
            Self::Busy { .. } => "engine_busy",
            Self::Closed => "engine_closed",
        }
    }

    /// Path of the value at fault; empty if no single value is.
    pub fn path(&self) -> &str {
        match self {
            Self::Document { path, .. }
            | Self::PortInUse { path, .. }
            | Self::Permission { path, .. }
            | Self::System { path, .. } => path,
            Self::Unknown { .. } | Self::Taken { .. } | Self::Busy { .. } | Self::Closed => "",
        }
    }

    /// A value in a document that is not allowed.
    pub(crate) fn document(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Document { path: path.into(), message: message.into() }
    }
}
