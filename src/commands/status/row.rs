//! A row of `status`: a key, and its problems. Pure.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::Serialize;
use sidescale_core::id::KeyId;
use sidescale_rotation::nodes::PodOwner;
use sidescale_webhook::identity::POD_SECRET;

use crate::commands::view::held::NodeRow;

/// Commands to suggest for this installation.
#[derive(Clone, Debug)]
pub(crate) struct Hints {
    /// The command that shows the log.
    pub(crate) logs: String,
    /// The flags that our own commands need.
    pub(crate) flags: String,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct StatusRow {
    pub(crate) namespace: String,
    pub(crate) service: String,
    pub(crate) control_plane: String,
    pub(crate) secret: String,
    pub(crate) data_key: String,
    pub(crate) user: Option<String>,
    pub(crate) tags: Vec<String>,
    /// `None` where the row is about several keys.
    pub(crate) key_id: Option<KeyId>,
    /// Number of its keys: more than one where each pod has its own.
    pub(crate) keys: usize,
    pub(crate) created: Option<Timestamp>,
    pub(crate) expires: Option<Timestamp>,
    /// When it is renewed; `None` if it is not renewed.
    pub(crate) next_rotation: Option<Timestamp>,
    /// Why a new key is being created now.
    pub(crate) pending: Option<&'static str>,
    /// The previous keys that are still valid.
    pub(crate) ending: Vec<KeyId>,
    pub(crate) state: String,
    pub(crate) owners: BTreeSet<String>,
    pub(crate) pods: usize,
    /// Nodes online with a key of this service; `None` without verification.
    pub(crate) nodes_online: Option<usize>,
    /// When the control plane last saw one of them, online or not.
    pub(crate) last_seen: Option<Timestamp>,
    /// All of these nodes; `None` without verification.
    pub(crate) nodes: Option<Vec<NodeRow>>,
    /// Whether the control plane has the key as recorded; `None` without verification.
    pub(crate) verified: Option<bool>,
    pub(crate) problems: Vec<RowProblem>,
    /// Whether it lacks a usable key for no known reason.
    #[serde(skip)]
    pub(crate) unexplained: bool,
}

/// A problem.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct RowProblem {
    /// Its description; one from rotation also says what to do.
    pub(crate) text: String,
    /// What fixes it.
    pub(crate) fix: Option<String>,
}

impl StatusRow {
    /// Whether the pods of that owner use it.
    pub(super) fn is_at(&self, place: &PodOwner) -> bool {
        let PodOwner {
            namespace,
            service,
            secret,
            data_key,
        } = place;
        // A row may be about the keys of all pods of a service.
        let key = match secret == POD_SECRET {
            true => &self.service == service,
            false => &self.data_key == data_key,
        };
        key && (&self.namespace, &self.secret) == (namespace, secret)
    }

    pub(super) fn order(&self) -> (&str, &str, &str, &str) {
        (
            &self.namespace,
            &self.service,
            &self.control_plane,
            &self.data_key,
        )
    }
}
