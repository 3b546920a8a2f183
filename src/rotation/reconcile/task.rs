//! The input of a job. Types only.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use sidescale_core::secret::SecretRef;

use crate::rotation::budget::Budget;
use crate::rotation::demand::SecretDemand;
use crate::rotation::in_flight::InFlight;
use crate::rotation::plan::{IssuedKeys, Process};
use crate::rotation::queue::JobClass;
use crate::rotation::run::ReadSecret;
use crate::rotation::session::Session;

/// What the control planes hold, by name.
pub(in crate::rotation) type IssuedByPlane = Arc<BTreeMap<String, IssuedKeys>>;

/// A Secret as a pass has read it, and what the control planes held after that.
#[derive(Debug)]
pub(in crate::rotation) struct Snapshot {
    pub(in crate::rotation) seen: ReadSecret,
    pub(in crate::rotation) issued: IssuedByPlane,
    /// When the Secret was read.
    pub(in crate::rotation) read_at: Instant,
}

/// The input of a job.
#[derive(Debug)]
pub(in crate::rotation) struct Task {
    pub(in crate::rotation) secret: SecretRef,
    pub(in crate::rotation) class: JobClass,
    /// Number that identifies the job.
    pub(in crate::rotation) number: u64,
    /// State that the Secret's jobs share.
    pub(in crate::rotation) beside: InFlight,
    pub(in crate::rotation) demand: SecretDemand,
    pub(in crate::rotation) synced: bool,
    pub(in crate::rotation) planes: BTreeMap<String, Arc<Session>>,
    pub(in crate::rotation) process: Process,
    /// Keys whose old keys could not be expired a moment ago.
    pub(in crate::rotation) resting: BTreeSet<String>,
    /// How many keys the namespace may have created.
    pub(in crate::rotation) budget: Arc<Mutex<Budget>>,
    /// Demanded keys beyond the namespace's quota.
    pub(in crate::rotation) over_quota: BTreeSet<String>,
    /// By how many services the namespace exceeds its quota.
    pub(in crate::rotation) excess: usize,
    /// The Secret, read before the control planes were listed.
    pub(in crate::rotation) snapshot: Option<Snapshot>,
}
