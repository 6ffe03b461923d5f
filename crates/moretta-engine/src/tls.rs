//! TLS configurations: a certificate for each listener, trust for each gateway. Verification is never off.

use crate::error::EngineError;
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs as provider};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{ParsedCertificate, ProducesTickets};
use rustls::{
    CertificateError, CipherSuite, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, RootCertStore,
    ServerConfig, SignatureScheme, version,
};
use std::sync::Arc;

/// The only protocol of a QUIC connection here.
const ALPN_HTTP3: &[u8] = b"h3";
/// Sessions kept for one gateway.
const SESSIONS_PER_GATEWAY: usize = 16;

/// X25519MLKEM768 comes first in it: rustls is built with `prefer-post-quantum`. AES-128-GCM comes before AES-256-GCM, as
/// browsers and quic-go have it: a gateway takes the client's first, and this one costs both less for every datagram.
fn crypto() -> Arc<CryptoProvider> {
    let mut crypto = provider::default_provider();
    crypto.cipher_suites.sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    Arc::new(crypto)
}

/// The key for session tickets, shared by all workers and listeners; it rotates by itself.
pub(crate) fn ticketer() -> Result<Arc<dyn ProducesTickets>, EngineError> {
    provider::Ticketer::new().map_err(|error| EngineError::System {
        path: String::new(),
        what: "create the key for session tickets".into(),
        error: error.to_string(),
    })
}

/// The configuration of a listener.
///
/// `path`: of the listener in its document, for errors.
pub(crate) fn server_config(
    path: &str,
    certificate_pem: &str,
    key_name: &str,
    key_pem: Option<&[u8]>,
    ticketer: Arc<dyn ProducesTickets>,
) -> Result<Arc<ServerConfig>, EngineError> {
    let at_certificate = format!("{path}.certificate_pem");
    let at_key = format!("{path}.key_secret");
    let chain = certificates(&at_certificate, certificate_pem)?;
    let key_pem = key_pem.ok_or_else(|| {
        EngineError::document(&at_key, format!("no secret {key_name:?} was given: put the private key under that name"))
    })?;
    let key = PrivateKeyDer::from_pem_slice(key_pem).map_err(|error| {
        EngineError::document(
            &at_key,
            format!("secret {key_name:?} is not a private key in PEM ({error}): give PKCS#8, SEC1 or PKCS#1"),
        )
    })?;
    let mut config = ServerConfig::builder_with_provider(crypto())
        .with_protocol_versions(&[&version::TLS13])
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .map_err(|error| {
            if matches!(error, Error::InconsistentKeys(_)) {
                let message = format!("secret {key_name:?} is not the key of this listener's certificate");
                EngineError::document(&at_key, message)
            } else {
                EngineError::document(&at_certificate, format!("cannot be used: {error}"))
            }
        })?;
    config.alpn_protocols = vec![ALPN_HTTP3.to_vec()];
    config.ticketer = ticketer;
    // One: the next connection spends it and brings another.
    config.send_tls13_tickets = 1;
    // Early data could be replayed; a tunnel must not be (RFC 9114 section 10.9).
    config.max_early_data_size = 0;
    Ok(Arc::new(config))
}

fn certificates(path: &str, pem: &str) -> Result<Vec<CertificateDer<'static>>, EngineError> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| EngineError::document(path, format!("is not PEM: {error}")))?;
    if chain.is_empty() {
        return Err(EngineError::document(path, "holds no certificate: give PEM text with BEGIN CERTIFICATE"));
    }
    Ok(chain)
}

/// Whom a client believes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Trust {
    /// The roots of this system.
    System,
    /// Only these, as PEM text.
    Authorities(String),
    /// Only this SHA-256 of the leaf's public key (SPKI).
    Pin([u8; 32]),
}

impl Trust {
    pub(crate) fn parse(ca_pem: Option<String>, pin_sha256: Option<&str>) -> Result<Self, EngineError> {
        match (ca_pem, pin_sha256) {
            (Some(_), Some(_)) => Err(EngineError::document("pin_sha256", "excludes ca_pem: give one of them")),
            (Some(pem), None) => Ok(Self::Authorities(pem)),
            (None, Some(pin)) => BASE64_STANDARD
                .decode(pin)
                .ok()
                .and_then(|bytes| bytes.try_into().ok())
                .map(Self::Pin)
                .ok_or_else(|| EngineError::document("pin_sha256", "must be 32 bytes in base64")),
            (None, None) => Ok(Self::System),
        }
    }
}

/// The configuration of a client; its session store belongs to it, so keep it for the next connection.
pub(crate) fn client_config(trust: &Trust) -> Result<Arc<ClientConfig>, EngineError> {
    let crypto = crypto();
    let verifier: Arc<dyn ServerCertVerifier> = match trust {
        Trust::System => verifier(system_roots()?, &crypto)?,
        Trust::Authorities(pem) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates("ca_pem", pem)? {
                roots
                    .add(certificate)
                    .map_err(|error| EngineError::document("ca_pem", format!("is no authority: {error}")))?;
            }
            verifier(roots, &crypto)?
        }
        Trust::Pin(pin) => Arc::new(PinnedKey { pin: *pin, algorithms: crypto.signature_verification_algorithms }),
    };
    let mut config = ClientConfig::builder_with_provider(crypto)
        .with_protocol_versions(&[&version::TLS13])
        .map_err(|error| EngineError::document("", format!("TLS 1.3 cannot be used: {error}")))?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN_HTTP3.to_vec()];
    config.resumption = Resumption::in_memory_sessions(SESSIONS_PER_GATEWAY);
    config.enable_early_data = false;
    Ok(Arc::new(config))
}

fn verifier(roots: RootCertStore, crypto: &Arc<CryptoProvider>) -> Result<Arc<dyn ServerCertVerifier>, EngineError> {
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(crypto))
        .build()
        .map(|verifier| verifier as Arc<dyn ServerCertVerifier>)
        .map_err(|error| EngineError::document("ca_pem", format!("cannot be used: {error}")))
}

fn system_roots() -> Result<RootCertStore, EngineError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        let why = found.errors.first().map(|error| format!(" ({error})")).unwrap_or_default();
        return Err(EngineError::document(
            "ca_pem",
            format!("this system has no certificate authorities{why}: install ca-certificates, or give ca_pem"),
        ));
    }
    Ok(roots)
}

/// Believes one public key, whatever the certificate around it says: the pin is the identity.
#[derive(Debug)]
struct PinnedKey {
    pin: [u8; 32],
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for PinnedKey {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let key = ParsedCertificate::try_from(end_entity)?.subject_public_key_info();
        if digest(&SHA256, key.as_ref()).as_ref() == self.pin {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        // QUIC has no TLS 1.2 (RFC 9001 section 4.2).
        Err(Error::PeerIncompatible(rustls::PeerIncompatible::Tls12NotOffered))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }

    fn root_hint_subjects(&self) -> Option<&[DistinguishedName]> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::NamedGroup;

    fn certificate() -> (String, String) {
        let key = rcgen::generate_simple_self_signed(["gateway.test".to_owned()]).unwrap();
        (key.cert.pem(), key.signing_key.serialize_pem())
    }

    fn refusal(certificate_pem: &str, key: Option<&str>) -> EngineError {
        server_config("listeners[0]", certificate_pem, "main", key.map(str::as_bytes), ticketer().unwrap()).unwrap_err()
    }

    #[test]
    fn each_fault_of_certificate_and_key_names_its_path() {
        let (pem, key) = certificate();
        let (_, other_key) = certificate();
        let rows = [
            ("no certificate", refusal("", Some(&key)), "listeners[0].certificate_pem", "holds no certificate"),
            (
                "broken PEM",
                refusal("-----BEGIN CERTIFICATE-----\n??", Some(&key)),
                "listeners[0].certificate_pem",
                "PEM",
            ),
            ("no secret", refusal(&pem, None), "listeners[0].key_secret", "no secret \"main\""),
            ("not a key", refusal(&pem, Some("x")), "listeners[0].key_secret", "not a private key"),
            ("other key", refusal(&pem, Some(&other_key)), "listeners[0].key_secret", "not the key"),
        ];
        for (id, error, path, text) in rows {
            assert_eq!(error.path(), path, "{id}");
            assert!(error.to_string().contains(text), "{id}: {error}");
        }
    }

    #[test]
    fn a_listener_never_takes_early_data_and_hands_out_tickets() {
        let (pem, key) = certificate();
        let ticketer = ticketer().unwrap();
        let config = server_config("listeners[0]", &pem, "main", Some(key.as_bytes()), ticketer).unwrap();
        assert_eq!(config.max_early_data_size, 0);
        assert!(config.ticketer.enabled());
        assert_eq!(config.send_tls13_tickets, 1);
        assert_eq!(config.alpn_protocols, [b"h3"]);
    }

    #[test]
    fn the_hybrid_group_is_offered_first() {
        assert_eq!(crypto().kx_groups[0].name(), NamedGroup::X25519MLKEM768);
    }

    #[test]
    fn the_cheapest_cipher_is_offered_first() {
        let suites: Vec<_> = crypto().cipher_suites.iter().map(rustls::SupportedCipherSuite::suite).collect();
        assert_eq!(suites[0], CipherSuite::TLS13_AES_128_GCM_SHA256);
        assert_eq!(suites.len(), provider::default_provider().cipher_suites.len());
    }

    #[test]
    fn trust_is_one_of_three_and_never_off() {
        assert_eq!(Trust::parse(None, None).unwrap(), Trust::System);
        assert_eq!(Trust::parse(None, Some("AA")).unwrap_err().path(), "pin_sha256");
        assert_eq!(Trust::parse(Some(String::new()), Some("AA")).unwrap_err().path(), "pin_sha256");
        assert_eq!(client_config(&Trust::Authorities("x".into())).unwrap_err().path(), "ca_pem");
    }

    #[test]
    fn a_pin_accepts_its_key_and_no_other() {
        let key = rcgen::generate_simple_self_signed(["gateway.test".to_owned()]).unwrap();
        let der = key.cert.der();
        let spki = ParsedCertificate::try_from(der).unwrap().subject_public_key_info();
        let pin: [u8; 32] = digest(&SHA256, spki.as_ref()).as_ref().try_into().unwrap();
        let name = ServerName::try_from("another.test").unwrap();
        let verify = |pin| {
            PinnedKey { pin, algorithms: crypto().signature_verification_algorithms }.verify_server_cert(
                der,
                &[],
                &name,
                &[],
                UnixTime::since_unix_epoch(std::time::Duration::ZERO),
            )
        };
        verify(pin).unwrap();
        verify([0; 32]).unwrap_err();
    }
}
