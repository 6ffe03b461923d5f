//! Certificates and TLS configurations, from a seed where a world has to repeat itself.
//!
//! Ed25519, since its signatures are of one size and need no randomness; a fixed serial number; a clock of our own.

use std::{sync::Arc, time::Duration};

use rcgen::{CertificateParams, KeyPair, PKCS_ED25519, SerialNumber};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    time_provider::TimeProvider,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};

use crate::{random::Random, repeatable, wiretap::Secrets};

/// Unix time when every world begins: 1 January 2027.
pub const START: Duration = Duration::from_secs(1_798_761_600);

/// The name in the certificate.
pub const SERVER_NAME: &str = "gateway.test";

/// A certificate and its key, made once per world.
pub struct Identity {
    certificate: CertificateDer<'static>,
    key: PrivatePkcs8KeyDer<'static>,
    provider: Arc<CryptoProvider>,
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
    /// A self-signed certificate for [`SERVER_NAME`], and real randomness.
    ///
    /// # Errors
    /// If the cryptographic library fails.
    pub fn new() -> Result<Self, SetupError> {
        Self::with(&KeyPair::generate_for(&PKCS_ED25519).map_err(setup)?, aws_lc_rs::default_provider())
    }

    /// The same from a seed, key and handshakes included.
    pub(crate) fn of(seed: u64) -> Result<Self, SetupError> {
        // RFC 8410 §7: all of a private key but its 32 octets.
        const PKCS8: [u8; 16] = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
        let mut random = Random::new(seed, "tls");
        let key: Vec<u8> = PKCS8.into_iter().chain(random.bytes::<32>()).collect();
        let key = KeyPair::from_pkcs8_der_and_sign_algo(&key.into(), &PKCS_ED25519).map_err(setup)?;
        Self::with(&key, repeatable::provider(random))
    }

    /// The same from a seed, except that key exchanges are real ones: for handshakes that shall cost what they cost in
    /// earnest, and yet allocate in the same order each time.
    ///
    /// # Errors
    /// If the cryptographic library fails.
    pub fn with_real_key_exchange(seed: u64) -> Result<Self, SetupError> {
        let mut identity = Self::of(seed)?;
        let kx_groups = aws_lc_rs::default_provider().kx_groups;
        identity.provider = Arc::new(CryptoProvider { kx_groups, ..(*identity.provider).clone() });
        Ok(identity)
    }

    fn with(key: &KeyPair, provider: CryptoProvider) -> Result<Self, SetupError> {
        let mut parameters = CertificateParams::new([SERVER_NAME.to_owned()]).map_err(setup)?;
        parameters.serial_number = Some(SerialNumber::from(1));
        let certificate = parameters.self_signed(key).map_err(setup)?.der().clone();
        Ok(Self { certificate, key: key.serialize_der().into(), provider: Arc::new(provider) })
    }

    /// What the gateway's listeners use.
    ///
    /// # Errors
    /// If the cryptographic library fails.
    pub fn server(&self) -> Result<Arc<ServerConfig>, SetupError> {
        let mut config = ServerConfig::builder_with_details(Arc::clone(&self.provider), Arc::new(FixedTime))
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
        let mut config = ClientConfig::builder_with_details(Arc::clone(&self.provider), Arc::new(FixedTime))
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
