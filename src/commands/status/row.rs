//! A row of `status`: a key, and what is wrong with it. Pure.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::Serialize;
use sidescale_webhook::identity::POD_SECRET;

use crate::commands::view::held::NodeRow;
use crate::control_plane::KeyId;
use crate::rotation::nodes::PodOwner;

/// What is told to be typed, for this installation.
#[derive(Clone, Debug)]
pub(crate) struct Hints {
    /// The command that shows its log.
    pub(crate) logs: String,
    /// What our own commands need behind their words.
    pub(crate) flags: String,
}

/// A key.
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
    /// None where the row is about several keys.
    pub(crate) key_id: Option<KeyId>,
    /// How many keys it is about: more than one where each pod has its own.
    pub(crate) keys: usize,
    pub(crate) created: Option<Timestamp>,
    pub(crate) expires: Option<Timestamp>,
    /// When it is renewed; none where nothing renews it.
    pub(crate) next_rotation: Option<Timestamp>,
    /// Why another key is being made now.
    pub(crate) pending: Option<&'static str>,
    /// The keys before it that are still valid.
    pub(crate) ending: Vec<KeyId>,
    pub(crate) state: String,
    pub(crate) owners: BTreeSet<String>,
    pub(crate) pods: usize,
    /// Nodes online with a key of this service; none where nobody was asked.
    pub(crate) nodes_online: Option<usize>,
    /// When the control plane last saw one of them, online or not.
    pub(crate) last_seen: Option<Timestamp>,
    /// All of them; none where nobody was asked.
    pub(crate) nodes: Option<Vec<NodeRow>>,
    /// Whether the control plane holds the key as it should be; none where nobody was asked.
    pub(crate) verified: Option<bool>,
    pub(crate) problems: Vec<RowProblem>,
    /// Whether it lacks a usable key and nothing says why.
    #[serde(skip)]
    pub(crate) unexplained: bool,
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct RowProblem {
    /// What it is; where it comes from rotation itself, it says what to do as well.
    pub(crate) text: String,
    /// What mends it.
    pub(crate) fix: Option<String>,
}

impl StatusRow {
    /// Whether the pods of that place use it.
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
