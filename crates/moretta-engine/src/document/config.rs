//! What is fixed for the life of an engine.

use serde::{Deserialize, Serialize};

/// The first document: what is fixed for the life of an engine.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EngineConfig {
    /// Always 1.
    pub version: u64,
    /// Worker threads, 1 to 32; absent or null means one per core this process may use.
    #[serde(default)]
    pub workers: Option<usize>,
}
