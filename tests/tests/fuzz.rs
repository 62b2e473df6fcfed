//! The committed corpora of the fuzz targets, replayed on stable.

#![allow(clippy::unwrap_used, reason = "a test that panics fails")]

use std::fs;
use std::panic::catch_unwind;
use std::path::PathBuf;

use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use tests::fuzz::{TARGETS, Target};

#[test]
fn fuzz_corpora_hold() {
    for target in TARGETS {
        for input in inputs(target) {
            let held = catch_unwind(|| (target.check)(&input));
            assert!(held.is_ok(), "{}: {}", target.name, input.escape_ascii());
        }
    }
}

/// The committed inputs of a target, at least one.
fn inputs(target: &Target) -> Vec<Vec<u8>> {
    let corpora = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
    let entries = fs::read_dir(corpora.join(target.name)).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    assert!(!paths.is_empty(), "{} has no corpus", target.name);
    // The order of a directory is not the same everywhere, and a seed must be.
    paths.sort();
    paths.into_iter().map(|path| fs::read(path).unwrap()).collect()
}

/// Every beginning of every input too: what a client that goes away leaves.
#[test]
fn fuzz_corpora_hold_when_cut_short() {
    for target in TARGETS {
        for input in inputs(target) {
            for end in 0..input.len().min(400) {
                (target.check)(&input[..end]);
            }
        }
    }
}

/// A short search from the corpora, the same one each time.
#[test]
fn fuzz_corpora_hold_when_changed() {
    let mut rng = StdRng::seed_from_u64(0x5eed);
    for target in TARGETS {
        let inputs = inputs(target);
        for _ in 0..100_000 {
            let input = changed(&inputs, &mut rng);
            let held = catch_unwind(|| (target.check)(&input));
            assert!(held.is_ok(), "{}: {}", target.name, input.escape_ascii());
        }
    }
}

/// One input with pieces of others in it, octets changed, and a beginning or an end cut off.
fn changed(inputs: &[Vec<u8>], rng: &mut StdRng) -> Vec<u8> {
    let mut input = inputs[rng.random_range(0..inputs.len())].clone();
    for _ in 0..rng.random_range(1..6) {
        let at = rng.random_range(0..=input.len());
        match rng.random_range(0..4) {
            0 => {
                let other = &inputs[rng.random_range(0..inputs.len())];
                let from = rng.random_range(0..=other.len());
                let to = rng.random_range(from..=other.len().min(from + 64));
                input.splice(at..at, other[from..to].iter().copied());
            }
            1 => input.insert(at, INTERESTING[rng.random_range(0..INTERESTING.len())]),
            2 if at < input.len() => input[at] = rng.next_u32() as u8,
            _ => {
                let to = rng.random_range(at..=input.len().min(at + 16));
                input.drain(at..to);
            }
        }
    }
    input
}

const INTERESTING: &[u8] = b"\r\n\0. <>@:;=+\"\\-\xff";
