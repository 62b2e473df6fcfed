//! The committed corpora of the fuzz targets, replayed on stable.

#![allow(clippy::unwrap_used, reason = "a test that panics fails")]

use std::fs;
use std::panic::catch_unwind;
use std::path::PathBuf;

use tests::fuzz::TARGETS;

#[test]
fn fuzz_corpora_hold() {
    let corpora = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
    let mut broken = Vec::new();
    for target in TARGETS {
        let directory = corpora.join(target.name);
        let mut inputs = 0;
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let input = fs::read(&path).unwrap();
            inputs += 1;
            if catch_unwind(|| (target.check)(&input)).is_err() {
                broken.push(path);
            }
        }
        assert!(inputs > 0, "{} has no corpus", target.name);
    }
    assert!(broken.is_empty(), "{broken:?}");
}

/// Every beginning of every input too: what a client that goes away leaves.
#[test]
fn fuzz_corpora_hold_when_cut_short() {
    let corpora = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
    for target in TARGETS {
        for entry in fs::read_dir(corpora.join(target.name)).unwrap() {
            let input = fs::read(entry.unwrap().path()).unwrap();
            for end in 0..input.len().min(400) {
                (target.check)(&input[..end]);
            }
        }
    }
}
