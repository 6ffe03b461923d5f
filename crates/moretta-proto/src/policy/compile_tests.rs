use super::*;
use crate::policy::PolicyDocument;
use serde_json::{Value, json};

#[expect(clippy::needless_pass_by_value, reason = "tests write the value in place")]
fn compile(document: Value) -> Result<Policy, Vec<RuleError>> {
    PolicyDocument::parse(&document).unwrap().compile()
}

#[expect(clippy::needless_pass_by_value, reason = "tests write the value in place")]
fn rule(action: &str, destination: &[&str], ports: Value) -> Value {
    json!({"id": "r", "action": action, "protocol": "udp", "destination": destination, "ports": ports})
}

/// The only fault of a policy with one rule, as `field: reason`.
#[expect(clippy::needless_pass_by_value, reason = "tests write the value in place")]
fn fault(rule: Value) -> String {
    let errors = compile(json!({"rules": [rule]})).unwrap_err();
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert_eq!((errors[0].index, errors[0].id.as_deref()), (Some(0), Some("r")));
    format!("{}: {}", errors[0].field, errors[0].reason)
}

#[test]
fn every_kind_of_destination_and_port_compiles() {
    let rule = rule(
        "allow",
        &["9.9.9.9", "2620:fe::fe", "10.50.0.0/16", "2001:db8::/32", "dns.quad9.net", "*.example.com", "*"],
        json!([53, "853", "8000-8100", "1-65535"]),
    );
    assert_eq!(compile(json!({"rules": [rule]})).unwrap().len(), 1);
    assert!(compile(json!({"rules": []})).unwrap().is_empty());
}

#[test]
fn a_destination_that_could_be_misread_is_refused() {
    for (text, reason) in [
        ("", "the host is empty"),
        ("10.0.0.1/8", "10.0.0.1/8 has bits set beyond its length; did you mean 10.0.0.0/8?"),
        ("10.0.0.0/33", "expected a prefix"),
        ("10.0.0.0/08", "expected a prefix"),
        ("10.0.0.0/+8", "expected a prefix"),
        ("10.0.0.0/", "expected a prefix"),
        ("10.0.0/8", "expected a prefix"),
        ("2001:db8::1/32", "did you mean 2001:db8::/32?"),
        ("[2001:db8::1]", "square brackets"),
        ("127.1", "looks like a number"),
        ("0x7f.1", "looks like a number"),
        ("*.*.example", "character"),
        ("a.*.example", "* stands alone, or first in *.suffix"),
        ("*example.com", "* stands alone, or first in *.suffix"),
        ("*.", "empty"),
        ("exa mple", "character"),
        ("①②⑦.0.0.1", "outside ASCII"),
    ] {
        let fault = fault(rule("allow", &["9.9.9.9", text], json!("*")));
        assert!(fault.starts_with("destination[1]: ") && fault.contains(reason), "{text}: {fault}");
    }
    assert_eq!(fault(rule("deny", &[], json!("*"))), "destination: is empty, so the rule would match nothing");
}

#[test]
fn a_port_that_could_be_misread_is_refused() {
    for port in [
        json!(0),
        json!(65_536),
        json!("0-5"),
        json!("9-8"),
        json!("053"),
        json!("-5"),
        json!("5-"),
        json!("+53"),
        json!("53,54"),
        json!("*"),
        json!(""),
    ] {
        let fault = fault(rule("allow", &["9.9.9.9"], json!([53, port])));
        assert!(fault.starts_with("ports[1]: expected a port from 1 to 65535"), "{fault}");
    }
    assert_eq!(fault(rule("allow", &["9.9.9.9"], json!([]))), "ports: is empty, so the rule would match nothing");
    assert_eq!(fault(rule("allow", &["9.9.9.9"], json!("53"))), "ports: expected \"*\" or a list, found \"53\"");
    let ip = json!({"id": "r", "action": "allow", "protocol": "ip", "destination": ["9.9.9.9"], "ports": [53]});
    assert_eq!(fault(ip), "ports: IP tunnels have no ports: write \"*\"");
}

/// C-15: what no rule can open is refused when the rule is written; S-a, S-c.
#[test]
fn an_entry_that_allows_what_is_never_a_target_is_refused_unless_danger_names_it() {
    for text in [
        "127.0.0.1",
        "127.0.0.0/8",
        "127.0.0.0/30",
        "169.254.169.254",
        "224.0.0.0/4",
        "255.255.255.255",
        "0.0.0.0",
        "::1",
        "::",
        "fe80::/10",
        "ff02::1",
        "::ffff:127.0.0.1",
        "64:ff9b::7f00:1",
        "localhost",
        "*.localhost",
        "ip6-loopback",
    ] {
        let fault = fault(rule("allow", &[text], json!("*")));
        assert!(fault.contains("danger_allow_"), "{text}: {fault}");
        assert!(compile(json!({"rules": [rule("deny", &[text], json!("*"))]})).is_ok(), "{text} may be denied");
    }
    let open = |danger: &str, text: &str| {
        compile(json!({"rules": [rule("allow", &[text], json!("*"))], "danger_allow_prefixes": [danger]})).is_ok()
    };
    assert!(open("127.0.0.0/8", "127.0.0.0/8") && open("127.0.0.0/8", "127.1.2.3"));
    assert!(!open("127.0.0.1", "127.0.0.0/8"), "danger names less than the rule");
    assert!(!open("127.0.0.0/8", "::1"));
    assert!(
        compile(json!({"rules": [rule("allow", &["localhost"], json!("*"))], "danger_allow_local_names": true}))
            .is_ok()
    );
    for text in ["10.0.0.0/8", "192.168.1.1", "fd00::/8", "0.0.0.0/0", "::/0", "*", "metadata.google.internal"] {
        assert!(
            compile(json!({"rules": [rule("allow", &[text], json!("*"))]})).is_ok(),
            "{text} is for rules to decide"
        );
    }
}

#[test]
fn a_danger_prefix_wider_than_what_it_names_is_refused() {
    for (text, fits) in [
        ("127.0.0.0/8", true),
        ("127.0.0.1", true),
        ("::1", true),
        ("8.8.8.8", true),
        ("10.1.2.0/24", true),
        ("0.0.0.0/0", false),
        ("8.8.8.0/24", false),
        ("126.0.0.0/7", false),
        ("::/0", false),
        ("127.0.0.1/8", false),
        ("loopback", false),
    ] {
        let result = compile(json!({"danger_allow_prefixes": ["::1", text]}));
        assert_eq!(result.is_ok(), fits, "{text}");
        if let Err(errors) = result {
            assert_eq!((errors[0].index, errors[0].field.as_str()), (None, "danger_allow_prefixes[1]"));
        }
    }
}

#[test]
fn ids_are_unique_and_short() {
    let twice = json!({"rules": [rule("allow", &["*"], json!("*")), rule("deny", &["*"], json!("*"))]});
    let errors = compile(twice).unwrap_err();
    assert_eq!(errors[0].to_string(), "rules[1] (r).id: another rule has the same id");
    for id in [String::new(), "x".repeat(129), "a\nb".to_owned()] {
        let mut rule = rule("allow", &["*"], json!("*"));
        rule["id"] = json!(id);
        assert_eq!(compile(json!({"rules": [rule]})).unwrap_err()[0].field, "id");
    }
}

#[test]
fn every_fault_of_every_rule_is_found() {
    let errors =
        compile(json!({"rules": [rule("allow", &["127.1", "ok.example", "10.0.0.1/8"], json!([0]))]})).unwrap_err();
    let fields: Vec<_> = errors.iter().map(|error| error.field.as_str()).collect();
    assert_eq!(fields, ["ports[0]", "destination[0]", "destination[2]"]);
}
