//! Unpredictable values from the core's seed: HMAC-SHA256 in counter mode, one generator per purpose.
//!
//! The core is handed its randomness once; nothing here asks the system for more, so that a world repeats.

use aws_lc_rs::hmac;

/// A deterministic generator whose output cannot be told from random without its key.
pub(crate) struct Generator {
    key: hmac::Key,
    counter: u64,
    block: [u8; 32],
    used: usize,
}

impl Generator {
    /// The generator of `purpose` under `seed`; `instance` tells apart several of one purpose.
    pub(crate) fn new(seed: &[u8; 32], purpose: &str, instance: u64) -> Self {
        let root = hmac::Key::new(hmac::HMAC_SHA256, seed);
        let mut context = hmac::Context::with_key(&root);
        context.update(purpose.as_bytes());
        context.update(&[0]);
        context.update(&instance.to_be_bytes());
        let key = hmac::Key::new(hmac::HMAC_SHA256, context.sign().as_ref());
        Self { key, counter: 0, block: [0; 32], used: 32 }
    }

    /// The next `N` octets.
    pub(crate) fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        for octet in &mut out {
            if self.used >= self.block.len() {
                self.refill();
            }
            *octet = self.block.get(self.used).copied().unwrap_or_default();
            self.used += 1;
        }
        out
    }

    fn refill(&mut self) {
        let tag = hmac::sign(&self.key, &self.counter.to_be_bytes());
        self.counter += 1;
        for (to, from) in self.block.iter_mut().zip(tag.as_ref()) {
            *to = *from;
        }
        self.used = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_repeats_and_another_purpose_or_instance_differs() {
        let seed = [7; 32];
        let first: [u8; 48] = Generator::new(&seed, "connection ids", 0).take();
        assert_eq!(first, Generator::new(&seed, "connection ids", 0).take());
        assert_ne!(first, Generator::new(&seed, "connection ids", 1).take());
        assert_ne!(first, Generator::new(&seed, "endpoint", 0).take());
        assert_ne!(first, Generator::new(&[8; 32], "connection ids", 0).take());
    }

    #[test]
    fn output_does_not_depend_on_how_it_is_taken() {
        let seed = [1; 32];
        let mut whole = Generator::new(&seed, "x", 0);
        let mut pieces = Generator::new(&seed, "x", 0);
        let expected: [u8; 40] = whole.take();
        let mut got = Vec::new();
        for _ in 0..5 {
            got.extend_from_slice(&pieces.take::<8>());
        }
        assert_eq!(expected.as_slice(), got);
    }
}
