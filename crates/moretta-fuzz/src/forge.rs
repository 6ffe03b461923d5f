//! TLS sessions of a peer that seals what it is told to instead of what QUIC wrote.
//!
//! The packet that leaves is genuine: number, header protection and seal are right. Only the frames in it are anybody's.
//! So the other side decrypts it and has to make sense of its contents.

use std::any::Any;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use bytes::BytesMut;
use quinn_proto::crypto::{
    ClientConfig, CryptoError, ExportKeyingMaterialError, HeaderKey, KeyPair, Keys, PacketKey, ServerConfig, Session,
    UnsupportedVersion,
};
use quinn_proto::transport_parameters::TransportParameters;
use quinn_proto::{ConnectError, ConnectionId, Side, TransportError};

/// Frames that wait for the next packet with room for them, in one packet each. Shared with the sessions.
#[derive(Clone, Default)]
pub(crate) struct Forge(Arc<Mutex<VecDeque<Vec<u8>>>>);

impl Forge {
    /// These frames, and PADDING for the rest, take the place of those of the next 1-RTT packet that is long enough.
    pub(crate) fn push(&self, frames: &[u8]) {
        self.0.lock().unwrap().push_back(frames.to_vec());
    }

    /// What could not leave is forgotten.
    pub(crate) fn clear(&self) {
        self.0.lock().unwrap().clear();
    }

    fn overwrite(&self, plaintext: &mut [u8]) {
        let mut waiting = self.0.lock().unwrap();
        if waiting.front().is_some_and(|frames| frames.len() <= plaintext.len()) {
            let frames = waiting.pop_front().unwrap();
            plaintext.fill(0);
            plaintext[..frames.len()].copy_from_slice(&frames);
        }
    }
}

/// Wraps the configuration of a client, or of a server.
pub(crate) struct ForgingConfig<C: ?Sized> {
    pub(crate) inner: Arc<C>,
    pub(crate) forge: Forge,
}

impl ClientConfig for ForgingConfig<dyn ClientConfig> {
    fn start_session(
        self: Arc<Self>,
        version: u32,
        server_name: &str,
        params: &TransportParameters,
    ) -> Result<Box<dyn Session>, ConnectError> {
        let inner = Arc::clone(&self.inner).start_session(version, server_name, params)?;
        Ok(Box::new(ForgingSession { inner, forge: self.forge.clone(), keys_written: 0 }))
    }
}

impl ServerConfig for ForgingConfig<dyn ServerConfig> {
    fn initial_keys(&self, version: u32, dst_cid: &ConnectionId) -> Result<Keys, UnsupportedVersion> {
        self.inner.initial_keys(version, dst_cid)
    }

    fn retry_tag(&self, version: u32, orig_dst_cid: &ConnectionId, packet: &[u8]) -> [u8; 16] {
        self.inner.retry_tag(version, orig_dst_cid, packet)
    }

    fn start_session(self: Arc<Self>, version: u32, params: &TransportParameters) -> Box<dyn Session> {
        let inner = Arc::clone(&self.inner).start_session(version, params);
        Box::new(ForgingSession { inner, forge: self.forge.clone(), keys_written: 0 })
    }
}

struct ForgingSession {
    inner: Box<dyn Session>,
    forge: Forge,
    keys_written: u32,
}

impl ForgingSession {
    fn wrap(&self, inner: Box<dyn PacketKey>) -> Box<dyn PacketKey> {
        Box::new(ForgingKey { inner, forge: self.forge.clone() })
    }
}

impl Session for ForgingSession {
    fn write_handshake(&mut self, buf: &mut Vec<u8>) -> Option<Keys> {
        let mut keys = self.inner.write_handshake(buf)?;
        self.keys_written += 1;
        // The first are those of the handshake, the second those of 1-RTT.
        if self.keys_written == 2 {
            keys.packet.local = self.wrap(keys.packet.local);
        }
        Some(keys)
    }

    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        let keys = self.inner.next_1rtt_keys()?;
        Some(KeyPair { local: self.wrap(keys.local), remote: keys.remote })
    }

    fn initial_keys(&self, dst_cid: &ConnectionId, side: Side) -> Keys {
        self.inner.initial_keys(dst_cid, side)
    }

    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        self.inner.handshake_data()
    }

    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        self.inner.peer_identity()
    }

    fn early_crypto(&self) -> Option<(Box<dyn HeaderKey>, Box<dyn PacketKey>)> {
        self.inner.early_crypto()
    }

    fn early_data_accepted(&self) -> Option<bool> {
        self.inner.early_data_accepted()
    }

    fn is_handshaking(&self) -> bool {
        self.inner.is_handshaking()
    }

    fn read_handshake(&mut self, buf: &[u8]) -> Result<bool, TransportError> {
        self.inner.read_handshake(buf)
    }

    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        self.inner.transport_parameters()
    }

    fn is_valid_retry(&self, orig_dst_cid: &ConnectionId, header: &[u8], payload: &[u8]) -> bool {
        self.inner.is_valid_retry(orig_dst_cid, header, payload)
    }

    fn export_keying_material(
        &self,
        output: &mut [u8],
        label: &[u8],
        context: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        self.inner.export_keying_material(output, label, context)
    }
}

struct ForgingKey {
    inner: Box<dyn PacketKey>,
    forge: Forge,
}

impl PacketKey for ForgingKey {
    fn encrypt(&self, packet: u64, buf: &mut [u8], header_len: usize) {
        let end = buf.len() - self.inner.tag_len();
        self.forge.overwrite(&mut buf[header_len..end]);
        self.inner.encrypt(packet, buf, header_len);
    }

    fn decrypt(&self, packet: u64, header: &[u8], payload: &mut BytesMut) -> Result<(), CryptoError> {
        self.inner.decrypt(packet, header, payload)
    }

    fn tag_len(&self) -> usize {
        self.inner.tag_len()
    }

    fn confidentiality_limit(&self) -> u64 {
        self.inner.confidentiality_limit()
    }

    fn integrity_limit(&self) -> u64 {
        self.inner.integrity_limit()
    }
}
