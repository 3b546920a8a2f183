//! What all looks at nodes share. State.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{mpsc, watch};

use crate::rotation::context::Context;
use crate::rotation::demand::Demands;
use crate::rotation::key_status::KeyStatuses;
use crate::rotation::secret_state::LastKeys;
use crate::rotation::session::Session;

/// The nodes are looked at this often: two looks and a new pod fit into a minute.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(15);

/// The control planes that answer, by name.
pub(in crate::rotation) type Connected = BTreeMap<String, Arc<Session>>;

/// What all looks share.
pub(super) struct NodeMonitor {
    pub(super) context: Arc<Context>,
    pub(super) demands: watch::Receiver<Demands>,
    /// Control planes that may have lost us, for the loop that connects.
    pub(super) suspects: mpsc::Sender<String>,
    /// Keys that no record names and that are left.
    pub(super) kept: LastKeys,
    pub(super) standings: KeyStatuses,
    /// No pod is evicted before.
    pub(super) evict_from: Mutex<Timestamp>,
}
