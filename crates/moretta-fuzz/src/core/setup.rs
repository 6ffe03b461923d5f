//! What a run begins with.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use moretta_core::{
    ConnectionCount, CoreConfig, CoreSnapshot, Shared, SharedTokenLog, SlotId, TokenKeys, TransportOptions,
};
use moretta_proto::ledger::{Ledger, LocalLedger};
use moretta_proto::limits::Limits;
use moretta_proto::policy::{OwnAddresses, PolicyDocument};
use moretta_proto::profile::Profile;
use moretta_proto::snapshot::{Listener, Snapshot};
use moretta_wire::template::UriTemplate;
use serde_json::json;

use crate::tls;

pub(super) const LISTENER: &str = "main";

/// All tunnels of a core, and of a connection: few, so that inputs reach the bounds.
pub(super) const MAX_TUNNELS: u64 = 5;
const MAX_TUNNELS_PER_CONNECTION: usize = 4;
const MAX_CONNECTIONS: usize = 3;

/// One bit of an input each.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settings {
    interop: bool,
    /// Every client proves its address first.
    always_retry: bool,
    no_datagrams: bool,
}

impl Settings {
    pub(super) const fn read(byte: u8) -> Self {
        Self { interop: byte & 1 != 0, always_retry: byte & 2 != 0, no_datagrams: byte & 4 != 0 }
    }

    pub(super) fn snapshot(self, generation: u64, allow: bool) -> Arc<CoreSnapshot> {
        let action = if allow { "allow" } else { "deny" };
        let document = json!({"rules": [{
            "id": "targets", "action": action, "protocol": "udp", "destination": ["9.9.9.0/24", "*.test"], "ports": "*",
        }]});
        let limits = Limits {
            max_connections: MAX_CONNECTIONS,
            half_open_before_retry: if self.always_retry { 0 } else { 2 },
            max_tunnels: MAX_TUNNELS,
            max_tunnels_per_connection: MAX_TUNNELS_PER_CONNECTION,
            idle_timeout: Duration::from_secs(30),
            tunnel_queue_bytes: 1024,
            early_datagram_bytes: 512,
            max_field_section_bytes: 1024,
            capsule_assembly_bytes: 2000,
            unknown_capsule_bytes: 256,
            ..Limits::default()
        };
        let template = UriTemplate::parse_path(UriTemplate::DEFAULT_PATH).unwrap();
        let listener = Listener { templates: vec![template], danger_allow_anonymous: true };
        let proto = Snapshot {
            generation,
            profile: if self.interop { Profile::interop() } else { Profile::hardened() },
            limits,
            policy: PolicyDocument::parse(&document).unwrap().compile().unwrap(),
            proxy_name: "gateway.test".to_owned(),
            listeners: BTreeMap::from([(LISTENER.to_owned(), listener)]),
        };
        Arc::new(CoreSnapshot {
            proto: Arc::new(proto),
            tls: vec![(LISTENER.to_owned(), tls::server())],
            own_addresses: Arc::new(OwnAddresses::default()),
        })
    }

    pub(super) fn config(self, ledger: Arc<dyn Ledger>) -> CoreConfig {
        CoreConfig {
            slot: SlotId::new(0).unwrap(),
            seed: [7; 32],
            shared: Arc::new(Shared {
                reset_key: [1; 64],
                token_keys: TokenKeys::new(&[2; 64], None),
                token_log: Arc::new(SharedTokenLog::default()),
                ledger,
                connections: ConnectionCount::default(),
            }),
            transport: TransportOptions { datagrams: !self.no_datagrams, ..TransportOptions::default() },
        }
    }
}

pub(super) fn ledger() -> Arc<LocalLedger> {
    Arc::new(LocalLedger::new(MAX_TUNNELS))
}
