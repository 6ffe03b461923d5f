//! Every fuzz target over its corpus and over bytes from a fixed seed, on a stable toolchain: what a finding was fixed
//! by stays fixed, and the targets themselves do not rot.

use std::path::Path;

use moretta_fuzz::TARGETS;

/// Enough for the parsers to reach their second level, quick enough for every run of the tests.
const CASES: u64 = 2_000;

/// xorshift64*: fixed, so that a failure repeats.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Mostly small octets and text, where the interesting lengths, types and separators are.
    fn bytes(&mut self) -> Vec<u8> {
        let length = self.next() % 200;
        (0..length)
            .map(|_| match self.next() % 4 {
                0 => (self.next() % 8) as u8,
                1 => b"{}/:.%-0aA=\"; ,\n"[(self.next() % 16) as usize],
                2 => (self.next() % 128) as u8,
                _ => self.next() as u8,
            })
            .collect()
    }
}

#[test]
fn every_target_keeps_its_promise_over_seeded_bytes() {
    for (name, target) in TARGETS {
        for case in 0..CASES {
            let seed = case + 1;
            let bytes = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)).bytes();
            let outcome = std::panic::catch_unwind(|| target(&bytes));
            assert!(outcome.is_ok(), "target {name}, seed {seed}, bytes {bytes:02x?}");
        }
    }
}

#[test]
fn every_target_keeps_its_promise_over_its_corpus() {
    for (name, target) in TARGETS {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
        let Ok(files) = std::fs::read_dir(&corpus) else { continue };
        for file in files.map(|entry| entry.unwrap().path()) {
            let bytes = std::fs::read(&file).unwrap();
            let outcome = std::panic::catch_unwind(|| target(&bytes));
            assert!(outcome.is_ok(), "target {name}, {}", file.display());
        }
    }
}
