//! TLS configurations of clients, kept with their sessions for the whole process: whoever connects to a gateway again
//! resumes, also with another engine.

use crate::border::lock;
use crate::error::EngineError;
use crate::tls::{Trust, client_config};
use rustls::ClientConfig;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

/// Configurations that are kept, the latest at the end.
const KEPT: usize = 64;

/// Sessions belong to a name, a port and what was believed when they began: resuming one verifies no certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) server_name: String,
    pub(crate) port: u16,
    pub(crate) trust: Trust,
}

/// Guards the configurations.
static CONFIGURATIONS: Mutex<Vec<(Place, Arc<ClientConfig>)>> = Mutex::new(Vec::new());
/// The process that keeps them, the first that connects. A child that it forks has copies of locks that another thread
/// may have held, and of tickets that the parent uses too: it keeps nothing.
static KEEPER: AtomicU32 = AtomicU32::new(0);

/// The configuration for a gateway, with the sessions of earlier connections to it.
pub(crate) fn configuration(place: Place) -> Result<Arc<ClientConfig>, EngineError> {
    let here = std::process::id();
    let keeper = KEEPER.compare_exchange(0, here, Ordering::AcqRel, Ordering::Acquire);
    if keeper.is_err_and(|keeper| keeper != here) {
        return client_config(&place.trust);
    }
    if let Some((_, config)) = lock(&CONFIGURATIONS).iter().find(|(kept, _)| *kept == place) {
        return Ok(Arc::clone(config));
    }
    // Without the lock: reading the system's authorities takes a while.
    let config = client_config(&place.trust)?;
    let mut kept = lock(&CONFIGURATIONS);
    if kept.len() >= KEPT {
        kept.remove(0);
    }
    kept.push((place, Arc::clone(&config)));
    Ok(config)
}
