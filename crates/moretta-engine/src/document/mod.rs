//! The documents of the border: everything that control code says to the engine and hears from it, as versioned JSON.
//!
//! Each document is one JSON object with `"version": 1`; an unknown key is an error that names its path. Secrets never
//! appear here: a document refers to one by name, and the bytes arrive through [`crate::Engine::put_secret`].
//! [`describe`] lists every document with its fields, so that the other side can compare its own list with this one.

mod command;
mod config;
mod describe;
mod event;
mod snapshot;

use serde::de::DeserializeOwned;
use serde_json::Value;

pub use command::{
    CloseForward, CloseGateway, Command, Drain, FinishTunnel, Forward, OpenGateway, OpenUdp, Ping, RebindGateway,
    ResetTunnel,
};
pub use config::EngineConfig;
pub use describe::describe;
pub use event::{
    Closed, Counters, Drained, Event, ForwardClosed, ForwardFailed, Forwarding, GatewayClosed, GatewayConnected,
    GatewayFailed, Listening, Pong, PongFailed, RecordClosed, RecordOpened, RecordRefused, SnapshotApplied,
    SnapshotRefused, TunnelClosed, TunnelOpened, TunnelRefused, WorkerRestarted,
};
pub use snapshot::{Listener, Resolver, Snapshot};

use crate::error::EngineError;

/// The version of all documents. A later one is added beside it, never in its place.
pub const VERSION: u64 = 1;

/// A document that goes down: a snapshot to apply, or a command.
#[derive(Debug, Clone)]
pub enum Submission {
    /// Replaces listeners, certificates, policy and limits as one.
    Snapshot(Box<Snapshot>),
    /// One thing to do.
    Command(Box<Command>),
}

impl Submission {
    /// Parses one document; it is a command if it has the key `command`, a snapshot otherwise.
    ///
    /// # Errors
    /// [`EngineError::Document`] with the path of the offending key.
    pub fn parse(bytes: &[u8]) -> Result<Self, EngineError> {
        let mut value = parse_value(bytes)?;
        let Some(object) = value.as_object_mut() else {
            return Err(EngineError::document("", "expected a JSON object"));
        };
        if !object.contains_key("command") {
            return Ok(Self::Snapshot(Box::new(from_value(value)?)));
        }
        Command::from_object(value).map(|command| Self::Command(Box::new(command)))
    }
}

/// Parses one document of a known kind and checks its version.
pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, EngineError> {
    from_value(parse_value(bytes)?)
}

fn parse_value(bytes: &[u8]) -> Result<Value, EngineError> {
    let value: Value = serde_json::from_slice(bytes)
        .map_err(|error| EngineError::document("", format!("not a JSON document: {error}")))?;
    match value.get("version") {
        Some(version) if version.as_u64() == Some(VERSION) => Ok(value),
        Some(version) => {
            Err(EngineError::document("version", format!("this engine speaks version {VERSION}, not {version}")))
        }
        None => Err(EngineError::document("version", format!("missing; this engine speaks version {VERSION}"))),
    }
}

fn from_value<T: DeserializeOwned>(value: Value) -> Result<T, EngineError> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        EngineError::document(if path == "." { "" } else { &path }, error.into_inner().to_string())
    })
}

#[cfg(test)]
mod tests;
