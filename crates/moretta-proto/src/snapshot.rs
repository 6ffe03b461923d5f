//! Everything that decides, in one version: swapped whole, never changed.

use std::collections::BTreeMap;

use moretta_wire::template::UriTemplate;

use crate::limits::Limits;
use crate::policy::Policy;
use crate::profile::Profile;

/// One version of all decisions. Certificates and keys of the same version are the driver's.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Rises with every version.
    pub generation: u64,
    /// The knobs.
    pub profile: Profile,
    /// Every bound.
    pub limits: Limits,
    /// Who may be reached.
    pub policy: Policy,
    /// How the gateway names itself in Proxy-Status (RFC 9209 §2): a service or host name.
    pub proxy_name: String,
    /// Listeners by name.
    pub listeners: BTreeMap<String, Listener>,
}

/// What one listener serves, and to whom.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listener {
    /// Where CONNECT-UDP is served (RFC 9298 §2).
    pub templates: Vec<UriTemplate>,
    /// Whether clients that nobody identified are served although the listener is not on loopback.
    pub danger_allow_anonymous: bool,
}

impl Snapshot {
    /// The listener of this name; `None` if this version no longer has it.
    pub fn listener(&self, name: &str) -> Option<&Listener> {
        self.listeners.get(name)
    }

    /// The templates of that listener, or none.
    pub fn templates(&self, listener: &str) -> &[UriTemplate] {
        self.listener(listener).map_or(&[], |listener| &listener.templates)
    }
}
