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
pub struct JobOutcome {
    /// The last plan: states and times.
    pub plan: Plan,
    /// Keys that could not be created.
    pub failed: BTreeMap<String, Problem>,
    /// Old keys that could not be expired.
    pub unended: BTreeMap<String, Unended>,
    /// Keys whose old keys were left for later, because expiring them failed a moment ago.
    pub resting: BTreeSet<String>,
    /// Keys that were created and written.
    pub minted: Vec<CreatedKey>,
    /// Keys that were created, but that another writer prevented from being written.
    pub undone: Vec<String>,
    /// The problem of the Secret as a whole.
    pub problem: Option<Problem>,
    /// Whether the problem is that the API server is unavailable.
    pub away: bool,
    /// Control planes to recheck.
    pub suspects: BTreeMap<String, Problem>,
    /// When the shared keys in force expire; the key of a single pod may expire once the pod has joined.
    pub ends: BTreeMap<String, KeyEnd>,
    /// The keys in force.
    pub in_force: BTreeMap<String, DatedKey>,
    /// The services with a key in force.
    pub services: BTreeSet<String>,
    /// The keys that pods join with, or that their single pod has joined with.
    pub joining: BTreeMap<String, KeyId>,
    /// The field manager that wrote the Secret before this job, if it was not ours.
    pub writer: Option<String>,
    /// Whether more work is due now.
    pub again: bool,
    /// The Secret that this one was copied from, if known.
    pub copied_from: Option<SecretRef>,
    /// Whether a later job has started, which knows the state of the keys better.
    pub overtaken: bool,
}

/// A key that was created and written.
#[derive(Debug)]
pub struct CreatedKey {
    /// Key of the Secret's data.
    pub data_key: String,
    /// Name of the control plane in the configuration.
    pub control_plane: String,
    /// Id of the new key.
    pub id: KeyId,
    /// When it was created, as its record says.
    pub created: Timestamp,
    /// The key that was in force before.
    pub replaced: Option<DatedKey>,
    /// Why it was created.
    pub why: KeyReason,
}

/// An old key that could not be expired.
#[derive(Debug)]
pub struct Unended {
    /// Id of the old key.
    pub id: KeyId,
    /// Why expiring it failed.
    pub problem: Problem,
    /// Whether the control plane confirmed that it is the service's own; otherwise no message may ask a person to expire it.
    pub owned: bool,
}
