//! What a run begins with.

use std::sync::Arc;
use std::time::Duration;

use moretta_core::{
    ConnectionCount, CoreConfig, CoreSnapshot, Shared, SharedTokenLog, SlotId, TokenKeys, TransportOptions,
};
use moretta_proto::ledger::LocalLedger;
use moretta_proto::limits::Limits;
use moretta_proto::policy::OwnAddresses;
use moretta_proto::profile::Profile;
use moretta_proto::snapshot::Snapshot;
use quinn_proto::crypto::ServerConfig as Crypto;
use quinn_proto::crypto::rustls::QuicServerConfig;
use quinn_proto::{ServerConfig, TransportConfig, VarInt};

use crate::forge::{Forge, ForgingConfig};
use crate::tls;

/// One bit of an input each.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settings {
    interop: bool,
    /// The client proves its address first.
    pub(super) retry: bool,
    /// The server takes no DATAGRAM frames.
    no_datagrams_there: bool,
    /// The client takes none.
    no_datagrams_here: bool,
    /// What stands on the control stream is the input's affair.
    pub(super) no_control_stream: bool,
    /// One request at a time, and few bytes.
    narrow: bool,
    /// Nobody answers at the first of the server's two addresses.
    pub(super) first_address_is_dead: bool,
}

impl Settings {
    pub(super) const fn read(byte: u8) -> Self {
        Self {
            interop: byte & 1 != 0,
            retry: byte & 2 != 0,
            no_datagrams_there: byte & 4 != 0,
            no_datagrams_here: byte & 8 != 0,
            no_control_stream: byte & 16 != 0,
            narrow: byte & 32 != 0,
            first_address_is_dead: byte & 64 != 0,
        }
    }

    pub(super) fn config(self) -> CoreConfig {
        CoreConfig {
            slot: SlotId::new(0).unwrap(),
            seed: [7; 32],
            shared: Arc::new(Shared {
                reset_key: [1; 64],
                token_keys: TokenKeys::new(&[2; 64], None),
                token_log: Arc::new(SharedTokenLog::default()),
                ledger: Arc::new(LocalLedger::new(u64::MAX)),
                connections: ConnectionCount::default(),
            }),
            transport: TransportOptions { datagrams: !self.no_datagrams_here, ..TransportOptions::default() },
        }
    }

    pub(super) fn snapshot(self) -> Arc<CoreSnapshot> {
        let limits = Limits {
            idle_timeout: Duration::from_secs(30),
            tunnel_queue_bytes: 1024,
            early_datagram_bytes: 512,
            max_field_section_bytes: 1024,
            capsule_assembly_bytes: 2000,
            unknown_capsule_bytes: 256,
            ..Limits::default()
        };
        let profile = if self.interop { Profile::interop() } else { Profile::hardened() };
        Arc::new(CoreSnapshot {
            proto: Arc::new(Snapshot { profile, limits, ..Snapshot::default() }),
            tls: Vec::new(),
            own_addresses: Arc::new(OwnAddresses::default()),
        })
    }

    pub(super) fn server(self, forge: &Forge) -> Arc<ServerConfig> {
        let inner: Arc<dyn Crypto> = Arc::new(QuicServerConfig::try_from(tls::server()).unwrap());
        let crypto = Arc::new(ForgingConfig { inner, forge: forge.clone() });
        let mut config = ServerConfig::new(crypto, Arc::new(TokenKeys::new(&[3; 64], None)));
        let mut transport = TransportConfig::default();
        transport
            .initial_mtu(1280)
            .mtu_discovery_config(None)
            .datagram_receive_buffer_size((!self.no_datagrams_there).then_some(1 << 20));
        if self.narrow {
            transport.max_concurrent_bidi_streams(VarInt::from_u32(1)).stream_receive_window(VarInt::from_u32(300));
        }
        config.transport_config(Arc::new(transport));
        Arc::new(config)
    }
}
