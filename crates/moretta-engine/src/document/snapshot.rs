//! All policy, certificates, listeners and limits of one generation.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
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
    #[serde(default = "hardened")]
    pub profile: String,
    /// Single knobs of the profile that differ from it.
    #[serde(default)]
    pub overrides: Map<String, Value>,
    /// The name in Proxy-Status.
    #[serde(default = "proxy_name")]
    pub proxy_name: String,
    /// Where the gateway listens; empty for a client.
    #[serde(default)]
    pub listeners: Vec<Listener>,
    /// Who may reach what.
    #[serde(default)]
    pub policy: Policy,
    /// How names are resolved.
    #[serde(default)]
    pub resolver: Resolver,
    /// Bounds; each absent one has a default.
    #[serde(default)]
    pub limits: Limits,
}

fn hardened() -> String {
    "hardened".into()
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
    vec![moretta_wire_default_path()]
}

fn moretta_wire_default_path() -> String {
    "/.well-known/masque/udp/{target_host}/{target_port}/".into()
}

/// The rules; nothing matched means deny.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// In any order: deny wins.
    #[serde(default)]
    pub rules: Vec<Rule>,
    /// Prefixes of the tier *never* that rules may open all the same.
    #[serde(default)]
    pub danger_allow_prefixes: Vec<String>,
    /// Allow targets on this machine's own addresses; never the gateway's own sockets.
    #[serde(default)]
    pub danger_allow_own_addresses: bool,
}

/// One rule, as people write it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Named in records and explanations.
    pub id: String,
    /// `allow` or `deny`.
    pub action: String,
    /// `udp`.
    pub protocol: String,
    /// Addresses, prefixes, names and `*.suffix`es.
    pub destination: Vec<String>,
    /// `"*"`, or a list of ports and `"low-high"` ranges.
    pub ports: Value,
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

/// Bounds. Absent means the default, which `stats` shows.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Tunnels at once over all workers; also bounded by the file descriptors of this process.
    pub max_tunnels: Option<u64>,
    /// Tunnels at once on one connection.
    pub max_tunnels_per_connection: Option<u64>,
    /// QUIC connections at once over all workers.
    pub max_connections: Option<u64>,
    /// Handshakes in flight above which a Retry is asked for.
    pub half_open_before_retry: Option<u64>,
    /// A tunnel without a datagram either way ends after this time; 30 to 3600.
    pub idle_timeout_seconds: Option<f64>,
    /// A request is answered within this time; 0.1 to 60.
    pub admission_timeout_seconds: Option<f64>,
    /// Bytes that wait for the client, per tunnel; oldest dropped first.
    pub tunnel_queue_bytes: Option<u64>,
    /// A datagram that waited longer than this is dropped.
    pub sojourn_seconds: Option<f64>,
}
