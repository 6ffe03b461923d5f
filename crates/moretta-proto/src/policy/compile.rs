//! Rules to matchers. Whatever could be understood in two ways, or could match nothing, is an error.

use std::collections::BTreeSet;

use ipnet::IpNet;
use moretta_wire::host::{Host, Name};
use moretta_wire::prefix::{SpecialPrefix, Tier, classify, table};

use super::document::{Action, PolicyDocument, PortSpec, PortsDocument, RuleDocument, RuleError};
use super::index::{NameIndex, PrefixEntry, PrefixIndex};
use super::ports::{PortMap, PortRange};
use super::{Matcher, Policy, RuleId};
use crate::Protocol;

/// More rules than any operator writes, few enough for 32-bit numbers and a bounded snapshot.
const MAX_RULES: usize = 1_000_000;
const MAX_ID_BYTES: usize = 128;

/// What `danger_…` settings open to rules. Without any, nothing of tier `never` is ever reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Danger {
    /// Prefixes of tier `never`, or parts of them, or addresses of the gateway itself.
    pub prefixes: Vec<IpNet>,
    /// All of the gateway's own addresses.
    pub own_addresses: bool,
    /// Names of the machine itself.
    pub local_names: bool,
}

impl Danger {
    /// Reads the settings of a document.
    ///
    /// # Errors
    /// A prefix that does not parse, or that is wider than a special prefix: it would open what nobody named.
    pub fn parse(document: &PolicyDocument) -> Result<Self, Vec<RuleError>> {
        let mut prefixes = Vec::new();
        let mut errors = Vec::new();
        for (index, text) in document.danger_allow_prefixes.iter().enumerate() {
            match parse_prefix(text).and_then(check_danger) {
                Ok(prefix) => prefixes.push(prefix),
                Err(reason) => {
                    let field = format!("danger_allow_prefixes[{index}]");
                    errors.push(RuleError { index: None, id: None, field, reason });
                }
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let PolicyDocument { danger_allow_own_addresses, danger_allow_local_names, .. } = document;
        Ok(Self { prefixes, own_addresses: *danger_allow_own_addresses, local_names: *danger_allow_local_names })
    }

    /// Whether a prefix was named that has all of `prefix`.
    pub(super) fn opens(&self, prefix: IpNet) -> bool {
        self.prefixes.iter().any(|open| open.contains(&prefix))
    }
}

fn check_danger(prefix: IpNet) -> Result<IpNet, String> {
    if is_single(prefix) || special_around(prefix).is_some() {
        return Ok(prefix);
    }
    Err(format!("{prefix} is neither a special prefix, nor part of one, nor one address; name what is to be opened"))
}

/// What one destination is.
enum Destination {
    Any,
    Prefix(IpNet),
    Name(Name),
    Suffix(Name),
}

/// Entries of one protocol and action, before they become tables.
#[derive(Default)]
struct Entries {
    v4: Vec<PrefixEntry>,
    v6: Vec<PrefixEntry>,
    names: Vec<(Box<str>, u32, PortRange)>,
    suffixes: Vec<(Box<str>, u32, PortRange)>,
    any: Vec<(u32, PortRange)>,
}

impl Entries {
    fn build(self) -> Matcher {
        let mut prefix_ports: Vec<(u32, PortRange)> =
            self.v4.iter().chain(&self.v6).map(|entry| (entry.rule, entry.ports)).collect();
        prefix_ports.sort_by_key(|(rule, _)| *rule);
        Matcher {
            v4: PrefixIndex::new(self.v4),
            v6: PrefixIndex::new(self.v6),
            names: NameIndex::new(self.names),
            suffixes: NameIndex::new(self.suffixes),
            any: PortMap::new(self.any),
            prefix_ports: PortMap::new(prefix_ports),
        }
    }

    fn add(&mut self, rule: u32, destination: &Destination, ports: &[PortRange]) {
        for range in ports {
            match destination {
                Destination::Any => self.any.push((rule, *range)),
                Destination::Name(name) => self.names.push((name.as_str().into(), rule, *range)),
                Destination::Suffix(name) => self.suffixes.push((name.as_str().into(), rule, *range)),
                Destination::Prefix(prefix) => {
                    let names_special = names_special(*prefix);
                    let entry = PrefixEntry { prefix: *prefix, names_special, rule, ports: *range };
                    match prefix {
                        IpNet::V4(_) => self.v4.push(entry),
                        IpNet::V6(_) => self.v6.push(entry),
                    }
                }
            }
        }
    }
}

impl Policy {
    /// Compiles rules in about a microsecond each.
    ///
    /// # Errors
    /// Every fault of every rule, in order. Never empty.
    pub fn compile(rules: &[RuleDocument], danger: &Danger) -> Result<Self, Vec<RuleError>> {
        let mut errors = Vec::new();
        if rules.len() > MAX_RULES {
            let reason = format!("expected at most {MAX_RULES} rules, found {}", rules.len());
            return Err(vec![RuleError { index: None, id: None, field: "rules".to_owned(), reason }]);
        }
        let [mut udp, mut tcp, mut ip]: [[Entries; 2]; 3] = Default::default();
        let mut ids = Vec::with_capacity(rules.len());
        let mut seen = BTreeSet::new();
        for (index, rule) in rules.iter().enumerate() {
            let mut fault = |field: String, reason: String| {
                errors.push(RuleError { index: Some(index), id: Some(rule.id.clone()), field, reason });
            };
            check_id(&rule.id, &mut seen).unwrap_or_else(|reason| fault("id".to_owned(), reason));
            ids.push(RuleId::new(&rule.id));
            let ports = parse_ports(rule).unwrap_or_else(|(field, reason)| {
                fault(field, reason);
                Vec::new()
            });
            if rule.destination.is_empty() {
                fault("destination".to_owned(), "is empty, so the rule would match nothing".to_owned());
            }
            for (place, text) in rule.destination.iter().enumerate() {
                let destination =
                    parse_destination(text).and_then(|destination| check_tier(destination, rule.action, danger));
                match destination {
                    Ok(destination) => {
                        let [allow, deny] = match rule.protocol {
                            Protocol::Udp => &mut udp,
                            Protocol::Tcp => &mut tcp,
                            Protocol::Ip => &mut ip,
                        };
                        let entries = match rule.action {
                            Action::Allow => allow,
                            Action::Deny => deny,
                        };
                        entries.add(index as u32, &destination, &ports);
                    }
                    Err(reason) => fault(format!("destination[{place}]"), reason),
                }
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let matchers = [udp, tcp, ip].map(|by_action| by_action.map(Entries::build));
        Ok(Self { ids: ids.into_boxed_slice(), matchers, danger: danger.clone() })
    }
}

fn check_id<'a>(id: &'a str, seen: &mut BTreeSet<&'a str>) -> Result<(), String> {
    if id.is_empty() || id.len() > MAX_ID_BYTES {
        return Err(format!("expected 1 to {MAX_ID_BYTES} bytes, found {}", id.len()));
    }
    if id.chars().any(char::is_control) {
        return Err("has a control character".to_owned());
    }
    if seen.insert(id) { Ok(()) } else { Err("another rule has the same id".to_owned()) }
}

fn parse_ports(rule: &RuleDocument) -> Result<Vec<PortRange>, (String, String)> {
    let ports = match &rule.ports {
        PortsDocument::Word(word) if word == "*" => return Ok(vec![PortRange::ALL]),
        PortsDocument::Word(word) => {
            return Err(("ports".to_owned(), format!("expected \"*\" or a list, found \"{word}\"")));
        }
        PortsDocument::List(list) if list.is_empty() => {
            return Err(("ports".to_owned(), "is empty, so the rule would match nothing".to_owned()));
        }
        PortsDocument::List(list) => list,
    };
    if rule.protocol == Protocol::Ip {
        return Err(("ports".to_owned(), "IP tunnels have no ports: write \"*\"".to_owned()));
    }
    let parse = |(place, spec): (usize, &PortSpec)| {
        parse_port_spec(spec).ok_or_else(|| {
            let found = match spec {
                PortSpec::Number(number) => number.to_string(),
                PortSpec::Text(text) => format!("\"{text}\""),
            };
            (
                format!("ports[{place}]"),
                format!("expected a port from 1 to 65535 or a range \"8000-8100\", found {found}"),
            )
        })
    };
    ports.iter().enumerate().map(parse).collect()
}

fn parse_port_spec(spec: &PortSpec) -> Option<PortRange> {
    let port = |text: &str| moretta_wire::host::parse_port(text).ok();
    let (first, last) = match spec {
        PortSpec::Number(number) => {
            let port = u16::try_from(*number).ok().filter(|port| *port > 0)?;
            (port, port)
        }
        PortSpec::Text(text) => match text.split_once('-') {
            Some((first, last)) => (port(first)?, port(last)?),
            None => (port(text)?, port(text)?),
        },
    };
    (first <= last).then_some(PortRange { first, last })
}

fn parse_destination(text: &str) -> Result<Destination, String> {
    if text == "*" {
        return Ok(Destination::Any);
    }
    if let Some(suffix) = text.strip_prefix("*.") {
        let name = Name::parse(suffix).map_err(|error| format!("\"{text}\": {error}"))?;
        return Ok(Destination::Suffix(name));
    }
    if text.contains('*') {
        return Err(format!("\"{text}\": * stands alone, or first in *.suffix"));
    }
    if text.contains('/') {
        return parse_prefix(text).map(Destination::Prefix);
    }
    match Host::parse(text).map_err(|error| format!("\"{text}\": {error}"))? {
        Host::Name(name) => Ok(Destination::Name(name)),
        Host::Ipv4(address) => Ok(Destination::Prefix(IpNet::from(std::net::IpAddr::from(address)))),
        Host::Ipv6(address) => Ok(Destination::Prefix(IpNet::from(std::net::IpAddr::from(address)))),
    }
}

/// An address or a prefix without host bits.
fn parse_prefix(text: &str) -> Result<IpNet, String> {
    let expected = || format!("expected a prefix such as 192.0.2.0/24 or 2001:db8::/32, found \"{text}\"");
    let Some((address, length)) = text.split_once('/') else {
        return text.parse().map(|address: std::net::IpAddr| IpNet::from(address)).map_err(|_| expected());
    };
    // `IpNet` takes lengths such as "+8" and "08".
    if length.is_empty()
        || length.len() > 3
        || (length.len() > 1 && length.starts_with('0'))
        || !length.bytes().all(|byte| byte.is_ascii_digit())
    {
        return Err(expected());
    }
    let address: std::net::IpAddr = address.parse().map_err(|_| expected())?;
    let prefix = length.parse().ok().and_then(|length| IpNet::new(address, length).ok()).ok_or_else(expected)?;
    if prefix != prefix.trunc() {
        return Err(format!("{text} has bits set beyond its length; did you mean {}?", prefix.trunc()));
    }
    Ok(prefix)
}

/// C-15: an entry that allows what nothing may reach is a mistake better found now.
fn check_tier(destination: Destination, action: Action, danger: &Danger) -> Result<Destination, String> {
    if action == Action::Deny {
        return Ok(destination);
    }
    match &destination {
        Destination::Prefix(prefix) => {
            let never = if is_single(*prefix) {
                let judged = classify(prefix.addr());
                (judged.tier == Tier::Never).then_some(judged.name)
            } else {
                special_around(*prefix).filter(|row| row.tier == Tier::Never).map(|row| row.name)
            };
            match never {
                Some(name) if !danger.opens(*prefix) => Err(format!(
                    "{prefix} is never a target ({name}); to allow it all the same, name it in danger_allow_prefixes as well"
                )),
                Some(_) | None => Ok(destination),
            }
        }
        Destination::Name(name) | Destination::Suffix(name)
            if super::names::classify(name) == Tier::Never && !danger.local_names =>
        {
            Err(format!(
                "{name} is a name of the machine itself; to allow it all the same, set danger_allow_local_names as well"
            ))
        }
        Destination::Any | Destination::Name(_) | Destination::Suffix(_) => Ok(destination),
    }
}

/// The most specific special prefix that has all of `prefix`. The table marks exceptions within special prefixes as
/// public; those are not special.
fn special_around(prefix: IpNet) -> Option<&'static SpecialPrefix> {
    table().iter().find(|row| row.prefix.contains(&prefix)).filter(|row| row.tier != Tier::Public)
}

/// Whether every address of `prefix` is known to be special to whoever wrote it: it lies inside a special prefix, or is
/// one address that is special by itself. A wider prefix, such as 0.0.0.0/0, names nothing.
fn names_special(prefix: IpNet) -> bool {
    special_around(prefix).is_some() || (is_single(prefix) && classify(prefix.addr()).tier != Tier::Public)
}

fn is_single(prefix: IpNet) -> bool {
    prefix.prefix_len() == prefix.max_prefix_len()
}

#[cfg(test)]
#[path = "compile_tests.rs"]
mod tests;
