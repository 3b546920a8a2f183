//! Context that all checks of nodes share. State.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use sidescale_rotation::demand::Demands;
use sidescale_rotation::key_status::{KeyStatus, KeyStatuses};
use tokio::sync::{mpsc, watch};

use crate::controller::context::Context;
use crate::controller::session::Session;

/// How often nodes are checked: two checks and a new pod fit into a minute.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(15);

/// The sessions of connected control planes, by name.
pub(in crate::controller) type Connected = BTreeMap<String, Arc<Session>>;

/// What the loop publishes for the checks and the sweep; only a change of `connected` wakes them.
#[derive(Debug, Default)]
pub(in crate::controller) struct View {
    pub(in crate::controller) connected: Connected,
    pub(in crate::controller) keys: KeyStatuses,
}

/// Context that all checks share.
pub(super) struct NodeMonitor {
    pub(super) context: Arc<Context>,
    pub(super) demands: watch::Receiver<Demands>,
    /// Control planes to recheck, for the loop that connects.
    pub(super) suspects: mpsc::Sender<String>,
    pub(super) view: watch::Receiver<View>,
    /// No pod is evicted before this time.
    pub(super) evict_from: Mutex<Timestamp>,
}

impl NodeMonitor {
    /// Returns the status of a key, as [`KeyStatuses::of`] does.
    pub(super) fn key(&self, namespace: &str, secret: &str, data_key: &str) -> Option<KeyStatus> {
        self.view.borrow().keys.of(namespace, secret, data_key)
    }
}
