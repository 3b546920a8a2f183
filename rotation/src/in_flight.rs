//! What the jobs on one Secret share: which is the latest, and which follows which intents. State, no I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// State shared by this process's jobs on one Secret; clones share it.
#[derive(Clone, Debug, Default)]
pub struct InFlight(Arc<Mutex<Jobs>>);

#[derive(Debug, Default)]
struct Jobs {
    last: u64,
    /// Intents by the number of the job that follows them.
    intents: BTreeMap<u64, BTreeSet<String>>,
}

impl InFlight {
    /// Records that this job is at work and supersedes earlier ones.
    pub fn begin(&self, number: u64) {
        let mut jobs = self.jobs();
        jobs.last = jobs.last.max(number);
    }

    /// Returns whether a later job is at work.
    pub fn superseded(&self, number: u64) -> bool {
        self.jobs().last > number
    }

    /// Reserves intents for this job, before they are written: other jobs may read them at any moment.
    pub fn follow(&self, number: u64, intents: impl IntoIterator<Item = String>) {
        let mut jobs = self.jobs();
        jobs.intents.entry(number).or_default().extend(intents);
    }

    /// Returns the intents that other jobs follow.
    pub fn of_others(&self, number: u64) -> BTreeSet<String> {
        let jobs = self.jobs();
        let others = jobs.intents.iter().filter(|(job, _)| **job != number);
        others.flat_map(|(_, intents)| intents).cloned().collect()
    }

    /// Ends the job, which follows nothing from now on; returns whether it was superseded.
    pub fn over(&self, number: u64) -> bool {
        self.jobs().intents.remove(&number);
        self.superseded(number)
    }

    fn jobs(&self) -> MutexGuard<'_, Jobs> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
