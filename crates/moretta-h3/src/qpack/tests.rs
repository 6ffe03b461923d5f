//! Vectors of RFC 7541 and RFC 9204, and round trips.

use bytes::Bytes;
use proptest::prelude::*;

use super::decode::{DecodeError, Line, decode};
use super::encode::{encode_line, start_section};
use super::{huffman, integer, static_table};

fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

fn section(lines: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    start_section(&mut out);
    for (name, value) in lines {
        encode_line(name, value, &mut out);
    }
    out
}

fn line(name: &'static str, value: &'static str) -> Line {
    Line { name: Bytes::from_static(name.as_bytes()), value: Bytes::from_static(value.as_bytes()) }
}

/// RFC 7541 Appendix C.4 and C.6.
#[test]
fn huffman_agrees_with_the_vectors() {
    for (text, code) in [
        ("www.example.com", "f1e3c2e5f23a6ba0ab90f4ff"),
        ("no-cache", "a8eb10649cbf"),
        ("custom-key", "25a849e95ba97d7f"),
        ("custom-value", "25a849e95bb8e8b4bf"),
        ("302", "6402"),
        ("private", "aec3771a4b"),
        ("Mon, 21 Oct 2013 20:13:21 GMT", "d07abe941054d444a8200595040b8166e082a62d1bff"),
        ("https://www.example.com", "9d29ad171863c78f0b97c8e9ae82ae43d3"),
        (
            "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1",
            "94e7821dd7f2e6c7b335dfdfcd5b3960d5af27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007",
        ),
    ] {
        let mut coded = Vec::new();
        huffman::encode(text.as_bytes(), &mut coded);
        assert_eq!(coded, hex(code), "{text}");
        assert_eq!(huffman::encoded_len(text.as_bytes()), coded.len());
        let mut plain = Vec::new();
        assert_eq!(huffman::decode(&coded, &mut plain), Some(()));
        assert_eq!(plain, text.as_bytes());
    }
}

/// RFC 7541 §5.2.
#[test]
fn huffman_padding_is_the_start_of_eos_and_shorter_than_a_byte() {
    for (coded, is_valid) in [
        (&[0x07][..], true),                // '0' and 111
        (&[0x00], false),                   // '0' and 000
        (&[0x06], false),                   // '0' and 110
        (&[0x07, 0xff], false),             // a whole byte of padding
        (&[0xff], false),                   // nothing but padding: eight bits
        (&[0xff, 0xff, 0xff, 0xff], false), // EOS
        (&[], true),
    ] {
        assert_eq!(huffman::decode(coded, &mut Vec::new()).is_some(), is_valid, "{coded:x?}");
    }
}

/// RFC 7541 Appendix C.1, RFC 9204 §4.1.1.
#[test]
fn integers_agree_with_the_vectors() {
    for (value, bits, bytes) in [(10, 5, "0a"), (1337, 5, "1f9a0a"), (42, 8, "2a"), (255, 8, "ff00"), (0, 3, "00")] {
        let mut out = Vec::new();
        integer::encode(value, bits, 0, &mut out);
        assert_eq!(out, hex(bytes));
        assert_eq!(integer::decode(&out, bits), Some((value, out.len())));
    }
    for (bytes, what) in [
        ("", "nothing"),
        ("1f", "cut off"),
        ("1f80", "cut off"),
        ("1fffffffffffffffffff7f", "above 2^62-1"),
        ("1f8080808080808080808000", "padded beyond ten bytes"),
    ] {
        assert_eq!(integer::decode(&hex(bytes), 5), None, "{what}");
    }
    assert_eq!(integer::decode(&hex("1f80808000"), 5), Some((31, 5)), "padded within reason");
}

/// RFC 9204 Appendix B.1.
#[test]
fn a_literal_with_name_reference_is_read() {
    let lines = decode(&hex("0000510b2f696e6465782e68746d6c"), 1000);
    assert_eq!(lines, Ok(vec![line(":path", "/index.html")]));
}

/// RFC 9204 Appendix A, by some entries far apart.
#[test]
fn the_static_table_is_in_order() {
    for (index, name, value) in [
        (0, ":authority", ""),
        (1, ":path", "/"),
        (15, ":method", "CONNECT"),
        (23, ":scheme", "https"),
        (25, ":status", "200"),
        (52, "content-type", "text/html; charset=utf-8"),
        (63, ":status", "100"),
        (71, ":status", "500"),
        (84, "authorization", ""),
        (98, "x-frame-options", "sameorigin"),
    ] {
        assert_eq!(static_table::get(index), Some((name.as_bytes(), value.as_bytes())));
    }
    assert_eq!(static_table::get(99), None);
    assert_eq!(static_table::get(u64::MAX), None);
}

#[test]
fn the_shortest_form_is_chosen() {
    for (name, value, code) in [
        (":method", "CONNECT", "0000cf"),
        (":status", "200", "0000d9"),
        (":path", "/x", "000051022f78"),
        (":status", "206", "0000ff02"),
        ("x", "1", "000021780131"),
        ("custom-key", "custom-value", "00002f0125a849e95ba97d7f8925a849e95bb8e8b4bf"),
    ] {
        assert_eq!(section(&[(name.as_bytes(), value.as_bytes())]), hex(code), "{name}: {value}");
    }
}

/// RFC 9204 §7.1.3: credentials are marked as never to be indexed, even where the table has them.
#[test]
fn credentials_are_never_indexed() {
    for name in ["authorization", "proxy-authorization", "cookie", "set-cookie"] {
        for value in ["", "secret"] {
            let coded = section(&[(name.as_bytes(), value.as_bytes())]);
            let (form, never) = (coded[2] & 0xc0, if coded[2] & 0x40 != 0 { 0x20 } else { 0x10 });
            assert_ne!(form, 0xc0, "{name} is a literal");
            assert_eq!(coded[2] & never, never, "{name}: {coded:x?}");
        }
    }
}

/// RFC 9114 §4.2.2: the limit counts 32 bytes for each line and stops the work there.
#[test]
fn decoding_stops_at_the_limit() {
    let coded = section(&[(b"a", b"b"), (b"c", b"d")]);
    assert_eq!(decode(&coded, 68).map(|lines| lines.len()), Ok(2));
    assert_eq!(decode(&coded, 67), Err(DecodeError::TooLarge));
    let bomb = [&[0, 0][..], &[0xd1; 10_000]].concat();
    assert_eq!(decode(&bomb, 10_000), Err(DecodeError::TooLarge), "a byte a line");
}

fn text() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..40),
        prop::collection::vec(0x20_u8..0x7f, 0..200),
        prop::sample::select(static_table::ENTRIES.iter().flat_map(|entry| [entry.0, entry.1]).collect::<Vec<_>>())
            .prop_map(|text| text.as_bytes().to_vec()),
    ]
}

proptest! {
    #[test]
    fn sections_round_trip(lines in prop::collection::vec((text(), text()), 0..20)) {
        let borrowed: Vec<_> = lines.iter().map(|(name, value)| (&name[..], &value[..])).collect();
        let decoded = decode(&section(&borrowed), u64::MAX).unwrap();
        let decoded: Vec<_> = decoded.iter().map(|line| (line.name.to_vec(), line.value.to_vec())).collect();
        prop_assert_eq!(decoded, lines);
    }

    #[test]
    fn huffman_round_trips(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        let (mut coded, mut plain) = (Vec::new(), Vec::new());
        huffman::encode(&bytes, &mut coded);
        prop_assert_eq!(coded.len(), huffman::encoded_len(&bytes));
        prop_assert_eq!(huffman::decode(&coded, &mut plain), Some(()));
        prop_assert_eq!(plain, bytes);
    }

    /// There is one code for each text, so what decodes must come out of the encoder again.
    #[test]
    fn huffman_accepts_nothing_but_its_own_output(bytes in prop::collection::vec(prop_oneof![any::<u8>(), Just(0xff)], 0..12)) {
        let mut plain = Vec::new();
        if huffman::decode(&bytes, &mut plain).is_some() {
            let mut coded = Vec::new();
            huffman::encode(&plain, &mut coded);
            prop_assert_eq!(coded, bytes);
        }
    }

    #[test]
    fn integers_round_trip(value in 0_u64..(1 << 62), bits in 1_u32..=8) {
        let mut out = Vec::new();
        integer::encode(value, bits, 0, &mut out);
        prop_assert_eq!(integer::decode(&out, bits), Some((value, out.len())));
        for length in 0..out.len() {
            prop_assert_eq!(integer::decode(&out[..length], bits), None);
        }
    }

    #[test]
    fn any_bytes_decode_or_fail(bytes in prop::collection::vec(any::<u8>(), 0..200), limit in 0_u64..1000) {
        if let Ok(lines) = decode(&bytes, limit) {
            let size: usize = lines.iter().map(|line| line.name.len() + line.value.len() + 32).sum();
            prop_assert!(size as u64 <= limit);
        }
    }
}
