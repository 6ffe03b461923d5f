//! A refusal and the response it becomes.

use std::time::Duration;

use moretta_wire::fields::ProxyStatus;
use moretta_wire::head::ResponseHead;

use super::{Fault, Reason};
use crate::policy::RuleId;

/// Why this request gets no tunnel, with what belongs to this case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The row.
    pub reason: Reason,
    /// What exactly; one of a closed set of words, so that nothing internal can be in it. Sent to the client only
    /// where the fault is the client's own.
    pub detail: Option<&'static str>,
    /// The DNS response code, e.g. `NXDOMAIN`, where the resolver gave one.
    pub rcode: Option<&'static str>,
    /// Which rule decided; for the operator's record, never sent.
    pub rule: Option<RuleId>,
    /// When to come back; sent with 429 and 503, in whole seconds, at least 1.
    pub retry_after: Option<Duration>,
}

/// What 429 and 503 say when nobody knows better.
const DEFAULT_RETRY_AFTER: Duration = Duration::from_secs(5);

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

    /// With the time to come back.
    #[must_use]
    pub const fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// The answer. Without content, so the stream is finished after it; never with a Capsule-Protocol field
    /// (RFC 9297 §3.4, CAP-20), and never with an address (C-13).
    ///
    /// `proxy_name`: [`Snapshot::proxy_name`](crate::snapshot::Snapshot::proxy_name). A reason that is never sent, such
    /// as a client's own, answers 500.
    pub fn response_head(&self, proxy_name: &str) -> ResponseHead {
        let row = self.reason.row();
        let status = row.status.unwrap_or(500);
        let mut head = ResponseHead::new(status);
        if let Some(error) = row.proxy_status {
            let member = ProxyStatus {
                error: Some(error.to_owned()),
                status_code: (error == "http_request_error").then_some(status),
                rcode: self.rcode.map(str::to_owned),
                details: self.detail.filter(|_| row.fault == Fault::Client).map(str::to_owned),
                ..ProxyStatus::new(proxy_name)
            };
            head.fields.push("proxy-status", member.to_field_value());
        }
        if matches!(status, 429 | 503) {
            let wait = self.retry_after.unwrap_or(DEFAULT_RETRY_AFTER);
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            head.fields.push("retry-after", seconds.max(1).to_string());
        }
        if status == 401 {
            // RFC 9110 §15.5.2 wants a challenge; RFC 6750 §3 wants no error where no token came.
            head.fields.push("www-authenticate", format!("Bearer realm=\"{}\"", realm(proxy_name)));
        }
        head
    }
}

impl From<Reason> for Refusal {
    fn from(reason: Reason) -> Self {
        Self::new(reason)
    }
}

/// What fits between quotes (RFC 9110 §5.6.4) without escapes.
fn realm(proxy_name: &str) -> String {
    proxy_name.chars().filter(|c| c.is_ascii_graphic() && !matches!(c, '"' | '\\')).collect()
}

#[cfg(test)]
#[path = "refusal_tests.rs"]
mod tests;
