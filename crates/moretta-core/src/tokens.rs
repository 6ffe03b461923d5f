//! Keys and log of address tokens (RFC 9000 §8.1), shared by all cores of a gateway.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use aws_lc_rs::{aead, hkdf};
use quinn_proto::crypto::{AeadKey, CryptoError, HandshakeTokenKey};
use quinn_proto::{TokenLog, TokenReuseError};

/// Seals new tokens under `current` and opens those of `previous` too, so that keys can be changed without refusing
/// what clients still hold.
#[derive(Clone)]
pub struct TokenKeys {
    current: Arc<hkdf::Prk>,
    previous: Option<Arc<hkdf::Prk>>,
}

impl TokenKeys {
    /// Each key: 64 octets of the gateway's own; the previous one while tokens of it may still come.
    #[must_use]
    pub fn new(current: &[u8; 64], previous: Option<&[u8; 64]>) -> Self {
        let derive = |key: &[u8; 64]| Arc::new(hkdf::Salt::new(hkdf::HKDF_SHA256, &[]).extract(key));
        Self { current: derive(current), previous: previous.map(derive) }
    }
}

impl fmt::Debug for TokenKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenKeys").finish_non_exhaustive()
    }
}

impl HandshakeTokenKey for TokenKeys {
    fn aead_from_hkdf(&self, random_bytes: &[u8]) -> Box<dyn AeadKey> {
        Box::new(TokenAead {
            current: derive_aead(&self.current, random_bytes),
            previous: self.previous.as_ref().and_then(|key| derive_aead(key, random_bytes)),
        })
    }
}

/// One token's key; unique by its nonce, so that the AEAD nonce may be zero.
struct TokenAead {
    current: Option<aead::LessSafeKey>,
    previous: Option<aead::LessSafeKey>,
}

impl AeadKey for TokenAead {
    fn seal(&self, data: &mut Vec<u8>, additional_data: &[u8]) -> Result<(), CryptoError> {
        let key = self.current.as_ref().ok_or(CryptoError)?;
        let nonce = aead::Nonce::assume_unique_for_key([0; aead::NONCE_LEN]);
        key.seal_in_place_append_tag(nonce, aead::Aad::from(additional_data), data).map_err(|_| CryptoError)
    }

    fn open<'a>(&self, data: &'a mut [u8], additional_data: &[u8]) -> Result<&'a mut [u8], CryptoError> {
        let open = |key: &aead::LessSafeKey, copy: &mut Vec<u8>| {
            let nonce = aead::Nonce::assume_unique_for_key([0; aead::NONCE_LEN]);
            key.open_in_place(nonce, aead::Aad::from(additional_data), copy).map(|plain| plain.len())
        };
        // A failed attempt garbles its input, so that each key works on a copy.
        for key in [&self.current, &self.previous].into_iter().flatten() {
            let mut copy = data.to_vec();
            if let Ok(length) = open(key, &mut copy) {
                let plain = data.get_mut(..length).ok_or(CryptoError)?;
                plain.copy_from_slice(copy.get(..length).ok_or(CryptoError)?);
                return Ok(plain);
            }
        }
        Err(CryptoError)
    }
}

fn derive_aead(key: &hkdf::Prk, random_bytes: &[u8]) -> Option<aead::LessSafeKey> {
    let mut octets = [0; 32];
    key.expand(&[random_bytes], hkdf::HKDF_SHA256).ok()?.fill(&mut octets).ok()?;
    Some(aead::LessSafeKey::new(aead::UnboundKey::new(&aead::AES_256_GCM, &octets).ok()?))
}

/// The NEW_TOKEN tokens that were used, so that none is good twice. One for all cores; asked once per connection that
/// brings a token. When it is full a token is refused, which only costs the client its early validation.
pub struct SharedTokenLog {
    capacity: usize,
    used: Mutex<Used>,
}

#[derive(Default)]
struct Used {
    nonces: BTreeSet<u128>,
    /// When each may be forgotten, since its token is too old by then.
    expiry: BTreeMap<SystemTime, Vec<u128>>,
}

impl SharedTokenLog {
    /// Remembers at most `capacity` used tokens (about 100 bytes each).
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { capacity, used: Mutex::default() }
    }

    /// How many used tokens it remembers.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().nonces.len()
    }

    /// No token was used yet, or all are forgotten.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets the tokens that expired before `now`.
    pub fn forget_expired(&self, now: SystemTime) {
        let mut used = self.lock();
        let live = used.expiry.split_off(&now);
        let expired = std::mem::replace(&mut used.expiry, live);
        for nonce in expired.into_values().flatten() {
            used.nonces.remove(&nonce);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Used> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for SharedTokenLog {
    fn default() -> Self {
        Self::new(65_536)
    }
}

impl fmt::Debug for SharedTokenLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedTokenLog").field("capacity", &self.capacity).finish_non_exhaustive()
    }
}

impl TokenLog for SharedTokenLog {
    fn check_and_insert(&self, nonce: u128, issued: SystemTime, lifetime: Duration) -> Result<(), TokenReuseError> {
        let mut used = self.lock();
        if used.nonces.contains(&nonce) || used.nonces.len() >= self.capacity {
            return Err(TokenReuseError);
        }
        used.nonces.insert(nonce);
        used.expiry.entry(issued + lifetime).or_default().push(nonce);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn a_token_is_good_once_and_a_full_log_refuses() {
        let log = SharedTokenLog::new(2);
        let issued = SystemTime::UNIX_EPOCH;
        assert!(log.check_and_insert(1, issued, HOUR).is_ok());
        assert!(log.check_and_insert(1, issued, HOUR).is_err(), "used twice");
        assert!(log.check_and_insert(2, issued + HOUR, HOUR).is_ok());
        assert!(log.check_and_insert(3, issued, HOUR).is_err(), "full");
        log.forget_expired(issued + HOUR + Duration::from_secs(1));
        assert_eq!(log.len(), 1);
        assert!(log.check_and_insert(3, issued + HOUR, HOUR).is_ok());
    }

    #[test]
    fn a_token_of_the_previous_key_still_opens_and_a_strangers_does_not() {
        let (old, new, other) = ([1; 64], [2; 64], [3; 64]);
        let mut sealed = b"who asked".to_vec();
        TokenKeys::new(&old, None).aead_from_hkdf(b"nonce").seal(&mut sealed, &[]).unwrap();

        let rotated = TokenKeys::new(&new, Some(&old)).aead_from_hkdf(b"nonce");
        assert_eq!(rotated.open(&mut sealed.clone(), &[]).unwrap(), b"who asked");
        let stranger = TokenKeys::new(&new, Some(&other)).aead_from_hkdf(b"nonce");
        assert!(stranger.open(&mut sealed.clone(), &[]).is_err());
    }
}
