//! The outcome of a job. Types only.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use sidescale_core::id::KeyId;
use sidescale_core::problem::Problem;
use sidescale_core::secret::SecretRef;

use super::plan::{KeyReason, Plan};
use super::record::DatedKey;
use super::secret_state::KeyEnd;

/// The outcome of a job.
#[derive(Debug, Default)]
pub(super) struct JobOutcome {
    /// The last plan: states and times.
    pub(super) plan: Plan,
    /// Keys that could not be created.
    pub(super) failed: BTreeMap<String, Problem>,
    /// Old keys that could not be expired.
    pub(super) unended: BTreeMap<String, Unended>,
    /// Keys whose old keys were left for later, because expiring them failed a moment ago.
    pub(super) resting: BTreeSet<String>,
    /// Keys that were created and written.
    pub(super) minted: Vec<CreatedKey>,
    /// Keys that were created, but that another writer prevented from being written.
    pub(super) undone: Vec<String>,
    /// The problem of the Secret as a whole.
    pub(super) problem: Option<Problem>,
    /// Whether the problem is that the API server is unavailable.
    pub(super) away: bool,
    /// Control planes to recheck.
    pub(super) suspects: BTreeMap<String, Problem>,
    /// When the shared keys in force expire; the key of a single pod may expire once the pod has joined.
    pub(super) ends: BTreeMap<String, KeyEnd>,
    /// The keys in force.
    pub(super) in_force: BTreeMap<String, DatedKey>,
    /// The services with a key in force.
    pub(super) services: BTreeSet<String>,
    /// The keys that pods join with, or that their single pod has joined with.
    pub(super) joining: BTreeMap<String, KeyId>,
    /// The field manager that wrote the Secret before this job, if it was not ours.
    pub(super) writer: Option<String>,
    /// Whether more work is due now.
    pub(super) again: bool,
    /// The Secret that this one was copied from, if known.
    pub(super) copied_from: Option<SecretRef>,
    /// Whether a later job has started, which knows the state of the keys better.
    pub(super) overtaken: bool,
}

/// A key that was created and written.
#[derive(Debug)]
pub(super) struct CreatedKey {
    pub(super) data_key: String,
    pub(super) control_plane: String,
    pub(super) id: KeyId,
    /// When it was created, as its record says.
    pub(super) created: Timestamp,
    /// The key that was in force before.
    pub(super) replaced: Option<DatedKey>,
    pub(super) why: KeyReason,
}

/// An old key that could not be expired.
#[derive(Debug)]
pub(super) struct Unended {
    pub(super) id: KeyId,
    pub(super) problem: Problem,
    /// Whether the control plane confirmed that it is the service's own; otherwise no message may ask a person to expire it.
    pub(super) owned: bool,
}
