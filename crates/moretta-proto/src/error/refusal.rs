//! A refusal and the response it becomes.

use std::time::Duration;

use super::Reason;
use crate::policy::RuleId;

/// Why this request gets no tunnel, with what belongs to this case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The row.
    pub reason: Reason,
    /// What exactly; from a closed set of sentences, so that nothing internal can be in it. Sent to the client only
    /// where the fault is the client's own.
    pub detail: Option<&'static str>,
    /// The DNS response code, e.g. `NXDOMAIN`, where the resolver gave one.
    pub rcode: Option<&'static str>,
    /// Which rule decided; for the operator's record, never sent.
    pub rule: Option<RuleId>,
    /// When to come back; sent with 429 and 503, in whole seconds, at least 1.
    pub retry_after: Option<Duration>,
}

impl Refusal {
    /// A refusal without particulars.
    pub const fn new(reason: Reason) -> Self {
        Self { reason, detail: None, rcode: None, rule: None, retry_after: None }
    }

    /// With what exactly is wrong.
    #[must_use]
    pub const fn detail(mut self, detail: &'static str) -> Self {
        self.detail = Some(detail);
        self
    }

    /// With the rule that decided.
    #[must_use]
    pub fn rule(mut self, rule: Option<RuleId>) -> Self {
        self.rule = rule;
        self
    }

    /// With the DNS response code.
    #[must_use]
    pub const fn rcode(mut self, rcode: &'static str) -> Self {
        self.rcode = Some(rcode);
        self
    }
}

impl From<Reason> for Refusal {
    fn from(reason: Reason) -> Self {
        Self::new(reason)
    }
}
