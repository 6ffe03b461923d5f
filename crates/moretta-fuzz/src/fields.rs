//! Structured Fields of peers: Capsule-Protocol and Proxy-Status.

use moretta_wire::fields::{ProxyStatus, capsule_protocol};

/// `data` is field lines. What is read is written as a field that reads the same.
pub fn target(data: &[u8]) {
    let lines: Vec<&[u8]> = data.split(|byte| *byte == b'\n').collect();
    // RFC 9297 §3.4: no parameter changes it, and two lines are no Boolean.
    if capsule_protocol(lines.iter().copied()) {
        let text = std::str::from_utf8(lines[0]).expect("a Boolean is ASCII");
        assert!(lines.len() == 1 && text.trim_matches(' ').starts_with("?1"), "{text:?}");
    }
    let members = ProxyStatus::parse_lines(lines);
    let written: Vec<String> = members.iter().map(ProxyStatus::to_field_value).collect();
    assert!(written.iter().all(|text| text.bytes().all(|byte| matches!(byte, 0x20..=0x7e))), "{written:?}");
    let joined = written.join(", ");
    let again: Vec<String> =
        ProxyStatus::parse_lines([joined.as_bytes()]).iter().map(ProxyStatus::to_field_value).collect();
    assert_eq!(written, again);
}
