//! What the jobs on one Secret tell each other: which came last, and whose intents are whose. State, no I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Is shared by the jobs of this process on one Secret; clones are one.
#[derive(Clone, Debug, Default)]
pub(super) struct InFlight(Arc<Mutex<Jobs>>);

#[derive(Debug, Default)]
struct Jobs {
    last: u64,
    /// Intents by the number of the job that follows them.
    intents: BTreeMap<u64, BTreeSet<String>>,
}

impl InFlight {
    /// Tells earlier jobs that this one is at work, and knows more than they.
    pub(super) fn begin(&self, number: u64) {
        let mut jobs = self.jobs();
        jobs.last = jobs.last.max(number);
    }

    /// Whether a later job is at work.
    pub(super) fn superseded(&self, number: u64) -> bool {
        self.jobs().last > number
    }

    /// Tells all others to leave these to this job. Said before they are written: others read at any moment.
    pub(super) fn follow(&self, number: u64, intents: impl IntoIterator<Item = String>) {
        let mut jobs = self.jobs();
        jobs.intents.entry(number).or_default().extend(intents);
    }

    /// The intents that other jobs follow.
    pub(super) fn of_others(&self, number: u64) -> BTreeSet<String> {
        let jobs = self.jobs();
        let others = jobs.intents.iter().filter(|(job, _)| **job != number);
        others.flat_map(|(_, intents)| intents).cloned().collect()
    }

    /// The job is over and follows nothing; says whether it was overtaken.
    pub(super) fn over(&self, number: u64) -> bool {
        self.jobs().intents.remove(&number);
        self.superseded(number)
    }

    fn jobs(&self) -> MutexGuard<'_, Jobs> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
