//! TLS whose random values follow from a seed: a key exchange that protects nothing, of the real one's size.
//!
//! What TLS draws ends up in ciphertext, and ciphertext that is read with the wrong keys decides what QUIC does next: a
//! late Initial for a connection that is gone is answered or not by what its reserved bits happen to turn into.

use std::sync::{Mutex, PoisonError};

use rustls::{
    Error, NamedGroup, PeerMisbehaved,
    crypto::{
        ActiveKeyExchange, CompletedKeyExchange, CryptoProvider, GetRandomFailed, SecureRandom, SharedSecret,
        SupportedKxGroup, aws_lc_rs,
    },
};

use crate::random::Random;

/// Octets of the shares of X25519MLKEM768.
const CLIENT_SHARE: usize = 1216;
const SERVER_SHARE: usize = 1120;
const SECRET: usize = 32;

/// All that TLS draws in one world.
#[derive(Debug)]
struct Dice(Mutex<Random>);

impl Dice {
    fn share(&self, octets: usize) -> Vec<u8> {
        let mut random = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (0..octets).map(|_| random.bits() as u8).collect()
    }
}

impl SecureRandom for Dice {
    fn fill(&self, buffer: &mut [u8]) -> Result<(), GetRandomFailed> {
        let octets = self.share(buffer.len());
        buffer.copy_from_slice(&octets);
        Ok(())
    }
}

#[derive(Debug)]
struct Group(&'static Dice);

impl SupportedKxGroup for Group {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        Ok(Box::new(Exchange(self.0.share(CLIENT_SHARE))))
    }

    fn start_and_complete(&self, client_share: &[u8]) -> Result<CompletedKeyExchange, Error> {
        let pub_key = self.0.share(SERVER_SHARE);
        let secret = secret(client_share, &pub_key)?;
        Ok(CompletedKeyExchange { group: self.name(), pub_key, secret })
    }

    fn name(&self) -> NamedGroup {
        NamedGroup::X25519MLKEM768
    }
}

/// A client that waits for the server's share.
struct Exchange(Vec<u8>);

impl ActiveKeyExchange for Exchange {
    fn complete(self: Box<Self>, server_share: &[u8]) -> Result<SharedSecret, Error> {
        secret(&self.0, server_share)
    }

    fn pub_key(&self) -> &[u8] {
        &self.0
    }

    fn group(&self) -> NamedGroup {
        NamedGroup::X25519MLKEM768
    }
}

fn secret(client_share: &[u8], server_share: &[u8]) -> Result<SharedSecret, Error> {
    if (client_share.len(), server_share.len()) != (CLIENT_SHARE, SERVER_SHARE) {
        return Err(PeerMisbehaved::InvalidKeyShare.into());
    }
    let octets: Vec<u8> = client_share.iter().zip(server_share).take(SECRET).map(|(one, other)| one ^ other).collect();
    Ok(octets.into())
}

/// The cryptography of a world. Everything but randomness and key exchange is the real one's.
///
/// The library asks for references that never end: each call leaks some fifty bytes.
pub(crate) fn provider(random: Random) -> CryptoProvider {
    let dice: &'static Dice = Box::leak(Box::new(Dice(Mutex::new(random))));
    let group: &'static Group = Box::leak(Box::new(Group(dice)));
    CryptoProvider { kx_groups: vec![group], secure_random: dice, ..aws_lc_rs::default_provider() }
}
