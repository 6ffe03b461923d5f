//! Key updates (RFC 9001 section 6).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "helpers of tests fail as tests do"
)]

mod support;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use moretta_core::{CoreSnapshot, TransportOptions};
use rustls::crypto::CryptoProvider;
use rustls::crypto::cipher::{AeadKey, Iv};
use rustls::quic::{Algorithm, HeaderProtectionKey, PacketKey, Tag};
use rustls::{Error, SupportedCipherSuite, Tls13CipherSuite};
use support::{World, snapshot, tls_by};

/// The library changes keys 10,000 packets before the limit of the AEAD, so this leaves 300 for each key.
const LIMIT: u64 = 10_300;
/// More than one key of the limit could carry.
const DATAGRAMS: u32 = 11_000;
/// The library changes its first keys after 10 to 1,000 packets, at random.
const FIRST_KEY_PACKETS: u64 = 1000;
/// A change waits until the one before it is acknowledged and the old keys are gone.
const SLACK: u64 = 300;

/// Packets that each key has encrypted.
type Uses = Arc<Mutex<Vec<Arc<AtomicU64>>>>;

/// An algorithm of QUIC whose confidentiality limit is [`LIMIT`].
struct Limited {
    inner: &'static dyn Algorithm,
    uses: Uses,
}

struct LimitedKey {
    inner: Box<dyn PacketKey>,
    used: Arc<AtomicU64>,
}

impl Algorithm for Limited {
    fn packet_key(&self, key: AeadKey, iv: Iv) -> Box<dyn PacketKey> {
        let used = Arc::default();
        self.uses.lock().unwrap().push(Arc::clone(&used));
        Box::new(LimitedKey { inner: self.inner.packet_key(key, iv), used })
    }

    fn header_protection_key(&self, key: AeadKey) -> Box<dyn HeaderProtectionKey> {
        self.inner.header_protection_key(key)
    }

    fn aead_key_len(&self) -> usize {
        self.inner.aead_key_len()
    }
}

impl PacketKey for LimitedKey {
    fn encrypt_in_place(&self, number: u64, header: &[u8], payload: &mut [u8]) -> Result<Tag, Error> {
        self.used.fetch_add(1, Ordering::Relaxed);
        self.inner.encrypt_in_place(number, header, payload)
    }

    fn decrypt_in_place<'a>(&self, number: u64, header: &[u8], payload: &'a mut [u8]) -> Result<&'a [u8], Error> {
        self.inner.decrypt_in_place(number, header, payload)
    }

    fn tag_len(&self) -> usize {
        self.inner.tag_len()
    }

    fn confidentiality_limit(&self) -> u64 {
        LIMIT
    }

    fn integrity_limit(&self) -> u64 {
        self.inner.integrity_limit()
    }
}

fn limited(uses: &Uses) -> CryptoProvider {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    for suite in &mut provider.cipher_suites {
        if let SupportedCipherSuite::Tls13(known) = suite
            && let Some(inner) = known.quic
        {
            let quic: &dyn Algorithm = Box::leak(Box::new(Limited { inner, uses: Arc::clone(uses) }));
            let Tls13CipherSuite { common, hkdf_provider, aead_alg, .. } = known;
            let common = rustls::crypto::CipherSuiteCommon { ..*common };
            let (hkdf_provider, aead_alg) = (*hkdf_provider, *aead_alg);
            *known = Box::leak(Box::new(Tls13CipherSuite { common, hkdf_provider, aead_alg, quic: Some(quic) }));
        }
    }
    provider
}

/// RFC 9001 §6.6: no key encrypts as many packets as its AEAD allows. Without a change of keys the connection would have
/// to end there; it goes on, both ways.
#[test]
fn keys_are_changed_before_the_limit_of_their_aead_and_tunnels_live_on() {
    let uses = Uses::default();
    let tls = tls_by(limited(&uses));
    let mut world = World::new();
    world.trust = tls.client;
    let server = Arc::new(CoreSnapshot { tls: vec![("main".to_owned(), tls.server)], ..(*snapshot()).clone() });
    let gateway = world.pair_up(server, snapshot(), TransportOptions::default());
    let flow = world.open_udp(1, gateway, 1);
    let target = world.server_flow(0, 9001);
    for index in 0..DATAGRAMS {
        world.send(1, flow, &index.to_be_bytes());
        world.send(0, target, &index.to_be_bytes());
        world.run(Duration::from_millis(1));
    }
    world.run(Duration::from_secs(1));
    let both = (world.texts(0, target).len() as u32, world.texts(1, flow).len() as u32);
    assert_eq!(both, (DATAGRAMS, DATAGRAMS));
    let uses: Vec<u64> = uses.lock().unwrap().iter().map(|used| used.load(Ordering::Relaxed)).collect();
    assert!(uses.iter().all(|used| *used <= FIRST_KEY_PACKETS + SLACK), "{uses:?}");
    let worn = uses.iter().filter(|used| **used >= LIMIT - 10_000).count();
    assert!(worn >= 2 * DATAGRAMS as usize / 1000, "{worn} keys were used up: {uses:?}");
}
