//! How bytes are cut into pieces must make no difference, however damaged they are.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    clippy::print_stdout,
    reason = "helpers of tests fail as tests do"
)]

mod support;

use moretta_h3::{Connection, Role};
use support::Random;
use support::script::{Script, mutated, play};

/// The same bytes in pieces of up to `most`, the end sometimes on its own.
fn cut(random: &mut Random, script: &Script, most: u64) -> Script {
    let mut out = Vec::new();
    for (stream_id, bytes, fin) in script {
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let (piece, after) = rest.split_at((1 + random.below(most) as usize).min(rest.len()));
            rest = after;
            out.push((*stream_id, piece.to_vec(), false));
        }
        if *fin && random.below(2) == 0 && !bytes.is_empty() {
            out.last_mut().unwrap().2 = true;
        } else {
            out.push((*stream_id, Vec::new(), *fin));
        }
    }
    out
}

#[test]
fn any_chunking_leads_to_the_same_outcome() {
    for role in [Role::Server, Role::Client] {
        for seed in 0..10_000 {
            let mut random = Random(seed);
            let (bytes, fin) = mutated(&mut random, role);
            let whole = vec![(*random.pick(&[0, 4, 8]), bytes, fin)];
            let expected = play::<Connection>(role, &whole).0;
            for most in [1, 3, 40] {
                let pieces = cut(&mut random, &whole, most);
                assert_eq!(play::<Connection>(role, &pieces).0, expected, "seed {seed}, {role:?}, {pieces:x?}");
            }
        }
    }
}
