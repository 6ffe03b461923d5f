//! The compiled policy against the rules read one by one, as the module's documentation states them.

use std::net::IpAddr;
use std::sync::OnceLock;

use ipnet::IpNet;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;

const NAMES: [&str; 7] =
    ["a.example", "b.a.example", "c.b.a.example", "other.test", "printer.local", "wpad", "x.internal"];
const ADDRESSES: [&str; 15] = [
    "8.8.8.8",
    "8.8.8.9",
    "9.9.9.9",
    "10.0.0.1",
    "10.1.0.1",
    "127.0.0.1",
    "169.254.169.254",
    "192.0.0.8",
    "2620:fe::fe",
    "fd00::1",
    "64:ff9b::808:808",
    "64:ff9b::a00:1",
    "::ffff:10.0.0.1",
    "2a00:1450::",
    "::1",
];
const DESTINATIONS: [&str; 25] = [
    "::1",
    "*",
    "8.8.8.8",
    "8.8.8.0/24",
    "8.0.0.0/8",
    "0.0.0.0/0",
    "10.0.0.0/8",
    "10.0.0.0/16",
    "10.1.0.1",
    "127.0.0.0/8",
    "127.0.0.1",
    "192.0.0.0/24",
    "2620:fe::/32",
    "::/0",
    "fd00::/8",
    "64:ff9b::/96",
    "::ffff:0:0/96",
    "2a00:1450::",
    "a.example",
    "*.a.example",
    "*.example",
    "other.test",
    "*.local",
    "wpad",
    "*.test",
];

fn any_rule() -> impl Strategy<Value = (Action, Vec<&'static str>, u16, u16)> {
    let action = prop_oneof![3 => Just(Action::Allow), 1 => Just(Action::Deny)];
    (action, prop::collection::vec(select(&DESTINATIONS[..]), 1..4), 1_u16..6, 0_u16..4)
}

struct Naive<'a> {
    rules: &'a [RuleDocument],
    danger: &'a [IpNet],
    name: Option<&'a str>,
    address: IpAddr,
    port: u16,
}

impl Naive<'_> {
    fn forms(&self) -> Vec<IpAddr> {
        match self.address {
            IpAddr::V4(_) => vec![self.address],
            IpAddr::V6(outer) if outer.is_loopback() => vec![self.address],
            IpAddr::V6(outer) => std::iter::once(self.address).chain(embedded_ipv4(outer).map(IpAddr::from)).collect(),
        }
    }

    fn tier(form: IpAddr) -> Tier {
        let own = table().iter().find(|row| row.prefix.contains(&form)).map(|row| row.tier);
        let anycast = matches!(form, IpAddr::V6(form) if form.to_bits() << 64 == 0);
        match own {
            Some(tier) => tier,
            None if anycast => Tier::DefaultDeny,
            None => Tier::Public,
        }
    }

    fn in_danger(&self, form: IpAddr) -> bool {
        self.danger.iter().any(|prefix| prefix.contains(&form))
    }

    fn prefix(text: &str) -> Option<IpNet> {
        text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
    }

    /// Whether the prefix lies inside a special one, or is one special address.
    fn names_special(prefix: IpNet) -> bool {
        let around = table().iter().find(|row| row.prefix.contains(&prefix));
        around.is_some_and(|row| row.tier != Tier::Public)
            || (prefix.prefix_len() == prefix.max_prefix_len() && classify(prefix.addr()).tier != Tier::Public)
    }

    fn first(&self, action: Action, matches: impl Fn(&str) -> bool) -> Option<usize> {
        self.rules.iter().position(|rule| {
            let PortsDocument::List(ports) = &rule.ports else { return false };
            let [PortSpec::Text(range)] = &ports[..] else { return false };
            let (first, last) = range.split_once('-').unwrap();
            let has_port = (first.parse().unwrap()..=last.parse().unwrap()).contains(&self.port);
            rule.action == action && has_port && rule.destination.iter().any(|text| matches(text))
        })
    }

    fn names(&self, destination: &str) -> bool {
        self.name.is_some_and(|name| match destination.strip_prefix("*.") {
            Some(suffix) => name.strip_suffix(suffix).is_some_and(|rest| rest.ends_with('.')),
            None => name == destination,
        })
    }

    /// Whether it is allowed, and by which rule, or refused, and by which.
    fn verdict(&self) -> (bool, Option<usize>) {
        let forms = self.forms();
        let contains = |text: &str, form: &IpAddr| Self::prefix(text).is_some_and(|prefix| prefix.contains(form));
        let by_address = self.first(Action::Deny, |text| forms.iter().any(|form| contains(text, form)));
        for form in &forms {
            let tier = Self::tier(*form);
            if tier == Tier::Never && !self.in_danger(*form) {
                return (false, None);
            }
            let named = self.first(Action::Allow, |text| {
                contains(text, form) && Self::prefix(text).is_some_and(Self::names_special)
            });
            if tier != Tier::Public && named.is_none() {
                return (false, by_address);
            }
        }
        let denied = self.first(Action::Deny, |text| {
            text == "*" || self.names(text) || forms.iter().any(|form| contains(text, form))
        });
        if denied.is_some() {
            return (false, denied);
        }
        let public = Self::tier(self.address) == Tier::Public;
        let local = self.name.is_some_and(|name| ["wpad", "printer.local", "x.internal"].contains(&name));
        let allowed = self.first(Action::Allow, |text| {
            let by_prefix =
                contains(text, &self.address) && (public || Self::prefix(text).is_some_and(Self::names_special));
            by_prefix || (public && (self.names(text) || (text == "*" && !local)))
        });
        (allowed.is_some(), allowed)
    }
}

fn danger() -> &'static Danger {
    static DANGER: OnceLock<Danger> = OnceLock::new();
    DANGER.get_or_init(|| Danger {
        prefixes: vec!["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()],
        ..Danger::default()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// HG-2: the compiled matcher and a walk over the rules agree on verdict and rule, and the explanation with both.
    #[test]
    fn the_compiled_policy_agrees_with_the_rules_read_one_by_one(
        rules in prop::collection::vec(any_rule(), 0..14),
        name_text in prop::option::of(select(&NAMES[..])),
        address_text in select(&ADDRESSES[..]),
        port in 1_u16..8,
    ) {
        let rules: Vec<RuleDocument> = rules
            .into_iter()
            .enumerate()
            .map(|(index, (action, destination, first, more))| RuleDocument {
                id: index.to_string(),
                action,
                protocol: Protocol::Udp,
                destination: destination.into_iter().map(str::to_owned).collect(),
                ports: PortsDocument::List(vec![PortSpec::Text(format!("{first}-{}", first + more))]),
            })
            .collect();
        let policy = Policy::compile(&rules, danger()).unwrap();
        let address: IpAddr = address_text.parse().unwrap();
        let naive = Naive { rules: &rules, danger: &danger().prefixes, name: name_text, address, port };
        let (allowed, index) = naive.verdict();
        let rule = index.map(|index| RuleId::new(&index.to_string()));

        let own = OwnAddresses::default();
        let parsed = name_text.map(|text| Name::parse(text).unwrap());
        let decision = policy.check_address(Protocol::Udp, parsed.as_ref(), address, port, &own);
        prop_assert_eq!((decision.allowed, &decision.rule), (allowed, &rule), "{:?}", decision);

        let question = Question {
            protocol: Protocol::Udp,
            host: name_text.unwrap_or(address_text).to_owned(),
            port,
            answers: vec![address],
        };
        let explanation = policy.explain(&question, &own);
        let host_passes = parsed.is_none_or(|name| {
            policy.check_host(Protocol::Udp, &Host::Name(name), port) == HostDecision::Resolve
        });
        // A name is refused before it is resolved only where its addresses would be as well.
        prop_assert!(host_passes || !allowed, "refused by name, allowed by address");
        prop_assert_eq!(explanation.verdict == Verdict::Allowed, allowed);
        if host_passes {
            prop_assert_eq!(explanation.rule, rule);
        }
    }
}
