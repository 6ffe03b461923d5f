//! One identity for all runs: making one costs more than a run.

use std::sync::{Arc, LazyLock};

use moretta_sim::Identity;

static IDENTITY: LazyLock<Identity> = LazyLock::new(|| Identity::new().unwrap());

pub(crate) fn server() -> Arc<rustls::ServerConfig> {
    static TLS: LazyLock<Arc<rustls::ServerConfig>> = LazyLock::new(|| IDENTITY.server().unwrap());
    Arc::clone(&TLS)
}

pub(crate) fn client() -> Arc<rustls::ClientConfig> {
    static TLS: LazyLock<Arc<rustls::ClientConfig>> = LazyLock::new(|| IDENTITY.client().unwrap());
    Arc::clone(&TLS)
}
