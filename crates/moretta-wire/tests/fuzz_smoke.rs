//! A short fuzz run on stable tooling: random and mutated inputs, compared with references that are too simple to be
//! wrong in the same way. The long runs are those of `make fuzz`.
//!
//! Each test prints its seed; `MORETTA_FUZZ_SEED=<seed>` repeats it.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a test may fail loudly, in its helpers too"
)]

use std::hash::{BuildHasher, RandomState};
use std::path::Path;

use moretta_wire::capsule::{CapsuleReader, Piece};
use moretta_wire::datagram::{self, QuarterStreamIdError, split_context_id, split_quarter_stream_id};
use moretta_wire::host::{Host, parse_port};
use moretta_wire::prefix::classify;
use moretta_wire::template::{PathMatch, UriTemplate};
use moretta_wire::varint;
use serde_json::Value;

/// Inputs per test: together half a second.
const ROUNDS: usize = 200_000;

/// SplitMix64: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn new(test: &str) -> Self {
        #[expect(clippy::disallowed_methods, reason = "how a failing run is repeated")]
        let given = std::env::var("MORETTA_FUZZ_SEED").ok();
        let seed = given.map_or_else(|| RandomState::new().hash_one(test), |seed| seed.parse().unwrap());
        eprintln!("{test}: MORETTA_FUZZ_SEED={seed}");
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    fn bytes(&mut self, longest: usize) -> Vec<u8> {
        let length = self.below(longest + 1);
        (0..length).map(|_| self.next() as u8).collect()
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    /// One of the corpus with a few bytes flipped, inserted, removed, repeated or replaced by something telling.
    fn mutate(&mut self, corpus: &[Vec<u8>], telling: &[&[u8]]) -> Vec<u8> {
        let mut bytes = self.pick(corpus).clone();
        for _ in 0..self.below(4) {
            let at = self.below(bytes.len() + 1);
            match self.below(6) {
                0 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
                1 if at < bytes.len() => drop(bytes.remove(at)),
                2 => bytes.insert(at, self.next() as u8),
                3 => drop(bytes.splice(at..at, self.pick(telling).iter().copied())),
                4 => {
                    let other = self.pick(corpus).clone();
                    bytes.truncate(at);
                    bytes.extend_from_slice(&other[self.below(other.len() + 1)..]);
                }
                _ => bytes.truncate(at),
            }
        }
        bytes
    }
}

/// Every string under `key` in a file of vectors.
fn corpus(file: &str, key: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors").join(file);
    let document: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let cases = document["cases"].as_array().unwrap();
    cases.iter().filter_map(|case| case[key].as_str().map(str::to_owned)).collect()
}

fn hex_corpus(file: &str) -> Vec<Vec<u8>> {
    let byte = |text: &str, at| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    corpus(file, "hex").iter().map(|text| (0..text.len()).step_by(2).map(|at| byte(text, at)).collect()).collect()
}

/// RFC 9000 §16, as its appendix A.1 writes it down.
fn naive_varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let length = 1_usize << (bytes.first()? >> 6);
    let (first, rest) = bytes.get(..length)?.split_first()?;
    let value = rest.iter().fold(u64::from(first & 0x3f), |value, byte| value * 256 + u64::from(*byte));
    Some((value, length))
}

/// H3D-11 … H3D-14, H3D-22, UDP-54 … UDP-58.
#[test]
fn any_datagram_is_split_as_the_reference_splits_it() {
    let mut random = Random::new("datagram");
    let mut seeds = hex_corpus("varint.json");
    seeds.extend(hex_corpus("datagram.json"));
    for _ in 0..ROUNDS {
        let data = if random.below(2) == 0 { random.bytes(20) } else { random.mutate(&seeds, &[&[0xc0], &[0xff; 8]]) };
        assert_eq!(varint::decode(&data), naive_varint(&data), "{data:02x?}");

        let expected = match naive_varint(&data) {
            None => Err(QuarterStreamIdError::Truncated),
            Some((quarter, _)) if quarter >= 1 << 60 => Err(QuarterStreamIdError::OutOfRange),
            Some((quarter, used)) => Ok((quarter * 4, used)),
        };
        assert_eq!(split_quarter_stream_id(&data), expected, "{data:02x?}");
        if let Ok((stream_id, used)) = expected
            && let Ok((context, more)) = split_context_id(&data[used..])
        {
            let prefix = datagram::Prefix::new(stream_id, context);
            assert!(prefix.as_slice().len() <= used + more, "never longer than what it was read from: {data:02x?}");
            let (again, length) = split_quarter_stream_id(prefix.as_slice()).unwrap();
            assert_eq!((again, split_context_id(&prefix.as_slice()[length..]).unwrap().0), (stream_id, context));
        }
    }
}

/// Type, length, value, complete.
type Capsule = (u64, u64, Vec<u8>, bool);

/// What a reader sees that has the whole stream before it, and whether the stream ends cleanly.
fn naive_capsules(mut stream: &[u8]) -> (Vec<Capsule>, bool) {
    let mut capsules = Vec::new();
    while !stream.is_empty() {
        let header = naive_varint(stream).and_then(|(kind, used)| {
            let (length, more) = naive_varint(&stream[used..])?;
            Some((kind, length, used + more))
        });
        let Some((kind, length, used)) = header else {
            return (capsules, false);
        };
        stream = &stream[used..];
        let there = length.min(stream.len() as u64) as usize;
        let complete = there as u64 == length;
        capsules.push((kind, length, stream[..there].to_vec(), complete));
        stream = &stream[there..];
        if !complete {
            return (capsules, false);
        }
    }
    (capsules, true)
}

/// CAP-5, CAP-36.
#[test]
fn any_capsule_stream_in_any_chunks_is_read_as_the_reference_reads_it() {
    let mut random = Random::new("capsule");
    let seeds = hex_corpus("capsule.json");
    let telling: &[&[u8]] = &[&[0x00], &[0x17, 0x00], &[0x42, 0xa5], &[0xc0, 0, 0, 0, 0, 0, 0, 2], &[0xff; 8]];
    for _ in 0..ROUNDS {
        let mut stream = Vec::new();
        for _ in 0..=random.below(4) {
            stream.extend(if random.below(4) == 0 { random.bytes(24) } else { random.mutate(&seeds, telling) });
        }
        let longest = 1 + random.below(20);

        let mut reader = CapsuleReader::new();
        let mut seen: Vec<Capsule> = Vec::new();
        let mut rest = &stream[..];
        while !rest.is_empty() {
            let (mut chunk, after) = rest.split_at(random.below(longest + 1).min(rest.len()));
            rest = after;
            while let Some(piece) = reader.next(&mut chunk) {
                match piece {
                    Piece::Header { capsule_type, length } => seen.push((capsule_type.get(), length, vec![], false)),
                    Piece::Value(bytes) => seen.last_mut().unwrap().2.extend_from_slice(bytes),
                    Piece::End => seen.last_mut().unwrap().3 = true,
                }
            }
            assert!(chunk.is_empty(), "{stream:02x?}");
        }
        assert_eq!((seen, reader.is_between_capsules()), naive_capsules(&stream), "{stream:02x?}");
    }
}

/// What C's `inet_aton` would take for an IPv4 address: up to four numbers in decimal, octal or hex.
fn inet_aton_accepts(text: &str) -> bool {
    let parts: Vec<&str> = text.strip_suffix('.').unwrap_or(text).split('.').collect();
    let number = |part: &str| match part.as_bytes() {
        [b'0', b'x' | b'X', digits @ ..] => digits.iter().all(u8::is_ascii_hexdigit),
        [_, ..] => part.bytes().all(|byte| byte.is_ascii_digit()),
        [] => false,
    };
    parts.len() <= 4 && parts.iter().all(|part| number(part))
}

/// [`PathMatch`] without reasons.
#[derive(PartialEq, Debug)]
enum Matched {
    No,
    Malformed,
    Variables(Vec<u8>, Vec<u8>),
}

/// The default template alone, by splitting at slashes.
fn naive_default_match(raw: &[u8]) -> Matched {
    let path = raw.split(|byte| *byte == b'?').next().unwrap();
    let segments: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
    let [b"", b".well-known", b"masque", b"udp", host, port, b""] = segments[..] else {
        return Matched::No;
    };
    let decode = |raw: &[u8]| {
        let mut out = Vec::new();
        let mut at = 0;
        while at < raw.len() {
            if raw[at] == b'%' {
                let digits = raw.get(at + 1..at + 3).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))?;
                out.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
                at += 3;
            } else if raw[at].is_ascii_alphanumeric() || b"-._~".contains(&raw[at]) {
                out.push(raw[at]);
                at += 1;
            } else {
                return None;
            }
        }
        let text = std::str::from_utf8(&out).ok()?;
        let fine = !text.is_empty() && !text.contains(['[', ']', '%']) && !text.chars().any(char::is_control);
        fine.then_some(out)
    };
    match (decode(host), decode(port), path.len() == raw.len()) {
        (Some(host), Some(port), true) => Matched::Variables(host, port),
        _ => Matched::Malformed,
    }
}

/// C-18, UDP-5 … UDP-15, and the bypass list of encodings.
#[test]
fn any_path_is_matched_as_the_reference_matches_it_and_yields_no_address_in_disguise() {
    let mut random = Random::new("template and host");
    let default = UriTemplate::parse_path(UriTemplate::DEFAULT_PATH).unwrap();
    let query = UriTemplate::parse_path("/v1/proxy?h={target_host}&p={target_port}").unwrap();
    let mut seeds: Vec<Vec<u8>> = corpus("template.json", "path").into_iter().map(String::into_bytes).collect();
    let hosts = corpus("host.json", "input").into_iter().chain(corpus("prefix.json", "address"));
    for host in hosts {
        let absolute = UriTemplate::for_origin("https://proxy.example").unwrap();
        seeds.push(absolute.expand(&host, 443).path.into_bytes());
    }
    let telling: &[&[u8]] = &[
        b"%", b"%25", b"%3A", b"%00", b"/", b"?", b"&", b"=", b":", b".", b"[", b"%5b", b"0x", b"127.1", b"\xff", b"+",
    ];

    for _ in 0..ROUNDS {
        let path = random.mutate(&seeds, telling);
        let shown = path.escape_ascii();
        let actual = match default.match_path(&path) {
            PathMatch::NotThisTemplate => Matched::No,
            PathMatch::Malformed(_) => Matched::Malformed,
            PathMatch::Variables { host, port, .. } => Matched::Variables(host.into_bytes(), port.into_bytes()),
        };
        assert_eq!(actual, naive_default_match(&path), "{shown}");

        for template in [&default, &query] {
            let PathMatch::Variables { host, port, .. } = template.match_path(&path) else {
                continue;
            };
            if let Ok(number) = parse_port(&port) {
                assert_eq!(number.to_string(), port, "{shown}");
            }
            match Host::parse(&host) {
                Ok(Host::Name(name)) => {
                    assert!(!inet_aton_accepts(name.as_str()), "{shown} gave the name {name}");
                    assert_eq!(Host::parse(name.as_str()), Ok(Host::Name(name)));
                }
                Ok(Host::Ipv4(address)) => {
                    assert_eq!(address.to_string(), host, "{shown}");
                    let mapped = classify(address.to_ipv6_mapped().into());
                    assert!(mapped.tier >= classify(address.into()).tier, "{address}");
                }
                Ok(Host::Ipv6(address)) => {
                    assert_eq!(Host::parse(&address.to_string()), Ok(Host::Ipv6(address)), "{shown}");
                    classify(address.into());
                }
                Err(_) => {}
            }
        }
    }
}
