//! What a job works on, and what it has found and done. Types alone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::Beside;
use crate::control_plane::KeyId;
use crate::rotation::budget::Budget;
use crate::rotation::demand::{SecretDemand, SecretRef};
use crate::rotation::known::KeyEnd;
use crate::rotation::plan::{Issued, Plan, Process, Why};
use crate::rotation::plane::{Plane, Trouble};
use crate::rotation::queue::Class;
use crate::rotation::run::Seen;

/// What control planes hold, by name.
pub(in crate::rotation) type IssuedByPlane = Arc<BTreeMap<String, Issued>>;

/// A Secret as a pass has read it, and what the control planes held after that.
#[derive(Debug)]
pub(in crate::rotation) struct Snapshot {
    pub(in crate::rotation) seen: Seen,
    /// What the control planes held.
    pub(in crate::rotation) issued: IssuedByPlane,
    /// When the Secret had been read.
    pub(in crate::rotation) read_at: Instant,
}

/// What a job works on.
#[derive(Debug)]
pub(in crate::rotation) struct Task {
    pub(in crate::rotation) secret: SecretRef,
    pub(in crate::rotation) class: Class,
    /// Tells the job from others.
    pub(in crate::rotation) number: u64,
    /// What the jobs on this Secret tell each other.
    pub(in crate::rotation) beside: Beside,
    pub(in crate::rotation) demand: SecretDemand,
    pub(in crate::rotation) synced: bool,
    pub(in crate::rotation) planes: BTreeMap<String, Arc<Plane>>,
    pub(in crate::rotation) process: Process,
    /// Keys whose old ones could not be ended a moment ago.
    pub(in crate::rotation) resting: BTreeSet<String>,
    /// How many keys the namespace may have created.
    pub(in crate::rotation) budget: Arc<Mutex<Budget>>,
    /// Demanded keys that are too many for the namespace.
    pub(in crate::rotation) over_quota: BTreeSet<String>,
    /// How many services the namespace has more than it may.
    pub(in crate::rotation) excess: usize,
    /// The Secret, read before what the control planes hold was listed.
    pub(in crate::rotation) snapshot: Option<Snapshot>,
}

/// What a job has found and done.
#[derive(Debug, Default)]
pub(in crate::rotation) struct Outcome {
    /// The last plan: states and times.
    pub(in crate::rotation) plan: Plan,
    /// Keys that could not be made.
    pub(in crate::rotation) failed: BTreeMap<String, Trouble>,
    /// Old keys that could not be ended.
    pub(in crate::rotation) unended: BTreeMap<String, Unended>,
    /// Keys whose old ones were left for later, as they could not be ended a moment ago.
    pub(in crate::rotation) resting: BTreeSet<String>,
    /// Keys that were made.
    pub(in crate::rotation) minted: Vec<Minted>,
    /// Keys that were made, and that a writer who is none of us kept from being written.
    pub(in crate::rotation) undone: Vec<String>,
    /// The trouble of the whole Secret.
    pub(in crate::rotation) trouble: Option<Trouble>,
    /// Whether that is the API server's being away.
    pub(in crate::rotation) away: bool,
    /// Control planes to ask how they do.
    pub(in crate::rotation) suspects: BTreeMap<String, Trouble>,
    /// When the keys in force end that pods share: one of a single pod may end once that has joined.
    pub(in crate::rotation) ends: BTreeMap<String, KeyEnd>,
    /// The keys in force.
    pub(in crate::rotation) in_force: BTreeMap<String, KeyId>,
    /// The services with a key in force.
    pub(in crate::rotation) services: BTreeSet<String>,
    /// The keys that pods join with, or their one pod has joined with.
    pub(in crate::rotation) joining: BTreeMap<String, KeyId>,
    /// The field manager that wrote the Secret before this job, if that was another's.
    pub(in crate::rotation) writer: Option<String>,
    /// Whether there is more to do at once.
    pub(in crate::rotation) again: bool,
    /// The Secret that this one was copied from, if that was found.
    pub(in crate::rotation) copied_from: Option<SecretRef>,
    /// Whether a later job has begun meanwhile, which knows better how the keys do.
    pub(in crate::rotation) overtaken: bool,
}

/// A key that was made and written.
#[derive(Debug)]
pub(in crate::rotation) struct Minted {
    pub(in crate::rotation) data_key: String,
    pub(in crate::rotation) control_plane: String,
    pub(in crate::rotation) id: KeyId,
    /// The key that stood there.
    pub(in crate::rotation) replaced: Option<KeyId>,
    pub(in crate::rotation) why: Why,
}

/// An old key that could not be ended.
#[derive(Debug)]
pub(in crate::rotation) struct Unended {
    pub(in crate::rotation) id: KeyId,
    pub(in crate::rotation) trouble: Trouble,
    /// Whether the control plane said that it is the service's own: nobody is told to expire one of which it did not.
    pub(in crate::rotation) owned: bool,
}
