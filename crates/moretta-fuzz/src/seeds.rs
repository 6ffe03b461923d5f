//! What the committed corpora begin with. `cargo run -p moretta-fuzz --example seeds` writes them; a test compares.

mod client;
mod core;
mod h3;

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use crate::input::Script;

pub(crate) use client::core_client;
pub(crate) use core::core_datagrams;
pub(crate) use h3::{h3_client, h3_server};

/// A small input that means something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seed {
    /// The name of its file.
    pub name: String,
    /// The input.
    pub bytes: Vec<u8>,
}

impl Seed {
    fn new(name: &str, bytes: Vec<u8>) -> Self {
        Self { name: name.to_owned(), bytes }
    }
}

/// Cases of one file of tests/vectors, in order.
fn cases(file: &str) -> Vec<BTreeMap<String, Value>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors").join(file);
    let document: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    serde_json::from_value(document["cases"].clone()).unwrap()
}

fn text<'a>(case: &'a BTreeMap<String, Value>, key: &str) -> Option<&'a str> {
    case.get(key)?.as_str()
}

fn unhex(text: &str) -> Vec<u8> {
    let byte = |at| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(byte).collect()
}

/// The hex of every case, under its id.
fn hex_cases(file: &str) -> impl Iterator<Item = (String, Vec<u8>)> + use<> {
    cases(file).into_iter().filter_map(|case| Some((text(&case, "id")?.to_owned(), unhex(text(&case, "hex")?))))
}

pub(crate) fn varint_datagram() -> Vec<Seed> {
    let mut seeds: Vec<Seed> = ["varint", "datagram"]
        .iter()
        .flat_map(|file| {
            hex_cases(&format!("{file}.json")).map(move |(id, bytes)| Seed::new(&format!("{file}-{id}"), bytes))
        })
        .collect();
    seeds.push(Seed::new("tunnel-of-sixteens", [[0_u8; 16], [0x40; 16], [2; 16], [0xff; 16], [7; 16]].concat()));
    seeds
}

pub(crate) fn capsules() -> Vec<Seed> {
    let mut seeds = Vec::new();
    for (index, (id, stream)) in hex_cases("capsule.json").enumerate() {
        // Profiles and ways to cut in turns; a vector that is long says nothing more than its beginning.
        let sizes: &[u8] = [&[][..], &[1], &[3, 0, 2], &[17]][index % 4];
        let profile = [2, 2, 0, 1][index % 4];
        let mut script = Script::default().byte(profile).sized(sizes);
        script.0.extend_from_slice(&stream[..stream.len().min(256)]);
        seeds.push(Seed::new(&id, script.0));
    }
    let mut add = |name: &str, profile: u8, sizes: &[u8], stream: &[&[u8]]| {
        let mut script = Script::default().byte(profile).sized(sizes);
        script.0.extend(stream.concat());
        seeds.push(Seed::new(name, script.0));
    };
    add("split-payloads", 2, &[5], &[&[0, 41, 0], &[7; 40], &[0, 4, 0x40, 0, 1, 2, 0, 1, 0]]);
    add("too-large-for-target", 2, &[9, 1], &[&[0, 0x40, 60, 0], &[7; 59], b"\0\x03\0ok"]);
    add("too-long-for-udp", 2, &[], &[&[0, 0x80, 1, 0, 1, 0], &[7; 10]]);
    add("unknown-contexts", 2, &[2], &[&[0, 2, 2, 0, 0, 3, 0x40, 5, 9], b"\0\x03\0ok"]);
    add("no-context", 2, &[1], &[&[0, 0, 0, 1, 0x40, 0, 3, 0xc0, 0, 0]]);
    add("unknown-flood", 2, &[7], &[&[0x21, 60], &[0; 60], &[0x21, 60], &[0; 60]]);
    add("unknown-empty-flood", 2, &[3], &[&[0x17, 0][..]; 8]);
    add("unknown-closes", 0, &[1], &[b"\0\x03\0ok", &[0x17, 1, 0]]);
    add("unknown-aborts", 1, &[1], &[b"\0\x03\0ok", &[0x17, 1, 0]]);
    seeds
}

pub(crate) fn fields() -> Vec<Seed> {
    let mut seeds = Vec::new();
    for case in cases("fields.json") {
        let lines: Vec<String> = match case.get("lines") {
            Some(lines) => serde_json::from_value(lines.clone()).unwrap(),
            None => vec![text(&case, "expected").unwrap().to_owned()],
        };
        seeds.push(Seed::new(text(&case, "id").unwrap(), lines.join("\n").into_bytes()));
    }
    seeds
}

pub(crate) fn host() -> Vec<Seed> {
    let cases = every_nth(cases("host.json"), 80).into_iter();
    cases.map(|case| Seed::new(text(&case, "id").unwrap(), text(&case, "input").unwrap().into())).collect()
}

pub(crate) fn template_verdict() -> Vec<Seed> {
    const DEFAULT: &str = "/.well-known/masque/udp/{target_host}/{target_port}/";
    /// Of long lists of the same kind so many; the conformance tests have them all.
    const MOST: usize = 20;

    let mut seeds = Vec::new();
    let mut add = |name: String, template: &str, path: &str, answers: &[&str]| {
        let lines: Vec<&str> = [template, path].iter().chain(answers).copied().collect();
        seeds.push(Seed::new(&name, lines.join("\n").into_bytes()));
    };
    for case in every_nth(cases("template.json"), 3 * MOST) {
        let (id, template) = (text(&case, "id").unwrap(), text(&case, "template").unwrap());
        add(format!("template-{id}"), template, text(&case, "path").unwrap_or("/"), &["93.184.216.1"]);
    }
    let hosts = cases("host.json").into_iter().filter(|case| text(case, "kind") == Some("host"));
    for case in every_nth(hosts.collect(), MOST) {
        let encoded: String = text(&case, "input").unwrap().bytes().map(percent_encoded).collect();
        let path = format!("/.well-known/masque/udp/{encoded}/443/");
        add(format!("host-{}", text(&case, "id").unwrap()), DEFAULT, &path, &["93.184.216.1", "10.0.0.1"]);
    }
    for case in every_nth(cases("prefix.json"), MOST) {
        let (id, address) = (text(&case, "id").unwrap(), text(&case, "address").unwrap());
        let encoded: String = address.bytes().map(percent_encoded).collect();
        add(format!("address-{id}"), DEFAULT, &format!("/.well-known/masque/udp/{encoded}/53/"), &[]);
        let path = "/.well-known/masque/udp/www.example/4433/";
        add(format!("answer-{id}"), DEFAULT, path, &["93.184.216.1", address]);
    }
    seeds
}

/// At most `most` of a list, evenly spread.
fn every_nth<T>(all: Vec<T>, most: usize) -> Vec<T> {
    let step = all.len().div_ceil(most).max(1);
    all.into_iter().step_by(step).collect()
}

fn percent_encoded(byte: u8) -> String {
    if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
        char::from(byte).to_string()
    } else {
        format!("%{byte:02X}")
    }
}
