//! What a job has found and done. Types alone.

use std::collections::{BTreeMap, BTreeSet};

use super::demand::SecretRef;
use super::plan::{KeyReason, Plan};
use super::problem::Problem;
use super::secret_state::KeyEnd;
use crate::control_plane::KeyId;

/// What a job has found and done.
#[derive(Debug, Default)]
pub(super) struct JobOutcome {
    /// The last plan: states and times.
    pub(super) plan: Plan,
    /// Keys that could not be made.
    pub(super) failed: BTreeMap<String, Problem>,
    /// Old keys that could not be ended.
    pub(super) unended: BTreeMap<String, Unended>,
    /// Keys whose old ones were left for later, as they could not be ended a moment ago.
    pub(super) resting: BTreeSet<String>,
    /// Keys that were made.
    pub(super) minted: Vec<CreatedKey>,
    /// Keys that were made, and that a writer who is none of us kept from being written.
    pub(super) undone: Vec<String>,
    /// The trouble of the whole Secret.
    pub(super) problem: Option<Problem>,
    /// Whether that is the API server's being away.
    pub(super) away: bool,
    /// Control planes to ask how they do.
    pub(super) suspects: BTreeMap<String, Problem>,
    /// When the keys in force end that pods share: one of a single pod may end once that has joined.
    pub(super) ends: BTreeMap<String, KeyEnd>,
    /// The keys in force.
    pub(super) in_force: BTreeMap<String, KeyId>,
    /// The services with a key in force.
    pub(super) services: BTreeSet<String>,
    /// The keys that pods join with, or their one pod has joined with.
    pub(super) joining: BTreeMap<String, KeyId>,
    /// The field manager that wrote the Secret before this job, if that was another's.
    pub(super) writer: Option<String>,
    /// Whether there is more to do at once.
    pub(super) again: bool,
    /// The Secret that this one was copied from, if that was found.
    pub(super) copied_from: Option<SecretRef>,
    /// Whether a later job has begun meanwhile, which knows better how the keys do.
    pub(super) overtaken: bool,
}

/// A key that was made and written.
#[derive(Debug)]
pub(super) struct CreatedKey {
    pub(super) data_key: String,
    pub(super) control_plane: String,
    pub(super) id: KeyId,
    /// The key that stood there.
    pub(super) replaced: Option<KeyId>,
    pub(super) why: KeyReason,
}

/// An old key that could not be ended.
#[derive(Debug)]
pub(super) struct Unended {
    pub(super) id: KeyId,
    pub(super) problem: Problem,
    /// Whether the control plane said that it is the service's own: nobody is told to expire one of which it did not.
    pub(super) owned: bool,
}
