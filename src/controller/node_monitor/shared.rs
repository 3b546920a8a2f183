//! Context that all checks of nodes share. State.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use sidescale_rotation::demand::Demands;
use sidescale_rotation::key_status::KeyStatuses;
use sidescale_rotation::secret_state::LastKeys;
use tokio::sync::{mpsc, watch};

use crate::controller::context::Context;
use crate::controller::session::Session;

/// How often nodes are checked: two checks and a new pod fit into a minute.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(15);

/// The sessions of connected control planes, by name.
pub(in crate::controller) type Connected = BTreeMap<String, Arc<Session>>;

/// Context that all checks share.
pub(super) struct NodeMonitor {
    pub(super) context: Arc<Context>,
    pub(super) demands: watch::Receiver<Demands>,
    /// Control planes to recheck, for the loop that connects.
    pub(super) suspects: mpsc::Sender<String>,
    /// Keys that no record names and that must not be expired.
    pub(super) kept: LastKeys,
    pub(super) standings: KeyStatuses,
    /// No pod is evicted before this time.
    pub(super) evict_from: Mutex<Timestamp>,
}
