use super::*;
use moretta_proto::profile::ProfileName;
use serde_json::json;

fn submission(value: &Value) -> Result<Submission, EngineError> {
    Submission::parse(value.to_string().as_bytes())
}

fn document_error(value: &Value) -> (String, String) {
    match submission(value) {
        Err(EngineError::Document { path, message }) => (path, message),
        other => panic!("expected a refused document, got {other:?}"),
    }
}

#[test]
fn a_snapshot_with_only_its_generation_has_every_default() {
    let Ok(Submission::Snapshot(snapshot)) = submission(&json!({"version": 1, "generation": 7})) else {
        panic!("not a snapshot")
    };
    assert_eq!((snapshot.generation, snapshot.profile), (7, ProfileName::Hardened));
    assert!(snapshot.listeners.is_empty() && snapshot.policy.rules.is_empty());
}

#[test]
fn an_unknown_key_is_named_with_its_path() {
    let document = json!({"version": 1, "generation": 7, "listeners": [{"name": "main", "addresses": [],
        "certificate_pem": "", "key_secret": "k", "prot": 1}]});
    let (path, message) = document_error(&document);
    assert_eq!(path, "listeners[0].prot");
    assert!(message.contains("unknown field `prot`"), "{message}");
}

#[test]
fn a_wrong_type_is_named_with_its_path() {
    let (path, _) = document_error(&json!({"version": 1, "command": "open_udp", "gateway": 1, "tunnel": 1,
        "host": "a", "port": 70_000}));
    assert_eq!(path, "port");
}

#[test]
fn another_version_is_refused() {
    assert_eq!(document_error(&json!({"version": 2, "generation": 7})).0, "version");
    assert_eq!(document_error(&json!({"generation": 7})).0, "version");
}

#[test]
fn an_unknown_command_lists_the_known_ones() {
    let (path, message) = document_error(&json!({"version": 1, "command": "open_tcp"}));
    assert_eq!(path, "command");
    assert!(message.contains("open_udp"), "{message}");
}

#[test]
fn what_is_not_json_or_not_an_object_is_refused() {
    assert!(matches!(Submission::parse(b"{"), Err(EngineError::Document { .. })));
    assert!(matches!(Submission::parse(b"[]"), Err(EngineError::Document { .. })));
}

#[test]
fn an_event_is_read_back_as_it_was_written() {
    let event = Event::TunnelClosed(TunnelClosed {
        tunnel: 4,
        reason: "client_finished".into(),
        counters: Counters { bytes_to_target: 3, drops: [("stale".to_owned(), 2)].into(), ..Counters::default() },
    });
    assert_eq!(Event::from_json(&event.to_json()).unwrap(), event);
    assert_eq!(Event::from_json(&Event::Closed(Closed {}).to_json()).unwrap(), Event::Closed(Closed {}));
}

#[test]
fn the_description_lists_every_document_with_its_fields() {
    let described: Value = serde_json::from_slice(&describe()).unwrap();
    assert_eq!(described["documents"]["config"], json!(["version", "workers"]));
    for name in Command::NAMES {
        let fields = described["commands"][name].as_array().unwrap();
        assert_eq!(fields[..2], [json!("version"), json!("command")], "{name}");
    }
    assert_eq!(described["events"]["snapshot_applied"], json!(["version", "event", "generation"]));
    for fields in described["documents"].as_object().unwrap().values() {
        assert!(!fields.as_array().unwrap().is_empty());
    }
}
