//! Mutations for runs without a fuzzer: seeded, so that a failing run repeats.

/// SplitMix64: small, and the same everywhere.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// From a seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// A number below `bound`; 0 if that is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.bits() % bound.max(1) as u64) as usize
    }
}

/// Inputs do not grow beyond this.
const MAX_BYTES: usize = 4096;

/// Bytes that mean something in more than one format: bounds of varints, separators, escapes.
const TELLING: &[&[u8]] = &[
    &[0x00],
    &[0x3f],
    &[0x40, 0x40],
    &[0x80],
    &[0xc0],
    &[0xff; 9],
    &[0xff; 3],
    b"\n",
    b"%",
    b"%25",
    b"%3A",
    b"/",
    b"?",
    b"&",
    b"{",
    b"}",
    b"127.0.0.1",
    b"::",
    b"0x",
    b".",
];

/// One of the corpus with up to eight changes: flipped, inserted, removed, repeated or telling bytes, or the end of
/// another one.
pub fn mutate(random: &mut Random, corpus: &[Vec<u8>]) -> Vec<u8> {
    let pick = |random: &mut Random| corpus.get(random.below(corpus.len())).cloned().unwrap_or_default();
    let mut bytes = pick(random);
    for _ in 0..=random.below(8) {
        let at = random.below(bytes.len() + 1);
        match random.below(8) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            1 if at < bytes.len() => bytes[at] = random.bits() as u8,
            2 if at < bytes.len() => {
                let end = (at + 1 + random.below(8)).min(bytes.len());
                bytes.drain(at..end);
            }
            3 => bytes.insert(at, random.bits() as u8),
            4 => drop(bytes.splice(at..at, TELLING[random.below(TELLING.len())].iter().copied())),
            5 => {
                let end = (at + random.below(40)).min(bytes.len());
                let again = bytes[at..end].to_vec();
                bytes.splice(end..end, again);
            }
            6 => {
                let other = pick(random);
                bytes.truncate(at);
                bytes.extend_from_slice(&other[random.below(other.len() + 1)..]);
            }
            _ => bytes.truncate(at),
        }
    }
    bytes.truncate(MAX_BYTES);
    bytes
}
