//! What a job works on. Types alone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use crate::rotation::budget::Budget;
use crate::rotation::demand::{SecretDemand, SecretRef};
use crate::rotation::in_flight::InFlight;
use crate::rotation::plan::{IssuedKeys, Process};
use crate::rotation::queue::JobClass;
use crate::rotation::run::ReadSecret;
use crate::rotation::session::Session;

/// What control planes hold, by name.
pub(in crate::rotation) type IssuedByPlane = Arc<BTreeMap<String, IssuedKeys>>;

/// A Secret as a pass has read it, and what the control planes held after that.
#[derive(Debug)]
pub(in crate::rotation) struct Snapshot {
    pub(in crate::rotation) seen: ReadSecret,
    /// What the control planes held.
    pub(in crate::rotation) issued: IssuedByPlane,
    /// When the Secret had been read.
    pub(in crate::rotation) read_at: Instant,
}

/// What a job works on.
#[derive(Debug)]
pub(in crate::rotation) struct Task {
    pub(in crate::rotation) secret: SecretRef,
    pub(in crate::rotation) class: JobClass,
    /// Tells the job from others.
    pub(in crate::rotation) number: u64,
    /// What the jobs on this Secret tell each other.
    pub(in crate::rotation) beside: InFlight,
    pub(in crate::rotation) demand: SecretDemand,
    pub(in crate::rotation) synced: bool,
    pub(in crate::rotation) planes: BTreeMap<String, Arc<Session>>,
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
