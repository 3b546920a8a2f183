//! The input of a job. Types only.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use sidescale_core::secret::SecretRef;
use sidescale_rotation::budget::Budget;
use sidescale_rotation::demand::SecretDemand;
use sidescale_rotation::in_flight::InFlight;
use sidescale_rotation::plan::{IssuedKeys, Process};
use sidescale_rotation::queue::JobClass;

use crate::controller::ReadSecret;
use crate::controller::session::Session;

/// What the control planes hold, by name.
pub(in crate::controller) type IssuedByPlane = Arc<BTreeMap<String, IssuedKeys>>;

/// A Secret as a pass has read it, and what the control planes held after that.
#[derive(Debug)]
pub(in crate::controller) struct Snapshot {
    pub(in crate::controller) seen: ReadSecret,
    pub(in crate::controller) issued: IssuedByPlane,
    /// When the Secret was read.
    pub(in crate::controller) read_at: Instant,
}

/// The input of a job.
#[derive(Debug)]
pub(in crate::controller) struct Task {
    pub(in crate::controller) secret: SecretRef,
    pub(in crate::controller) class: JobClass,
    /// Number that identifies the job.
    pub(in crate::controller) number: u64,
    /// State that the Secret's jobs share.
    pub(in crate::controller) beside: InFlight,
    pub(in crate::controller) demand: SecretDemand,
    pub(in crate::controller) synced: bool,
    pub(in crate::controller) planes: BTreeMap<String, Arc<Session>>,
    pub(in crate::controller) process: Process,
    /// Keys whose old keys could not be expired a moment ago.
    pub(in crate::controller) resting: BTreeSet<String>,
    /// How many keys the namespace may have created.
    pub(in crate::controller) budget: Arc<Mutex<Budget>>,
    /// Demanded keys beyond the namespace's quota.
    pub(in crate::controller) over_quota: BTreeSet<String>,
    /// By how many services the namespace exceeds its quota.
    pub(in crate::controller) excess: usize,
    /// The Secret, read before the control planes were listed.
    pub(in crate::controller) snapshot: Option<Snapshot>,
}
