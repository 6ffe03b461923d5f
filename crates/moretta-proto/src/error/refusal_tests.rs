use std::collections::BTreeSet;

use moretta_wire::fields::ProxyStatus;

use super::*;
use crate::error::{Closing, DropReason, EndReason, Retry, h3_code, table, table_json};

fn field(head: &ResponseHead, name: &str) -> Option<String> {
    head.fields.get_single(name).unwrap().map(|value| String::from_utf8(value.to_vec()).unwrap())
}

fn sent() -> impl Iterator<Item = Reason> {
    Reason::ALL.iter().copied().filter(|reason| reason.row().status.is_some())
}

/// PS-1, PS-4, PS-6, CAP-20, CAP-24.
#[test]
fn every_refusal_has_its_status_one_proxy_status_member_and_no_capsule_protocol() {
    for reason in sent() {
        let head = Refusal::new(reason).response_head("gateway.example");
        assert_eq!(Some(head.status), reason.row().status);
        assert!((400..600).contains(&head.status), "{}", reason.code());
        assert!(!head.fields.contains("capsule-protocol"));
        let members = ProxyStatus::parse_lines(head.fields.get_all("proxy-status"));
        match reason.row().proxy_status {
            Some(error) => {
                assert_eq!(members.len(), 1, "{}", reason.code());
                assert_eq!(members[0].name, "gateway.example");
                assert_eq!(members[0].error.as_deref(), Some(error));
            }
            None => assert!(members.is_empty(), "{}", reason.code()),
        }
    }
}

/// HG-E5, C-14.
#[test]
fn a_limit_or_an_overload_says_when_to_come_back() {
    for reason in sent() {
        let head = Refusal::new(reason).response_head("gw");
        let expected = matches!(head.status, 429 | 503);
        assert_eq!(head.fields.contains("retry-after"), expected, "{}", reason.code());
    }
    let after =
        |wait| field(&Refusal::new(Reason::Draining).retry_after(wait).response_head("gw"), "retry-after").unwrap();
    assert_eq!(after(Duration::from_millis(1500)), "2");
    assert_eq!(after(Duration::ZERO), "1", "0 would invite a loop");
    assert_eq!(after(Duration::from_secs(30)), "30");
}

/// PS-5, and C-13: details only of what the client itself sent.
#[test]
fn particulars_go_where_they_belong() {
    let dns = Refusal::new(Reason::NameNotFound).rcode("NXDOMAIN").response_head("gw");
    assert_eq!(field(&dns, "proxy-status").unwrap(), "gw; error=dns_error; rcode=\"NXDOMAIN\"".replace("; ", ";"));
    let client = Refusal::new(Reason::BadTargetHost).detail("brackets").response_head("gw");
    assert_eq!(ProxyStatus::parse_lines(client.fields.get_all("proxy-status"))[0].details.as_deref(), Some("brackets"));
    let ours =
        Refusal::new(Reason::InternalError).detail("brackets").rule(Some(RuleId::new("secret"))).response_head("gw");
    assert!(!format!("{ours:?}").contains("brackets") && !format!("{ours:?}").contains("secret"));
}

/// PS-2.
#[test]
fn a_name_that_is_no_token_is_quoted() {
    let head = Refusal::new(Reason::PolicyRefused).response_head("10.0.0.1");
    assert!(field(&head, "proxy-status").unwrap().starts_with("\"10.0.0.1\";"));
}

/// AUTH-1, AUTH-3: a challenge, without an error parameter.
#[test]
fn a_request_without_an_identity_is_challenged() {
    let head = Refusal::new(Reason::CredentialsRequired).response_head("gate\"way\r\n");
    assert_eq!(head.status, 401);
    assert_eq!(field(&head, "www-authenticate").unwrap(), "Bearer realm=\"gateway\"");
}

#[test]
fn every_code_is_one_word_and_unique_in_its_table() {
    fn check(codes: impl Iterator<Item = (&'static str, &'static str)>) {
        let mut seen = BTreeSet::new();
        for (code, sentence) in codes {
            assert!(
                code.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_' || byte.is_ascii_digit()),
                "{code}"
            );
            assert!(seen.insert(code), "{code} twice");
            assert!(!sentence.is_empty() && !sentence.ends_with('.'), "{code}");
        }
    }
    check(Reason::ALL.iter().map(|reason| (reason.code(), reason.sentence())));
    check(EndReason::ALL.iter().map(|reason| (reason.code(), reason.sentence())));
    check(DropReason::ALL.iter().map(|reason| (reason.code(), reason.sentence())));
    for reason in Reason::ALL {
        assert_eq!(Reason::from_code(reason.code()), Some(*reason));
    }
    assert_eq!(table().len(), Reason::ALL.len());
}

/// PS-6, RFC 9209 §2.3.
#[test]
fn statuses_are_those_that_the_error_types_recommend_or_documented_exceptions() {
    for reason in sent() {
        let row = reason.row();
        let recommended = match row.proxy_status {
            Some("dns_timeout" | "connection_timeout") => [504].as_slice(),
            Some("dns_error" | "destination_ip_unroutable" | "connection_refused") => &[502],
            Some("destination_unavailable" | "connection_limit_reached") => &[503],
            // C-13: RFC 9209 recommends 502 for the second; a refusal is one status whatever was refused.
            Some("http_request_denied" | "destination_ip_prohibited") => &[403],
            Some("http_request_error") => &[400, 401, 404, 425, 429, 431],
            Some("proxy_internal_response") => &[501, 503],
            Some("proxy_internal_error") => &[500],
            Some(other) => panic!("{other}"),
            None => &[404],
        };
        assert!(row.status.is_some_and(|status| recommended.contains(&status)), "{}", row.code);
        // XC-25: a request that was looked at is never called unprocessed.
        assert_ne!(row.h3_code, h3_code::REQUEST_REJECTED, "{}", row.code);
    }
}

#[test]
fn retry_advice_fits_the_status() {
    for reason in sent() {
        let row = reason.row();
        match row.status {
            Some(400 | 404 | 431) => assert_eq!(row.retry, Retry::FixRequest, "{}", row.code),
            Some(403) => assert_eq!(row.retry, Retry::OtherTarget, "{}", row.code),
            Some(429) => assert_eq!(row.retry, Retry::Later, "{}", row.code),
            _ => {}
        }
    }
}

#[test]
fn a_foreign_status_is_read_by_its_number() {
    assert_eq!(Reason::from_response(403, None, None), Reason::PolicyRefused);
    assert_eq!(Reason::from_response(407, Some("http_request_error"), None), Reason::CredentialsRequired);
    assert_eq!(Reason::from_response(502, Some("connection_refused"), None), Reason::ConnectionRefused);
    assert_eq!(Reason::from_response(504, Some("dns_timeout"), None), Reason::DnsTimeout);
    assert_eq!(Reason::from_response(503, Some("never_heard_of"), None), Reason::Overloaded);
    let shed = Reason::from_response(503, Some("proxy_internal_response"), None);
    assert_eq!(shed, Reason::Overloaded, "of several rows the plainest");
    assert_eq!(Reason::from_response(418, None, None), Reason::UnexpectedStatus);
}

#[test]
fn the_exported_table_has_every_row_with_its_docs_anchor() {
    let table: serde_json::Value = serde_json::from_str(&table_json()).unwrap();
    assert_eq!(table["version"], 1);
    assert_eq!(table["refusals"].as_array().unwrap().len(), Reason::ALL.len());
    assert_eq!(table["ends"].as_array().unwrap().len(), EndReason::ALL.len());
    assert_eq!(table["drops"].as_array().unwrap().len(), DropReason::COUNT);
    let row = table["refusals"].as_array().unwrap().iter().find(|row| row["code"] == "policy_refused").unwrap();
    assert_eq!(
        *row,
        serde_json::json!({
            "code": "policy_refused", "sentence": Reason::PolicyRefused.sentence(), "status": 403,
            "proxy_status": "http_request_denied", "h3_code": 0x100, "retry": "other_target", "fault": "policy",
            "python": "PolicyRefused", "docs": "refused-policy-refused",
        })
    );
    let end = table["ends"].as_array().unwrap().iter().find(|row| row["code"] == "capsule_flood").unwrap();
    assert_eq!(end["closing"], serde_json::json!({"reset": 0x107}));
    assert_eq!(EndReason::CapsuleFlood.closing(), Closing::Reset(h3_code::EXCESSIVE_LOAD));
}
