//! All policy, certificates, listeners and limits of one generation.

use moretta_proto::policy::PolicyDocument;
use moretta_proto::profile::{Overrides, ProfileName};
use moretta_wire::template::UriTemplate;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

/// Everything that a reload replaces, applied whole or refused whole.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    /// Always 1.
    pub version: u64,
    /// Chosen by the caller, returned in `snapshot_applied` or `snapshot_refused`.
    pub generation: u64,
    /// `hardened` or `interop`.
    #[serde(default)]
    pub profile: ProfileName,
    /// Single knobs of the profile that differ from it.
    #[serde(default)]
    pub overrides: Overrides,
    /// The name in Proxy-Status.
    #[serde(default = "proxy_name")]
    pub proxy_name: String,
    /// Where the gateway listens; empty for a client.
    #[serde(default)]
    pub listeners: Vec<Listener>,
    /// Who may reach what.
    #[serde(default)]
    pub policy: PolicyDocument,
    /// How names are resolved.
    #[serde(default)]
    pub resolver: Resolver,
    /// Bounds by name ([`moretta_proto::limits::Limits::TABLE`]); each absent one has its default.
    #[serde(default)]
    pub limits: BTreeMap<String, u64>,
}

fn proxy_name() -> String {
    "moretta".into()
}

/// One listener: a set of addresses with one certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    /// Unique among the listeners; a listener of the same name and address keeps its sockets over a reload.
    pub name: String,
    /// Addresses to listen on; port 0 takes a free one, which `listening` reports.
    pub addresses: Vec<SocketAddr>,
    /// Certificate chain, leaf first, as PEM text.
    pub certificate_pem: String,
    /// Name of the secret that holds the private key as PEM.
    pub key_secret: String,
    /// Serve anybody who connects although the listener is not on loopback.
    #[serde(default)]
    pub danger_allow_anonymous: bool,
    /// URI templates (RFC 9298 section 2) of this gateway, as paths; absent means the default template.
    #[serde(default = "default_templates")]
    pub templates: Vec<String>,
}

fn default_templates() -> Vec<String> {
    vec![UriTemplate::DEFAULT_PATH.to_owned()]
}

/// How names are resolved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resolver {
    /// Servers to ask; empty means those of /etc/resolv.conf.
    #[serde(default)]
    pub nameservers: Vec<SocketAddr>,
    /// Bound of one lookup, questions and retries included; 0.1 to 60.
    #[serde(default = "resolver_timeout")]
    pub timeout_seconds: f64,
    /// Answers that need no question; /etc/hosts is read beside them.
    #[serde(default)]
    pub hosts: BTreeMap<String, Vec<IpAddr>>,
}

fn resolver_timeout() -> f64 {
    5.0
}

impl Default for Resolver {
    fn default() -> Self {
        Self { nameservers: Vec::new(), timeout_seconds: resolver_timeout(), hosts: BTreeMap::new() }
    }
}
