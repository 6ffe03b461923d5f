//! References that are too simple to be wrong in the same way as what they are compared with.

/// RFC 9000 §16, as its appendix A.1 writes it down.
pub(crate) fn varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let length = 1_usize << (bytes.first()? >> 6);
    let (first, rest) = bytes.get(..length)?.split_first()?;
    let value = rest.iter().fold(u64::from(first & 0x3f), |value, byte| value * 256 + u64::from(*byte));
    Some((value, length))
}

/// One capsule of a stream that lies whole in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Capsule<'a> {
    pub(crate) kind: u64,
    /// As announced.
    pub(crate) length: u64,
    /// As much as there is.
    pub(crate) value: &'a [u8],
}

impl Capsule<'_> {
    pub(crate) const fn is_complete(&self) -> bool {
        self.value.len() as u64 == self.length
    }
}

/// The capsules of a stream (RFC 9297 §3.2), and whether it may end here.
pub(crate) fn capsules(mut stream: &[u8]) -> (Vec<Capsule<'_>>, bool) {
    let mut capsules = Vec::new();
    while !stream.is_empty() {
        let header = varint(stream).and_then(|(kind, used)| {
            let (length, more) = varint(&stream[used..])?;
            Some((kind, length, used + more))
        });
        let Some((kind, length, used)) = header else {
            return (capsules, false);
        };
        let there = usize::try_from(length).unwrap_or(usize::MAX).min(stream.len() - used);
        let capsule = Capsule { kind, length, value: &stream[used..used + there] };
        let is_complete = capsule.is_complete();
        capsules.push(capsule);
        stream = &stream[used + there..];
        if !is_complete {
            return (capsules, false);
        }
    }
    (capsules, true)
}

/// What the default template makes of a raw path, without reasons.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Matched {
    No,
    Malformed,
    /// Host and port, decoded.
    Variables(Vec<u8>, Vec<u8>),
}

/// The default template of RFC 9298 §2 alone, by splitting at slashes.
pub(crate) fn default_template(raw: &[u8]) -> Matched {
    let path = raw.split(|byte| *byte == b'?').next().unwrap_or_default();
    let segments: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
    let [b"", b".well-known", b"masque", b"udp", host, port, b""] = segments[..] else {
        return Matched::No;
    };
    match (percent_decoded(host), percent_decoded(port), path.len() == raw.len()) {
        (Some(host), Some(port), true) => Matched::Variables(host, port),
        _ => Matched::Malformed,
    }
}

/// One value of a path segment; nothing if it has no one reading.
fn percent_decoded(raw: &[u8]) -> Option<Vec<u8>> {
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
    let is_fine = !text.is_empty() && !text.contains(['[', ']', '%']) && !text.chars().any(char::is_control);
    is_fine.then_some(out)
}
