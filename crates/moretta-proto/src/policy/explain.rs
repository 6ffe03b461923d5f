//! Why a target is allowed or not, step by step: the same code as an admission, watched.

use std::net::IpAddr;

use moretta_wire::host::Host;
use moretta_wire::prefix::Tier;
use serde::{Deserialize, Serialize};

use super::{Decision, HostDecision, OwnAddresses, Policy, RuleId, Why};
use crate::Protocol;
use crate::error::Reason;

/// What may be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// The kind of tunnel.
    pub protocol: Protocol,
    /// An address or a name, as a request would give it once decoded.
    pub host: String,
    /// The port.
    pub port: u16,
    /// What the name resolves to. Without any the verdict on a name that may be allowed is `depends_on_answers`.
    #[serde(default)]
    pub answers: Vec<IpAddr>,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// What a request would get.
    pub verdict: Verdict,
    /// What decided; absent where nothing did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<Why>,
    /// The same as a sentence without a full stop.
    pub sentence: String,
    /// The rule that decided, if one did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<RuleId>,
    /// The row of the error table that the client would see.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// Every check in order, up to the one that decided.
    pub steps: Vec<Step>,
}

/// What a request would get.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// A tunnel, as far as policy is concerned.
    Allowed,
    /// A refusal.
    Refused,
    /// The name passes; each of its addresses has to as well.
    DependsOnAnswers,
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// What was checked.
    pub check: Check,
    /// How it went.
    pub outcome: Outcome,
    /// Which address was looked at; the IPv4 address inside an IPv6 address where that is what counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// Its tier.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tier: Option<&'static str>,
    /// What its prefix is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<&'static str>,
    /// The first rule that matched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<RuleId>,
}

/// What is checked, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Check {
    /// Whether the name is one of the machine itself.
    LocalName,
    /// Whether a rule denies the name, or everything.
    NameDenied,
    /// Whether a rule allows the name, or may allow an address of it.
    NameAllowable,
    /// Whether the gateway itself listens there.
    OwnSocket,
    /// Whether the address is the gateway's.
    OwnAddress,
    /// Whether its tier lets rules decide, and one names it where that is needed.
    Tier,
    /// Whether a rule denies the address, the name or everything.
    AddressDenied,
    /// Whether a rule allows it.
    AddressAllowed,
}

/// How a check went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The next check decides.
    Passed,
    /// The request is refused here.
    Refused,
}

impl Outcome {
    pub(super) const fn refused_if(refused: bool) -> Self {
        if refused { Self::Refused } else { Self::Passed }
    }
}

impl Step {
    pub(super) const fn new(check: Check, outcome: Outcome) -> Self {
        Self { check, outcome, address: None, tier: None, prefix: None, rule: None }
    }

    pub(super) const fn address(mut self, address: IpAddr) -> Self {
        self.address = Some(address);
        self
    }

    pub(super) const fn tier(mut self, tier: Tier, prefix: &'static str) -> Self {
        self.tier = Some(tier.as_str());
        self.prefix = Some(prefix);
        self
    }

    pub(super) fn rule(mut self, rule: Option<RuleId>) -> Self {
        self.rule = rule;
        self
    }
}

/// Watches the checks.
pub(super) trait Trace {
    /// `make` is called only if somebody watches.
    fn step(&mut self, make: impl FnOnce() -> Step);
}

/// Nobody watches.
pub(super) struct Silent;

impl Trace for Silent {
    #[inline]
    fn step(&mut self, _: impl FnOnce() -> Step) {}
}

impl Trace for Vec<Step> {
    fn step(&mut self, make: impl FnOnce() -> Step) {
        self.push(make());
    }
}

impl Policy {
    /// What a request for this target would get, and why.
    pub fn explain(&self, question: &Question, own: &OwnAddresses) -> Explanation {
        let mut steps = Vec::new();
        let Question { protocol, port, .. } = *question;
        let host = match Host::parse(&question.host) {
            Ok(host) => host,
            Err(error) => return refused_request(Reason::BadTargetHost, error.to_string()),
        };
        if port == 0 {
            return refused_request(Reason::BadTargetPort, Reason::BadTargetPort.sentence().to_owned());
        }
        let (name, addresses) = match (self.judge_host(protocol, &host, port, &mut steps), &host) {
            (HostDecision::Refused(decision), _) => return explained(decision, steps),
            (HostDecision::Address(address), _) => (None, vec![address]),
            (HostDecision::Resolve, Host::Name(name)) => (Some(name), question.answers.clone()),
            (HostDecision::Resolve, Host::Ipv4(_) | Host::Ipv6(_)) => (None, Vec::new()),
        };
        let mut last = None;
        for address in addresses {
            let decision = self.judge_address(protocol, name, address, port, own, &mut steps);
            if !decision.allowed {
                return explained(decision, steps);
            }
            // The rule that is reported is the one of the address that is tried first.
            last = last.or(Some(decision));
        }
        match last {
            Some(decision) => explained(decision, steps),
            None => Explanation {
                verdict: Verdict::DependsOnAnswers,
                why: None,
                sentence: "the name passes; each of its addresses has to as well".to_owned(),
                rule: None,
                reason: None,
                steps,
            },
        }
    }
}

fn refused_request(reason: Reason, sentence: String) -> Explanation {
    Explanation { verdict: Verdict::Refused, why: None, sentence, rule: None, reason: Some(reason), steps: Vec::new() }
}

fn explained(decision: Decision, steps: Vec<Step>) -> Explanation {
    Explanation {
        verdict: if decision.allowed { Verdict::Allowed } else { Verdict::Refused },
        why: Some(decision.why),
        sentence: decision.why.sentence().to_owned(),
        reason: decision.refusal().map(|refusal| refusal.reason),
        rule: decision.rule,
        steps,
    }
}
