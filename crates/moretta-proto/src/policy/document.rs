//! Rules as they are written, and what can be wrong with them.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Danger, Policy};
use crate::Protocol;
use crate::suggest::nearest;

/// What a rule does with what it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Lets it through, unless a rule denies it.
    Allow,
    /// Refuses it, whatever else allows it.
    Deny,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleDocument {
    /// Names the rule in records and explanations; unique, 1 to 128 bytes.
    pub id: String,
    /// Allow or deny.
    pub action: Action,
    /// The kind of tunnel.
    pub protocol: Protocol,
    /// Any of: an address, a prefix, a name, `*.suffix`, `*`.
    ///
    /// `*` and names allow public targets only; others need a rule that names their prefix. `*.suffix` is every name
    /// below the suffix, at any depth, and not the suffix itself. In a rule that denies, `*` is everything.
    pub destination: Vec<String>,
    /// Which ports.
    pub ports: PortsDocument,
}

/// `"*"`, or a list of ports and ranges of ports: `[53, "8000-8100"]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum PortsDocument {
    /// `"*"`: every port. Any other word is an error.
    Word(String),
    /// Each a port or a range.
    List(Vec<PortSpec>),
}

/// One port or range.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum PortSpec {
    /// A port, 1 to 65535.
    Number(u64),
    /// A range, `"first-last"`, or a port.
    Text(String),
}

/// The whole policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PolicyDocument {
    /// In any order: deny wins, and nothing matched means deny. No rules: everything is refused.
    pub rules: Vec<RuleDocument>,
    /// Prefixes of tier `never` (loopback, link-local, multicast …), or parts of them, or addresses of the gateway
    /// itself, that rules may open like any other special prefix.
    pub danger_allow_prefixes: Vec<String>,
    /// Whether rules may open the gateway's own addresses.
    pub danger_allow_own_addresses: bool,
    /// Whether rules may open names of the machine itself, such as `localhost`.
    pub danger_allow_local_names: bool,
}

/// One thing that is wrong with a policy; nothing of that policy takes effect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
pub struct RuleError {
    /// Which rule, from 0; `None`: the policy as a whole.
    pub index: Option<usize>,
    /// Its id, as far as it has one.
    pub id: Option<String>,
    /// Which field of it, e.g. `destination[2]`; empty: the rule as a whole.
    pub field: String,
    /// What was expected and what came; for an unknown key, the nearest valid one.
    pub reason: String,
}

impl std::fmt::Display for RuleError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(index) = self.index {
            write!(f, "rules[{index}]")?;
            if let Some(id) = &self.id {
                write!(f, " ({id})")?;
            }
            f.write_str(if self.field.is_empty() { ": " } else { "." })?;
        }
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.reason)
    }
}

const RULE_KEYS: [&str; 5] = ["id", "action", "protocol", "destination", "ports"];
const POLICY_KEYS: [&str; 4] =
    ["rules", "danger_allow_prefixes", "danger_allow_own_addresses", "danger_allow_local_names"];

impl PolicyDocument {
    /// Reads a document and says everything that is wrong with its shape, rule by rule; values are judged by
    /// [`compile`](Self::compile).
    ///
    /// # Errors
    /// Every fault found, in the order of the document. Never empty.
    pub fn parse(document: &Value) -> Result<Self, Vec<RuleError>> {
        let Some(object) = document.as_object() else {
            return Err(vec![whole(String::new(), format!("expected a table, found {}", kind(document)))]);
        };
        let mut errors: Vec<RuleError> =
            unknown_keys(object.keys(), &POLICY_KEYS).map(|(key, reason)| whole(key, reason)).collect();
        match object.get("rules") {
            Some(Value::Array(rules)) => {
                errors.extend(rules.iter().enumerate().flat_map(|(index, rule)| check_rule(index, rule)));
            }
            Some(other) => errors.push(whole("rules".to_owned(), format!("expected a list, found {}", kind(other)))),
            None => {}
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        // What is left is a wrong type among the settings of the policy as a whole.
        Self::deserialize(document).map_err(|error| vec![whole(String::new(), error.to_string())])
    }

    /// The matcher of this policy.
    ///
    /// # Errors
    /// Every fault found. Never empty.
    pub fn compile(&self) -> Result<Policy, Vec<RuleError>> {
        let danger = Danger::parse(self)?;
        Policy::compile(&self.rules, &danger)
    }
}

fn whole(field: String, reason: String) -> RuleError {
    RuleError { index: None, id: None, field, reason }
}

/// What is wrong with the shape of one rule.
fn check_rule(index: usize, rule: &Value) -> Vec<RuleError> {
    let id = rule.get("id").and_then(Value::as_str).map(str::to_owned);
    let error =
        |field: &str, reason: String| RuleError { index: Some(index), id: id.clone(), field: field.to_owned(), reason };
    let Some(object) = rule.as_object() else {
        return vec![error("", format!("expected a table, found {}", kind(rule)))];
    };
    let mut errors: Vec<RuleError> =
        unknown_keys(object.keys(), &RULE_KEYS).map(|(key, reason)| error(&key, reason)).collect();
    for key in RULE_KEYS {
        let Some(value) = object.get(key) else {
            errors.push(error(key, "is missing".to_owned()));
            continue;
        };
        let fault = match key {
            "action" => check_word(value, &["allow", "deny"]),
            "protocol" => check_word(value, &["udp", "tcp", "ip"]),
            "destination" => check_list(value, "a list of addresses, prefixes and names", Value::is_string),
            "ports" if value.is_string() => None,
            "ports" => {
                check_list(value, "\"*\" or a list of ports and ranges", |item| item.is_u64() || item.is_string())
            }
            _ => (!value.is_string()).then(|| format!("expected a text, found {}", kind(value))),
        };
        errors.extend(fault.map(|reason| error(key, reason)));
    }
    errors
}

fn check_word(value: &Value, words: &[&str]) -> Option<String> {
    match value.as_str() {
        Some(word) if words.contains(&word) => None,
        Some(word) => Some(format!("expected {}, found \"{word}\"", words.join(" or "))),
        None => Some(format!("expected {}, found {}", words.join(" or "), kind(value))),
    }
}

fn check_list(value: &Value, expected: &str, fits: impl Fn(&Value) -> bool) -> Option<String> {
    match value.as_array() {
        Some(items) => {
            let wrong = items.iter().find(|item| !fits(item))?;
            Some(format!("expected {expected}, found {} in it", kind(wrong)))
        }
        None => Some(format!("expected {expected}, found {}", kind(value))),
    }
}

fn unknown_keys<'a>(
    keys: impl Iterator<Item = &'a String>,
    known: &[&'static str],
) -> impl Iterator<Item = (String, String)> {
    keys.filter(|key| !known.contains(&key.as_str())).map(|key| {
        let reason = match nearest(key, known.iter().copied()) {
            Some(near) => format!("there is no such key; did you mean {near}?"),
            None => format!("there is no such key; there are {}", known.join(", ")),
        };
        (key.clone(), reason)
    })
}

const fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a table",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rule() -> Value {
        json!({"id": "dns", "action": "allow", "protocol": "udp", "destination": ["9.9.9.9"], "ports": [53, "8000-8100"]})
    }

    fn with(key: &str, value: Value) -> Value {
        let mut rule = rule();
        rule[key] = value;
        json!({"rules": [rule]})
    }

    fn only_error(document: &Value) -> RuleError {
        let mut errors = PolicyDocument::parse(document).unwrap_err();
        assert_eq!(errors.len(), 1, "{errors:?}");
        errors.remove(0)
    }

    #[test]
    fn a_rule_reads_and_writes_as_it_stands() {
        let document = json!({"rules": [rule()], "danger_allow_prefixes": ["127.0.0.0/8"],
                              "danger_allow_own_addresses": false, "danger_allow_local_names": false});
        let policy = PolicyDocument::parse(&document).unwrap();
        assert_eq!(serde_json::to_value(&policy).unwrap(), document);
        assert_eq!(PolicyDocument::parse(&json!({})).unwrap(), PolicyDocument::default());
        assert_eq!(
            policy.rules[0].ports,
            PortsDocument::List(vec![PortSpec::Number(53), PortSpec::Text("8000-8100".into())])
        );
    }

    #[test]
    fn an_unknown_key_is_refused_with_the_nearest_valid_one() {
        let error = only_error(&with("destinations", json!([])));
        assert_eq!((error.index, error.field.as_str()), (Some(0), "destinations"));
        assert_eq!(error.to_string(), "rules[0] (dns).destinations: there is no such key; did you mean destination?");
        // Keys that a later version knows are unknown today, not ignored.
        for key in ["tenant", "dscp", "mode", "answers"] {
            assert_eq!(only_error(&with(key, json!("x"))).field, key);
        }
        let error = only_error(&json!({"danger_allow_prefix": []}));
        assert_eq!(error.to_string(), "danger_allow_prefix: there is no such key; did you mean danger_allow_prefixes?");
    }

    #[test]
    fn a_wrong_value_is_named_with_what_was_expected() {
        for (key, value, reason) in [
            ("action", json!("permit"), "expected allow or deny, found \"permit\""),
            ("protocol", json!(["udp"]), "expected udp or tcp or ip, found a list"),
            ("destination", json!("9.9.9.9"), "expected a list of addresses, prefixes and names, found a text"),
            ("destination", json!([1]), "expected a list of addresses, prefixes and names, found a number in it"),
            ("ports", json!(53), "expected \"*\" or a list of ports and ranges, found a number"),
            ("ports", json!([-1]), "expected \"*\" or a list of ports and ranges, found a number in it"),
            ("ports", json!([5.5]), "expected \"*\" or a list of ports and ranges, found a number in it"),
            ("id", json!(7), "expected a text, found a number"),
        ] {
            let error = only_error(&with(key, value));
            assert_eq!((error.field.as_str(), error.reason.as_str()), (key, reason));
        }
    }

    #[test]
    fn all_faults_of_all_rules_are_found_at_once() {
        let document = json!({"rules": [{}, rule(), 5, {"id": "x", "colour": 1}]});
        let errors = PolicyDocument::parse(&document).unwrap_err();
        let places: Vec<_> = errors.iter().map(|error| (error.index, error.field.as_str())).collect();
        let missing =
            |index, keys: &[&'static str]| keys.iter().map(move |key| (Some(index), *key)).collect::<Vec<_>>();
        let expected = [
            missing(0, &RULE_KEYS),
            vec![(Some(2), "")],
            missing(3, &["colour"]),
            missing(3, &["action", "protocol", "destination", "ports"]),
        ];
        assert_eq!(places, expected.concat());
    }
}
