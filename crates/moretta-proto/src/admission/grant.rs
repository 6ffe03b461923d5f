//! What was allowed, kept as long as the tunnel lives, so that a new policy can take it back.

use std::net::SocketAddr;
use std::sync::Arc;

use moretta_wire::host::{Host, Name};

use crate::Protocol;
use crate::auth::{Identity, identify};
use crate::error::Refusal;
use crate::policy::{HostDecision, OwnAddresses, RuleId};
use crate::snapshot::Snapshot;

/// What one tunnel may reach, and by what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The kind of tunnel.
    pub protocol: Protocol,
    /// The name that was asked for, if it was one.
    pub name: Option<Name>,
    /// The address that was checked and opened.
    pub address: SocketAddr,
    /// The rule that allows it.
    pub rule: Option<RuleId>,
    /// The listener that the request came to.
    pub listener: Arc<str>,
    /// Whether the address that it came to is a loopback address.
    pub loopback: bool,
    /// Who asked.
    pub identity: Identity,
    /// The version that allowed it last.
    pub generation: u64,
}

impl Grant {
    /// Whether `snapshot` allows it as well; then that version's rule is the one that does. The name is not resolved
    /// again: a tunnel keeps its address (D-14).
    ///
    /// # Errors
    /// What a request would be refused with; the tunnel ends with
    /// [`EndReason::PolicyChanged`](crate::error::EndReason::PolicyChanged).
    pub fn recheck(&mut self, snapshot: &Snapshot, own: &OwnAddresses) -> Result<(), Refusal> {
        self.identity = identify(snapshot.listener(&self.listener), self.loopback)?;
        let port = self.address.port();
        if let Some(name) = &self.name {
            let host = Host::Name(name.clone());
            if let HostDecision::Refused(decision) = snapshot.policy.check_host(self.protocol, &host, port)
                && let Some(refusal) = decision.refusal()
            {
                return Err(refusal);
            }
        }
        let decision = snapshot.policy.check_address(self.protocol, self.name.as_ref(), self.address.ip(), port, own);
        if let Some(refusal) = decision.refusal() {
            return Err(refusal);
        }
        self.rule = decision.rule;
        self.generation = snapshot.generation;
        Ok(())
    }
}
