//! Every fuzz target, briefly, on the stable toolchain: its committed corpus, then seeded mutations of it.
//!
//! A test prints its seed; `MORETTA_FUZZ_SEED=<seed>` repeats the run. The long runs are those of `make fuzz`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a test may fail loudly, in its helpers too"
)]
#![allow(unsafe_code, reason = "a global allocator is unsafe by its trait; this one only counts")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, RandomState};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};

use moretta_fuzz::mutate::{Random, mutate};
use moretta_fuzz::{TARGETS, Target};

/// What no input of at most 4 KiB may make a target hold, the harness included: both ends of its connections, and what
/// it remembers for its books.
const MOST_HELD: isize = 4 << 20;

/// Counts what each thread holds: a test is a thread.
struct Counting;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn count(bytes: isize) {
    HELD.set(HELD.get() + bytes);
    PEAK.set(PEAK.get().max(HELD.get()));
}

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size().cast_signed());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size().cast_signed()));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count(new_size.cast_signed() - layout.size().cast_signed());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(pointer, layout, new_size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn fuzz_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz")
}

/// The committed files of a target by name.
fn corpus(target: &Target) -> BTreeMap<String, Vec<u8>> {
    let folder = fuzz_folder().join("corpus").join(target.name);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    entries
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap()))
        .collect()
}

fn target(name: &str) -> &'static Target {
    TARGETS.iter().find(|target| target.name == name).unwrap()
}

/// Runs a target; what led to a finding is kept in a file, and shown as far as it is legible.
fn run(target: &Target, input: &[u8], what: &str) {
    let bounded = || {
        let before = HELD.get();
        PEAK.set(before);
        (target.run)(input);
        let held = PEAK.get() - before;
        assert!(held <= MOST_HELD, "{held} bytes held");
    };
    if let Err(finding) = catch_unwind(AssertUnwindSafe(bounded)) {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("finding-{}", target.name));
        std::fs::write(&path, input).unwrap();
        let shown = &input[..input.len().min(100)];
        eprintln!("{} fails with {what}: {} b\"{}\"…", target.name, path.display(), shown.escape_ascii());
        resume_unwind(finding);
    }
}

fn smoke(name: &str) {
    let target = target(name);
    let corpus = corpus(target);
    for (file, input) in &corpus {
        run(target, input, file);
    }
    let seed = std::env::var("MORETTA_FUZZ_SEED").map_or_else(
        |_| RandomState::new().hash_one(name),
        |seed| seed.parse().expect("MORETTA_FUZZ_SEED is a number"),
    );
    eprintln!("{name}: MORETTA_FUZZ_SEED={seed}");
    let mut random = Random::new(seed);
    let inputs: Vec<Vec<u8>> = corpus.into_values().collect();
    for round in 0..target.smoke_rounds {
        let input = mutate(&mut random, &inputs);
        run(target, &input, &format!("round {round} of MORETTA_FUZZ_SEED={seed}"));
    }
}

/// H3D-11 … H3D-14, H3D-22, UDP-54 … UDP-58.
#[test]
fn any_datagram_is_read_as_the_reference_reads_it() {
    smoke("varint_datagram");
}

/// CAP-5, CAP-36, CAP-35.
#[test]
fn any_capsule_stream_in_any_chunks_is_read_as_the_reference_reads_it() {
    smoke("capsules");
}

/// CAP-19 … CAP-23, RFC 9209.
#[test]
fn any_structured_field_reads_as_it_is_written() {
    smoke("fields");
}

/// UDP-5 … UDP-15, S-b.
#[test]
fn no_host_is_an_address_in_disguise() {
    smoke("host");
}

/// C-15, C-18, D-2, D-3, and the bypass list.
#[test]
fn no_path_and_no_answer_reaches_an_address_that_the_rules_do_not_open() {
    smoke("template_verdict");
}

#[test]
fn no_client_makes_a_server_break_its_promises() {
    smoke("h3_server");
}

#[test]
fn no_server_makes_a_client_break_its_promises() {
    smoke("h3_client");
}

/// RFC 9000 §8.
#[test]
fn no_packet_makes_a_core_panic_or_lose_count() {
    smoke("core_datagrams");
}

#[test]
fn no_server_makes_a_clients_core_panic_or_lose_count() {
    smoke("core_client");
}

#[test]
fn every_target_has_its_wrapper_its_folder_and_its_smoke_test() {
    let names = |folder: &str| -> BTreeSet<String> {
        std::fs::read_dir(fuzz_folder().join(folder))
            .unwrap()
            .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
            .collect()
    };
    let expected: BTreeSet<String> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    assert_eq!(names("fuzz_targets"), expected);
    assert_eq!(names("corpus"), expected);
    let (manifest, here) =
        (std::fs::read_to_string(fuzz_folder().join("Cargo.toml")).unwrap(), include_str!("smoke.rs"));
    for name in &expected {
        assert!(manifest.contains(&format!("name = \"{name}\"")), "fuzz/Cargo.toml does not build {name}");
        assert!(here.contains(&format!("smoke(\"{name}\");")), "{name} has no smoke test");
    }
}

#[test]
fn the_committed_corpora_hold_every_seed_as_it_is_made() {
    for target in TARGETS {
        let committed = corpus(target);
        let seeds = (target.seeds)();
        assert_eq!(seeds.iter().map(|seed| &seed.name).collect::<BTreeSet<_>>().len(), seeds.len(), "names are unique");
        for seed in seeds {
            assert_eq!(
                committed.get(&seed.name),
                Some(&seed.bytes),
                "{}/{} differs: cargo run -p moretta-fuzz --example seeds",
                target.name,
                seed.name
            );
        }
    }
}
