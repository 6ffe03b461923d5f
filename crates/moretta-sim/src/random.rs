//! Repeatable randomness: xoshiro256**, one independent stream per name.

use std::time::Duration;

/// A stream of numbers that depends on its seed and name alone.
#[derive(Debug, Clone)]
pub struct Random([u64; 4]);

impl Random {
    /// The stream called `name` of a world's seed. Drawing from one stream never shifts another, so a link that is
    /// added to a world leaves the others as they were.
    pub fn new(seed: u64, name: &str) -> Self {
        // FNV-1a over the name, then splitmix64 to fill the state (its authors' recommendation).
        let mut state = name.bytes().fold(0xcbf2_9ce4_8422_2325 ^ seed, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        Self(std::array::from_fn(|_| {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = state;
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            mixed ^ (mixed >> 31)
        }))
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        let [a, b, c, d] = &mut self.0;
        let result = b.wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let shifted = *b << 17;
        *c ^= *a;
        *d ^= *b;
        *b ^= *c;
        *a ^= *d;
        *c ^= shifted;
        *d = d.rotate_left(45);
        result
    }

    /// A number below `bound`; 0 if the bound is 0. The bias of the remainder is below 2^-32 for bounds in use here.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.bits() % bound.max(1)
    }

    /// True `per_mille` times of a thousand.
    pub fn chance(&mut self, per_mille: u32) -> bool {
        self.below(1000) < u64::from(per_mille)
    }

    /// A time below `bound`.
    pub fn duration(&mut self, bound: Duration) -> Duration {
        Duration::from_nanos(self.below(bound.as_nanos() as u64))
    }

    /// Bytes for keys and fillers.
    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| (self.bits() >> 32) as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_repeats_and_differs_by_seed_and_name() {
        let take = |seed, name| {
            let mut random = Random::new(seed, name);
            (random.bits(), random.bits(), random.bytes::<8>())
        };
        assert_eq!(take(1, "up"), take(1, "up"));
        assert_ne!(take(1, "up"), take(2, "up"));
        assert_ne!(take(1, "up"), take(1, "down"));
    }

    #[test]
    fn chances_come_true_about_as_often_as_they_say() {
        let mut random = Random::new(7, "dice");
        let hits = (0..100_000).filter(|_| random.chance(30)).count();
        assert!((2_700..3_300).contains(&hits), "{hits} of 100000 at 30 per mille");
        assert!(!(0..1000).any(|_| random.chance(0)));
        assert!((0..1000).all(|_| random.chance(1000)));
    }
}
