//! Certificates and TLS configurations whose messages have the same sizes in every run.
//!
//! TLS draws its own random values, which a world cannot repeat. None of them may change the size of a message or the
//! time it is sent: hence Ed25519 (an ECDSA signature varies by a few bytes), a fixed serial number, and a clock of our
//! own. Everything else that TLS draws has a fixed length.

use std::{sync::Arc, time::Duration};

use rcgen::{CertificateParams, KeyPair, PKCS_ED25519, SerialNumber};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    time_provider::TimeProvider,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};

use crate::wiretap::Secrets;

/// Unix time when every world begins: 1 January 2027.
pub const START: Duration = Duration::from_secs(1_798_761_600);

/// The name in the certificate.
pub const SERVER_NAME: &str = "gateway.test";

/// A certificate and its key, made once per world.
pub struct Identity {
    certificate: CertificateDer<'static>,
    key: PrivatePkcs8KeyDer<'static>,
}

/// TLS could not be set up; only a broken build or missing randomness does that.
#[derive(Debug)]
pub struct SetupError(pub String);

impl std::fmt::Display for SetupError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for SetupError {}

fn setup(error: impl std::fmt::Display) -> SetupError {
    SetupError(error.to_string())
}

/// Certificates are judged at the time when the world begins.
#[derive(Debug)]
struct FixedTime;

impl TimeProvider for FixedTime {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(START))
    }
}

impl Identity {
    /// A self-signed certificate for [`SERVER_NAME`].
    ///
    /// # Errors
    /// If the cryptographic library fails.
    pub fn new() -> Result<Self, SetupError> {
        let key = KeyPair::generate_for(&PKCS_ED25519).map_err(setup)?;
        let mut parameters = CertificateParams::new([SERVER_NAME.to_owned()]).map_err(setup)?;
        parameters.serial_number = Some(SerialNumber::from(1));
        let certificate = parameters.self_signed(&key).map_err(setup)?;
        Ok(Self { certificate: certificate.der().clone(), key: PrivatePkcs8KeyDer::from(key.serialize_der()) })
    }

    fn provider() -> Arc<CryptoProvider> {
        Arc::new(aws_lc_rs::default_provider())
    }

    /// What the gateway's listeners use.
    ///
    /// # Errors
    /// If the cryptographic library fails.
    pub fn server(&self) -> Result<Arc<ServerConfig>, SetupError> {
        let mut config = ServerConfig::builder_with_details(Self::provider(), Arc::new(FixedTime))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(setup)?
            .with_no_client_auth()
            .with_single_cert(vec![self.certificate.clone()], PrivateKeyDer::Pkcs8(self.key.clone_key()))
            .map_err(setup)?;
        config.alpn_protocols = vec![b"h3".to_vec()];
        Ok(Arc::new(config))
    }

    /// What trusts this certificate alone.
    ///
    /// # Errors
    /// If the cryptographic library fails.
    pub fn client(&self) -> Result<Arc<ClientConfig>, SetupError> {
        self.client_with(None)
    }

    /// The same, telling its secrets to `log`.
    pub(crate) fn client_with(&self, log: Option<Arc<Secrets>>) -> Result<Arc<ClientConfig>, SetupError> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).map_err(setup)?;
        let mut config = ClientConfig::builder_with_details(Self::provider(), Arc::new(FixedTime))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(setup)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h3".to_vec()];
        if let Some(log) = log {
            config.key_log = log;
        }
        Ok(Arc::new(config))
    }
}
