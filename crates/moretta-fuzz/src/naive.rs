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
