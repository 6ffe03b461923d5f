//! Runs every case of `tests/vectors/*.json`; their shape is described in `tests/vectors/README.md`.
//!
//! All failing cases of a file are reported together, each by its id.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::format_collect,
    reason = "a test may fail loudly, in its helpers too"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::path::Path;

use moretta_wire::capsule::{CapsuleReader, Piece};
use moretta_wire::datagram::{ContextId, Prefix, QuarterStreamIdError, split_context_id, split_quarter_stream_id};
use moretta_wire::fields::{ProxyStatus, capsule_protocol};
use moretta_wire::host::{Host, parse_port};
use moretta_wire::prefix::classify;
use moretta_wire::template::{PathMatch, UriTemplate};
use moretta_wire::varint;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    about: String,
    cases: Vec<Value>,
}

/// A case without its input: what should come out.
type Outcome<Expected> = Result<Expected, String>;

/// Reads a file and compares what `check` makes of each case's input with what the case says.
///
/// `inputs` are the keys an input may have. `check` is given what is expected because a case may state less than there
/// is to know.
fn run<Input, Expected>(
    file: &str,
    at_least: usize,
    inputs: &[&str],
    check: impl Fn(&str, &Input, &Outcome<Expected>) -> Outcome<Expected>,
) where
    Input: DeserializeOwned,
    Expected: DeserializeOwned + PartialEq + Debug,
{
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors").join(file);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let File { about, cases } = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{file}: {error}"));
    assert!(!about.is_empty());
    assert!(cases.len() >= at_least, "{file} has {} cases, fewer than the {at_least} it had", cases.len());

    let mut ids = BTreeSet::new();
    let mut failures = Vec::new();
    for case in &cases {
        let id = case["id"].as_str().unwrap_or_else(|| panic!("{file}: {case} has no id"));
        assert!(ids.insert(id), "{file}: id {id} stands twice");
        for key in case.as_object().unwrap().keys() {
            let known = ["id", "description", "expected", "error"].contains(&&**key) || inputs.contains(&&**key);
            assert!(known, "{file}: {id}: unknown key {key}");
        }
        assert!(case["description"].is_string(), "{file}: {id} has no description");
        let expected = match (case.get("expected"), case.get("error")) {
            (Some(expected), None) => Ok(serde_json::from_value(expected.clone())
                .unwrap_or_else(|error| panic!("{file}: {id}: expected: {error}"))),
            (None, Some(error)) => Err(error.as_str().unwrap().to_owned()),
            _ => panic!("{file}: {id}: either `expected` or `error`"),
        };
        let input = serde_json::from_value(case.clone()).unwrap_or_else(|error| panic!("{file}: {id}: {error}"));
        let actual = check(id, &input, &expected);
        if actual != expected {
            failures.push(format!("{id}: got {actual:?}, expected {expected:?}"));
        }
    }
    assert!(failures.is_empty(), "{file}: {} of {} failed\n{}", failures.len(), cases.len(), failures.join("\n"));
}

fn hex(text: &str) -> Vec<u8> {
    assert!(text.len().is_multiple_of(2), "{text}");
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[derive(Deserialize)]
struct Hex {
    hex: String,
}

#[test]
fn varints() {
    #[derive(Deserialize, PartialEq, Debug)]
    #[serde(deny_unknown_fields)]
    struct Expected {
        value: u64,
        used: usize,
        shortest: String,
    }
    run("varint.json", 30, &["hex"], |_, input: &Hex, _| {
        let (value, used) = varint::decode(&hex(&input.hex)).ok_or("truncated")?;
        let mut shortest = Vec::new();
        varint::encode(value, &mut shortest);
        Ok(Expected { value, used, shortest: to_hex(&shortest) })
    });
}

#[test]
fn datagram_prefixes() {
    #[derive(Deserialize)]
    #[serde(tag = "kind", rename_all = "snake_case")]
    enum Input {
        QuarterStreamId { hex: String },
        ContextId { hex: String },
        Prefix { stream_id: u64, context_id: u64 },
    }
    run("datagram.json", 22, &["kind", "hex", "stream_id", "context_id"], |_, input, _| match input {
        Input::QuarterStreamId { hex: data } => match split_quarter_stream_id(&hex(data)) {
            Ok((id, used)) => Ok(json!({ "stream_id": id, "used": used })),
            Err(QuarterStreamIdError::Truncated) => Err("truncated".to_owned()),
            Err(QuarterStreamIdError::OutOfRange) => Err("out_of_range".to_owned()),
        },
        Input::ContextId { hex: payload } => match split_context_id(&hex(payload)) {
            Ok((id, used)) => Ok(json!({ "context_id": id.get(), "used": used })),
            Err(_) => Err("truncated".to_owned()),
        },
        Input::Prefix { stream_id, context_id } => {
            let prefix = Prefix::new(*stream_id, ContextId::new(*context_id).unwrap());
            Ok(json!({ "hex": to_hex(prefix.as_slice()) }))
        }
    });
}

/// CAP-5: each stream is read whole, byte by byte, and in every way to cut it in two.
#[test]
fn capsule_streams() {
    #[derive(Deserialize, PartialEq, Debug)]
    #[serde(deny_unknown_fields)]
    struct Capsule {
        #[serde(rename = "type")]
        kind: u64,
        length: u64,
        value: String,
        complete: bool,
    }
    #[derive(Deserialize, PartialEq, Debug)]
    #[serde(deny_unknown_fields)]
    struct Expected {
        capsules: Vec<Capsule>,
        clean_end: bool,
    }
    fn read(chunks: &[&[u8]]) -> Expected {
        let mut reader = CapsuleReader::new();
        let mut capsules: Vec<Capsule> = Vec::new();
        for mut chunk in chunks.iter().copied() {
            while let Some(piece) = reader.next(&mut chunk) {
                match piece {
                    Piece::Header { capsule_type, length } => capsules.push(Capsule {
                        kind: capsule_type.get(),
                        length,
                        value: String::new(),
                        complete: false,
                    }),
                    Piece::Value(bytes) => capsules.last_mut().unwrap().value += &to_hex(bytes),
                    Piece::End => capsules.last_mut().unwrap().complete = true,
                }
            }
        }
        Expected { capsules, clean_end: reader.is_between_capsules() }
    }
    run("capsule.json", 16, &["hex"], |id, input: &Hex, _| {
        let stream = hex(&input.hex);
        let whole = read(&[&stream]);
        assert_eq!(read(&stream.chunks(1).collect::<Vec<_>>()), whole, "{id} byte by byte");
        for cut in 0..=stream.len() {
            let (front, back) = stream.split_at(cut);
            assert_eq!(read(&[front, &[], back]), whole, "{id} cut at {cut}");
        }
        Ok(whole)
    });
}

#[test]
fn templates() {
    #[derive(Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Form {
        Absolute,
        Path,
        Origin,
    }
    #[derive(Deserialize)]
    #[serde(tag = "kind", rename_all = "snake_case")]
    enum Input {
        Parse { form: Form, template: String },
        Expand { template: String, host: String, port: u16 },
        Match { template: String, path: String },
    }
    let keys = ["kind", "form", "template", "host", "port", "path"];
    run("template.json", 140, &keys, |_, input, _| match input {
        Input::Parse { form, template } => {
            let parsed = match form {
                Form::Absolute => UriTemplate::parse(template),
                Form::Path => UriTemplate::parse_path(template),
                Form::Origin => UriTemplate::for_origin(template),
            };
            let template = parsed.map_err(|error| error.code().to_owned())?;
            Ok(template.origin().map_or(
                json!({}),
                |origin| json!({ "authority": origin.authority, "host": origin.host.to_string(), "port": origin.port }),
            ))
        }
        Input::Expand { template, host, port } => {
            let expanded = UriTemplate::parse(template).unwrap().expand(host, *port);
            Ok(json!({ "scheme": expanded.scheme, "authority": expanded.authority, "path": expanded.path }))
        }
        Input::Match { template, path } => {
            match UriTemplate::parse_path(template).unwrap().match_path(path.as_bytes()) {
                PathMatch::NotThisTemplate => Ok(Value::Null),
                PathMatch::Variables { host, port, others } => {
                    let others: BTreeMap<String, String> = others.into_iter().collect();
                    Ok(json!({ "host": host, "port": port, "others": others }))
                }
                PathMatch::Malformed(error) => Err(error.code().to_owned()),
            }
        }
    });
}

#[test]
fn hosts_and_ports() {
    #[derive(Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Kind {
        Host,
        Port,
    }
    #[derive(Deserialize)]
    struct Input {
        kind: Kind,
        input: String,
    }
    run("host.json", 150, &["kind", "input"], |_, Input { kind, input }, _| match kind {
        Kind::Host => {
            let host = Host::parse(input).map_err(|error| error.code().to_owned())?;
            let kind = match host {
                Host::Ipv4(_) => "ipv4",
                Host::Ipv6(_) => "ipv6",
                Host::Name(_) => "name",
            };
            Ok(json!({ "kind": kind, "text": host.to_string() }))
        }
        Kind::Port => match parse_port(input) {
            Ok(port) => Ok(json!({ "port": port })),
            Err(_) => Err("not_a_port".to_owned()),
        },
    });
}

/// UDP-63, UDP-64, C-15: the bypass list and the edges that must pass.
#[test]
fn prefixes() {
    #[derive(Deserialize)]
    struct Input {
        address: String,
    }
    #[derive(Deserialize, PartialEq, Debug)]
    #[serde(deny_unknown_fields)]
    struct Expected {
        tier: String,
        prefix: Option<String>,
        embedded: Option<String>,
    }
    run("prefix.json", 110, &["address"], |id, input: &Input, expected: &Outcome<Expected>| {
        let verdict = classify(input.address.parse().unwrap());
        let tier = verdict.tier.as_str().to_owned();
        assert_eq!(tier == "public", id.contains("edge") || id.contains("public-"), "{id} is {tier}");
        let stated = expected.as_ref().ok().and_then(|expected| expected.prefix.clone());
        // Compared where the case states it, and as a prefix: `::ffff:0:0/96` has more than one spelling.
        let same = stated.as_ref().is_some_and(|stated| stated.parse().ok() == verdict.prefix);
        Ok(Expected {
            tier,
            embedded: verdict.embedded.filter(|_| stated.is_some()).map(|inner| inner.to_string()),
            prefix: if same { stated } else { stated.and(verdict.prefix).map(|prefix| prefix.to_string()) },
        })
    });
}

#[test]
fn structured_fields() {
    #[derive(Deserialize, Clone, Default)]
    #[serde(deny_unknown_fields, default)]
    struct Member {
        name: String,
        error: Option<String>,
        next_hop: Option<String>,
        next_protocol_hex: Option<String>,
        received_status: Option<u16>,
        details: Option<String>,
        rcode: Option<String>,
        info_code: Option<u16>,
        alert_id: Option<u8>,
        status_code: Option<u16>,
        next_hop_aliases: Option<String>,
    }
    impl From<&Member> for ProxyStatus {
        fn from(member: &Member) -> Self {
            let member = member.clone();
            ProxyStatus {
                name: member.name,
                error: member.error,
                next_hop: member.next_hop,
                next_protocol: member.next_protocol_hex.as_deref().map(hex),
                received_status: member.received_status,
                details: member.details,
                rcode: member.rcode,
                info_code: member.info_code,
                alert_id: member.alert_id,
                status_code: member.status_code,
                next_hop_aliases: member.next_hop_aliases,
            }
        }
    }
    #[derive(Deserialize)]
    #[serde(tag = "kind", rename_all = "snake_case")]
    enum Input {
        CapsuleProtocol { lines: Vec<String> },
        ProxyStatusParse { lines: Vec<String> },
        ProxyStatusBuild { member: Member },
    }
    /// Members are compared as Rust values, so the file's are turned into them here.
    #[derive(Deserialize, PartialEq, Debug)]
    #[serde(from = "Raw")]
    enum Expected {
        Yes(bool),
        Members(Vec<ProxyStatus>),
        Text(String),
    }
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Raw {
        Yes(bool),
        Members(Vec<Member>),
        Text(String),
    }
    impl From<Raw> for Expected {
        fn from(raw: Raw) -> Self {
            match raw {
                Raw::Yes(yes) => Self::Yes(yes),
                Raw::Members(members) => Self::Members(members.iter().map(ProxyStatus::from).collect()),
                Raw::Text(text) => Self::Text(text),
            }
        }
    }
    run("fields.json", 38, &["kind", "lines", "member"], |_, input, _| {
        Ok(match input {
            Input::CapsuleProtocol { lines } => Expected::Yes(capsule_protocol(lines)),
            Input::ProxyStatusParse { lines } => Expected::Members(ProxyStatus::parse_lines(lines)),
            Input::ProxyStatusBuild { member } => Expected::Text(ProxyStatus::from(member).to_field_value()),
        })
    });
}
