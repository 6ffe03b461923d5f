//! One identity for all runs: making one costs more than a run. Both sides offer early data, which ours must not use.

use std::cell::Cell;
use std::sync::{Arc, LazyLock};

use moretta_sim::Identity;
use rustls::server::{ServerSessionMemoryCache, StoresServerSessions};

static IDENTITY: LazyLock<Identity> = LazyLock::new(|| Identity::new().unwrap());

thread_local! {
    static RESUMED: Cell<u64> = const { Cell::new(0) };
}

/// Sessions that servers of this thread have taken up again.
#[cfg(test)]
pub(crate) fn resumed() -> u64 {
    RESUMED.get()
}

pub(crate) fn server() -> Arc<rustls::ServerConfig> {
    static TLS: LazyLock<Arc<rustls::ServerConfig>> = LazyLock::new(|| {
        let mut config = Arc::unwrap_or_clone(IDENTITY.server().unwrap());
        // RFC 9001 §4.6.1.
        config.max_early_data_size = u32::MAX;
        config.session_storage = Arc::new(Sessions(ServerSessionMemoryCache::new(256)));
        Arc::new(config)
    });
    Arc::clone(&TLS)
}

pub(crate) fn client() -> Arc<rustls::ClientConfig> {
    static TLS: LazyLock<Arc<rustls::ClientConfig>> = LazyLock::new(|| {
        let mut config = Arc::unwrap_or_clone(IDENTITY.client().unwrap());
        config.enable_early_data = true;
        Arc::new(config)
    });
    Arc::clone(&TLS)
}

#[derive(Debug)]
struct Sessions(Arc<ServerSessionMemoryCache>);

impl StoresServerSessions for Sessions {
    fn put(&self, key: Vec<u8>, value: Vec<u8>) -> bool {
        self.0.put(key, value)
    }

    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.0.get(key)
    }

    fn take(&self, key: &[u8]) -> Option<Vec<u8>> {
        let found = self.0.take(key);
        RESUMED.set(RESUMED.get() + u64::from(found.is_some()));
        found
    }

    fn can_cache(&self) -> bool {
        self.0.can_cache()
    }
}
