//! Rotation's own loop, jobs and plans against a Headscale and Secrets in memory, with faults at every call. Tests.
//!
//! ```text
//! episode(seed): two processes ─► Loop, settle, plan as in `serve` ─► doors (a crash, a lost answer, a 409) ─► World
//! ```
//! After every change the world checks its invariants, and at the end that the ledger is balanced. Violations that no key
//! manager could prevent are excused where they are caused: see [`world::World::excuse`].

mod doors;
mod episode;
mod fight;
mod hostile;
mod process;
mod world;

use std::sync::atomic::{AtomicU64, Ordering};

use episode::{Tally, episode};

/// Number of rotations in the normal test run, half a minute without optimisation; `make model` runs 100,000.
const ROTATIONS: u64 = 4_000;

/// Seed of the first episode, in which a person restores a Secret of a day ago, and Headscale a backup.
const FIRST_SEED: u64 = 4;

#[test]
fn rotations_with_faults_leave_the_ledger_balanced() {
    let number = |name| {
        std::env::var(name)
            .ok()
            .and_then(|number| number.parse().ok())
    };
    let rotations = number("SIDESCALE_MODEL_ROTATIONS").unwrap_or(ROTATIONS);
    if let Some(seed) = number("SIDESCALE_MODEL_SEED") {
        println!("seed {seed}: {:?}", episode(seed));
        return;
    }
    let (next, rotated) = (AtomicU64::new(FIRST_SEED), AtomicU64::new(0));
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let began = std::time::Instant::now();
    let total = std::thread::scope(|scope| {
        let work = || {
            let mut total = Tally::default();
            while rotated.load(Ordering::Relaxed) < rotations {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                let tally = std::panic::catch_unwind(|| episode(seed));
                let tally = tally.unwrap_or_else(|_| panic!("seed {seed} failed"));
                rotated.fetch_add(tally.rotations, Ordering::Relaxed);
                total.add(&tally);
            }
            total
        };
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let mut total = Tally::default();
        for worker in workers {
            total.add(&worker.join().expect("an episode failed"));
        }
        total
    });
    println!("{total:?} in {:?}", began.elapsed());
    assert!(total.rotations >= rotations);
    assert!(total.crashes > 0 && total.lost_answers > 0 && total.conflicts > 0);
    assert!(total.written_by_hand > 0);
    assert!(
        total.reported > 0,
        "a Secret that is put back forgets a key"
    );
}
