//! Who may be reached: rules compiled to tables, verdicts, and their explanation.
//!
//! Any matching rule that denies wins, then any that allows; nothing matched means no. Before the rules come the tiers
//! (C-15): targets that nothing but a `danger_…` setting opens to rules (loopback, link-local, multicast,
//! own addresses …), targets that only a rule opens which names their prefix (private, special purpose), and public
//! ones. A name is judged before it is resolved, and then each of its addresses.
//!
//! This is the only place where policy is evaluated: an admission, `explain` and the tests all ask it.

mod compile;
mod document;
mod explain;
mod index;
mod names;
mod own;
mod ports;

use std::net::IpAddr;

use moretta_wire::host::{Host, Name};
use moretta_wire::prefix::{Classified, Tier, classify, embedded_ipv4, table};
use serde::{Serialize, Serializer};

pub use compile::Danger;
pub use document::{Action, PolicyDocument, PortSpec, PortsDocument, RuleDocument, RuleError};
pub use explain::{Explanation, Outcome, Question, Step, Verdict};
pub use own::OwnAddresses;

use crate::Protocol;
use crate::error::{Reason, Refusal};
use explain::{Check, Silent, Trace};
use index::{NameIndex, PrefixIndex};
use ports::PortMap;

/// Names a rule: the `id` of its document.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleId(std::sync::Arc<str>);

impl RuleId {
    /// From the document.
    pub fn new(id: &str) -> Self {
        Self(id.into())
    }

    /// The word.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for RuleId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for RuleId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// What decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// A rule allows it and none denies it.
    AllowedByRule,
    /// A rule that denies names it, or something around it.
    DeniedByRule,
    /// No rule allows it.
    NothingMatched,
    /// It is a name of the machine itself.
    LocalName,
    /// It is of tier `never`.
    Never,
    /// It is of tier `default-deny`, and no rule that allows names its prefix.
    PrefixNotNamed,
    /// It is an address of the gateway.
    OwnAddress,
    /// It is a socket of the gateway itself.
    OwnSocket,
}

impl Why {
    /// One English sentence without a full stop.
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::AllowedByRule => "a rule allows it and none denies it",
            Self::DeniedByRule => "a rule denies it",
            Self::NothingMatched => "no rule allows it",
            Self::LocalName => "it is a name of the machine itself; only danger_allow_local_names opens those to rules",
            Self::Never => "nothing reaches such addresses; only danger_allow_prefixes opens them to rules",
            Self::PrefixNotNamed => "it is no public address and no rule that allows names its prefix",
            Self::OwnAddress => {
                "it is an address of the gateway; only danger_allow_own_addresses or danger_allow_prefixes opens it to rules"
            }
            Self::OwnSocket => "it is a socket of the gateway itself",
        }
    }
}

/// A verdict on one address, or on a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Whether it may be reached.
    pub allowed: bool,
    /// The first rule that decided; `None` where a tier did, or nothing matched.
    pub rule: Option<RuleId>,
    /// The address's tier, or the name's.
    pub tier: Tier,
    /// What decided.
    pub why: Why,
    /// What a refusal says to the client.
    reason: Reason,
}

impl Decision {
    /// The refusal that a request gets; `None` if it is allowed.
    pub fn refusal(&self) -> Option<Refusal> {
        (!self.allowed).then(|| Refusal::new(self.reason).rule(self.rule.clone()))
    }
}

/// A verdict on a host before anything is resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostDecision {
    /// Whatever its addresses are, it is refused; nothing is to be resolved.
    Refused(Decision),
    /// A name that may be allowed: resolve it, then ask about each address.
    Resolve,
    /// An address; ask about it.
    Address(IpAddr),
}

/// Compiled rules. Immutable; a new policy is a new value.
#[derive(Debug)]
pub struct Policy {
    ids: Box<[RuleId]>,
    /// By protocol, then allow and deny.
    matchers: [[Matcher; 2]; 3],
    danger: Danger,
}

/// The rules of one protocol and one action.
#[derive(Debug, Default)]
struct Matcher {
    v4: PrefixIndex,
    v6: PrefixIndex,
    names: NameIndex,
    suffixes: NameIndex,
    any: PortMap,
    /// Ports of every rule with a prefix: whether some address could match.
    prefix_ports: PortMap,
}

impl Matcher {
    fn address(&self, address: IpAddr, port: u16, special_only: bool) -> Option<u32> {
        let index = if address.is_ipv4() { &self.v4 } else { &self.v6 };
        index.get(address, port, special_only)
    }

    fn name(&self, name: &Name, port: u16) -> Option<u32> {
        first(self.names.get(name.as_str(), port), self.suffixes.get_parent(name, port))
    }
}

/// The rule that stands first.
fn first(left: Option<u32>, right: Option<u32>) -> Option<u32> {
    left.into_iter().chain(right).min()
}

impl Policy {
    /// No rules: everything is refused.
    pub fn deny_all() -> Self {
        Self { ids: Box::default(), matchers: Default::default(), danger: Danger::default() }
    }

    /// How many rules there are.
    pub const fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there are no rules.
    pub const fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Judges a host before anything is resolved, so that a refused name never reaches DNS.
    pub fn check_host(&self, protocol: Protocol, host: &Host, port: u16) -> HostDecision {
        self.judge_host(protocol, host, port, &mut Silent)
    }

    /// Judges one address: the one that the request names, or one that `name` resolved to.
    ///
    /// Of a name's addresses every one must be allowed, or none is used: an answer with a single prohibited address is
    /// no answer to trust (D-2, D-3).
    pub fn check_address(
        &self,
        protocol: Protocol,
        name: Option<&Name>,
        address: IpAddr,
        port: u16,
        own: &OwnAddresses,
    ) -> Decision {
        self.judge_address(protocol, name, address, port, own, &mut Silent)
    }

    fn judge_host(&self, protocol: Protocol, host: &Host, port: u16, trace: &mut impl Trace) -> HostDecision {
        let name = match host {
            Host::Ipv4(address) => return HostDecision::Address((*address).into()),
            Host::Ipv6(address) => return HostDecision::Address((*address).into()),
            Host::Name(name) => name,
        };
        let [allow, deny] = self.matchers(protocol);
        let tier = names::classify(name);
        let refused =
            |rule: Option<u32>, why| HostDecision::Refused(self.refused(rule, tier, why, Reason::PolicyRefused));
        if tier == Tier::Never && !self.danger.local_names {
            trace.step(|| Step::new(Check::LocalName, Outcome::Refused));
            return refused(None, Why::LocalName);
        }
        trace.step(|| Step::new(Check::LocalName, Outcome::Passed));
        let denied = first(deny.name(name, port), deny.any.get(port));
        trace.step(|| Step::new(Check::NameDenied, Outcome::refused_if(denied.is_some())).rule(self.id(denied)));
        if denied.is_some() {
            return refused(denied, Why::DeniedByRule);
        }
        let by_name = first(allow.name(name, port), allow.any.get(port).filter(|_| tier == Tier::Public));
        // A rule with a prefix may yet allow what the name resolves to.
        let possible = by_name.is_some() || allow.prefix_ports.get(port).is_some();
        trace.step(|| Step::new(Check::NameAllowable, Outcome::refused_if(!possible)).rule(self.id(by_name)));
        if possible { HostDecision::Resolve } else { refused(None, Why::NothingMatched) }
    }

    fn judge_address(
        &self,
        protocol: Protocol,
        name: Option<&Name>,
        address: IpAddr,
        port: u16,
        own: &OwnAddresses,
        trace: &mut impl Trace,
    ) -> Decision {
        let [allow, deny] = self.matchers(protocol);
        let judged = classify(address);
        let prohibited = |rule, why| self.refused(rule, judged.tier, why, Reason::TargetProhibited);
        let forms = Forms::of(address);

        // 1. The gateway itself.
        let own_socket = forms.iter().any(|form| own.is_own_socket(form, port));
        trace.step(|| Step::new(Check::OwnSocket, Outcome::refused_if(own_socket)).address(address));
        if own_socket {
            return prohibited(None, Why::OwnSocket);
        }
        let own_address = !self.danger.own_addresses
            && forms.iter().any(|form| own.contains(form) && !self.danger.opens(form.into()));
        trace.step(|| Step::new(Check::OwnAddress, Outcome::refused_if(own_address)).address(address));
        if own_address {
            return prohibited(None, Why::OwnAddress);
        }

        // 2. Tiers. An IPv6 address that carries an IPv4 address reaches both, so both have to pass.
        for form in forms.iter() {
            let special = classify_form(form, address, judged);
            let never = special.tier == Tier::Never && !self.danger.opens(form.into());
            let named = special.tier == Tier::Public || allow.address(form, port, true).is_some();
            trace.step(|| {
                Step::new(Check::Tier, Outcome::refused_if(never || !named))
                    .address(form)
                    .tier(special.tier, special.name)
            });
            if never {
                return prohibited(None, Why::Never);
            }
            if !named {
                // A rule that denies says more than the absence of one that allows.
                let denied = forms.iter().filter_map(|form| deny.address(form, port, false)).min();
                let why = if denied.is_some() { Why::DeniedByRule } else { Why::PrefixNotNamed };
                return prohibited(denied, why);
            }
        }

        // 3. Rules that deny.
        let by_address = forms.iter().filter_map(|form| deny.address(form, port, false)).min();
        let by_name = name.and_then(|name| deny.name(name, port));
        let denied = [by_address, by_name, deny.any.get(port)].into_iter().flatten().min();
        trace.step(|| {
            Step::new(Check::AddressDenied, Outcome::refused_if(denied.is_some()))
                .address(address)
                .rule(self.id(denied))
        });
        if denied.is_some() {
            // RFC 9209 §2.3.5 and §2.3.17: whether the address or something else is what is not wanted.
            let reason = if denied == by_address { Reason::TargetProhibited } else { Reason::PolicyRefused };
            return self.refused(denied, judged.tier, Why::DeniedByRule, reason);
        }

        // 4. Rules that allow. Beyond public addresses only one that names the prefix; that there is one is known.
        let public = classify_form(address, address, judged).tier == Tier::Public;
        let by_prefix = allow.address(address, port, !public);
        let by_name = name.filter(|_| public).and_then(|name| allow.name(name, port));
        let reaches_any = public && name.is_none_or(|name| names::classify(name) == Tier::Public);
        let by_any = allow.any.get(port).filter(|_| reaches_any);
        let allowed = [by_prefix, by_name, by_any].into_iter().flatten().min();
        trace.step(|| {
            Step::new(Check::AddressAllowed, Outcome::refused_if(allowed.is_none()))
                .address(address)
                .rule(self.id(allowed))
        });
        match allowed {
            Some(_) => Decision {
                allowed: true,
                rule: self.id(allowed),
                tier: judged.tier,
                why: Why::AllowedByRule,
                reason: Reason::PolicyRefused,
            },
            None => self.refused(None, judged.tier, Why::NothingMatched, Reason::PolicyRefused),
        }
    }

    fn matchers(&self, protocol: Protocol) -> &[Matcher; 2] {
        let [udp, tcp, ip] = &self.matchers;
        match protocol {
            Protocol::Udp => udp,
            Protocol::Tcp => tcp,
            Protocol::Ip => ip,
        }
    }

    fn id(&self, rule: Option<u32>) -> Option<RuleId> {
        self.ids.get(rule? as usize).cloned()
    }

    fn refused(&self, rule: Option<u32>, tier: Tier, why: Why, reason: Reason) -> Decision {
        Decision { allowed: false, rule: self.id(rule), tier, why, reason }
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self::deny_all()
    }
}

/// The address and every IPv4 address it may be delivered to, of which there are at most three.
#[derive(Clone, Copy)]
struct Forms([Option<IpAddr>; 4]);

impl Forms {
    fn of(address: IpAddr) -> Self {
        let mut forms = [Some(address), None, None, None];
        // RFC 4291 §2.5: `::` and `::1` have the form of an IPv4-compatible address and are none.
        if let IpAddr::V6(outer) = address
            && !outer.is_unspecified()
            && !outer.is_loopback()
        {
            for (slot, inner) in forms.iter_mut().skip(1).zip(embedded_ipv4(outer)) {
                *slot = Some(inner.into());
            }
        }
        Self(forms)
    }

    fn iter(&self) -> impl Iterator<Item = IpAddr> {
        self.0.into_iter().flatten()
    }
}

/// The classification of one form by itself. `judged` is that of the whole address, its embedded ones included.
fn classify_form(form: IpAddr, address: IpAddr, judged: Classified) -> Classified {
    if form != address {
        return classify(form);
    }
    if judged.embedded.is_none() {
        return judged;
    }
    match table().iter().find(|row| row.prefix.contains(&form)) {
        Some(row) => Classified { tier: row.tier, prefix: Some(row.prefix), name: row.name, embedded: None },
        None => Classified { tier: Tier::Public, prefix: None, name: "public", embedded: None },
    }
}

#[cfg(test)]
#[path = "model_tests.rs"]
mod model_tests;
#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
