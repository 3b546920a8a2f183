//! The fuzz targets over a corpus, and over bytes derived from it for ten seconds.
//!
//! `make fuzz` runs the same functions with cargo-fuzz, which searches for new paths; this finds only panics near the corpus.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::unwrap_used
)]
// Shared with the whole reviews, which use all of it.
#![allow(dead_code)]

mod bodies;
#[path = "../whole/support.rs"]
mod support;

use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bodies::BODIES;

/// Time for all targets together.
const TIME: Duration = Duration::from_secs(10);
const LONGEST: usize = 16 * 1024;

/// Pieces that random bytes would hardly contain.
const PIECES: [&str; 24] = [
    "sidescale.io/",
    "inject",
    "=tailscale\n",
    "true",
    "null",
    "\"",
    "\\",
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    "\n",
    "{pod}",
    "{node}",
    "9999999999999999999d",
    "-1",
    "1e309",
    "\u{0}",
    "\u{202e}",
    "volume:data",
    "../",
    "* &a",
];

/// Prints the bytes if the target panics.
struct Tried<'a>(&'a str, &'a [u8]);

impl Drop for Tried<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Self(target, bytes) = self;
            eprintln!("target {target} failed on b\"{}\"", bytes.escape_ascii());
        }
    }
}

/// Marsaglia's xorshift.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 16).unwrap() % bound.max(1)
    }

    /// Changes a seed in a few places, and sometimes appends another.
    fn mutated(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = corpus[self.below(corpus.len())].clone();
        for _ in 0..=self.below(6) {
            let at = self.below(bytes.len() + 1);
            match self.below(6) {
                0 => {
                    let bit = 1 << self.below(8);
                    bytes
                        .iter_mut()
                        .skip(at)
                        .take(1)
                        .for_each(|byte| *byte ^= bit);
                }
                1 => bytes.insert(at, u8::try_from(self.below(256)).unwrap()),
                2 => {
                    let piece = PIECES[self.below(PIECES.len())].bytes();
                    bytes.splice(at..at, piece);
                }
                3 => {
                    let end = (at + self.below(40)).min(bytes.len());
                    bytes.drain(at..end);
                }
                4 => {
                    let other = &corpus[self.below(corpus.len())];
                    let from = self.below(other.len());
                    let to = (from + self.below(200)).min(other.len());
                    bytes.splice(at..at, other[from..to].iter().copied());
                }
                _ => {
                    let end = (at + self.below(60)).min(bytes.len());
                    let again = bytes[at..end].to_vec();
                    bytes.splice(at..at, again);
                }
            }
        }
        bytes.truncate(LONGEST);
        bytes
    }
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else {
            found.push(path);
        }
    }
}

/// Returns the seeds of a target: its own, and those files of `tests/cases` that it reads.
fn corpus(target: &str) -> Vec<Vec<u8>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut found = Vec::new();
    files(&root.join("tests/cases"), &mut found);
    found.retain(|path| match target {
        "review" => true,
        "config" => path.ends_with("setting.yaml"),
        _ => false,
    });
    files(&root.join("fuzz/seeds").join(target), &mut found);
    found.sort();
    let corpus: Vec<Vec<u8>> = found.iter().map(|path| fs::read(path).unwrap()).collect();
    assert!(corpus.len() >= 3, "{target}: {} seeds", corpus.len());
    corpus
}

#[test]
fn every_seed_is_answered() {
    for (target, body) in BODIES {
        for seed in corpus(target) {
            let _tried = Tried(target, &seed);
            body(&seed);
        }
    }
}

#[test]
#[ignore = "takes 10 s: make test runs it beside the others"]
fn whatever_bytes_come_nothing_panics() {
    // Each run tries others; a failure prints the bytes themselves.
    let seed = RandomState::new().hash_one(0) | 1;
    let mut random = Random(seed);
    for (target, body) in BODIES {
        let corpus = corpus(target);
        let (start, mut tried) = (Instant::now(), 0_u64);
        while start.elapsed() < TIME / u32::try_from(BODIES.len()).unwrap() {
            let bytes = random.mutated(&corpus);
            let _tried = Tried(target, &bytes);
            body(&bytes);
            tried += 1;
        }
        eprintln!("target {target}: {tried} inputs");
        assert!(tried > 100, "{target}: only {tried} inputs");
    }
}
