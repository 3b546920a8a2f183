//! The record of one key: the key in force, previous keys, intents. Pure.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sidescale_core::id::KeyId;
use sidescale_core::objects::PreAuthKey;
use sidescale_core::time::after;

use super::bounds;

/// Maximum number of lost intents remembered for a key.
const MOST_ABANDONED: usize = 32;

/// Maximum number of foreign keys remembered for a key.
const MOST_LENT: usize = 8;

/// The record of one key.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyRecord {
    /// Service of the pods that use it.
    pub service: String,
    /// Name of the control plane that created it.
    pub control_plane: String,
    /// The key whose value is in the Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<IssuedKey>,
    /// Replaced keys that are still valid, until their overlap ends.
    #[serde(
        default,
        deserialize_with = "bounds::previous",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub previous: Vec<Previous>,
    /// The key that is being created.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intent: Option<Intent>,
    /// Intents with an unknown outcome: a key with such a fingerprint is ours, and its value is lost.
    #[serde(
        default,
        deserialize_with = "bounds::last::<_, _, MOST_ABANDONED>",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub abandoned: Vec<Abandoned>,
    /// Foreign keys that people put into the Secret, the latest last: pods have joined with them.
    #[serde(
        default,
        deserialize_with = "bounds::last::<_, _, MOST_LENT>",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub lent: Vec<KeyId>,
    /// Since when no pod is known to have needed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unused_since: Option<Timestamp>,
    /// The key that its single pod has joined with: that pod needs no other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joined_with: Option<KeyId>,
}

/// Properties requested of a key; a change to any of them leads to a new key.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct KeySpec {
    /// Headscale user.
    pub user: String,
    /// Tags, sorted.
    #[serde(default)]
    pub tags: Vec<String>,
    /// Whether it may be used more than once.
    pub reusable: bool,
    /// Whether its nodes are ephemeral.
    pub ephemeral: bool,
}

/// A created key.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct IssuedKey {
    /// Id at the control plane.
    pub id: KeyId,
    /// When it was created.
    pub created: Timestamp,
    /// When it expires.
    pub expires: Timestamp,
    /// Who created it.
    #[serde(default, skip_serializing_if = "Origin::is_ours")]
    pub origin: Origin,
    /// The requested properties.
    #[serde(flatten)]
    pub asked: KeySpec,
}

/// Who created a key, and so whether Sidescale may expire it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Origin {
    /// Sidescale.
    #[default]
    Ours,
    /// A person put it into the Secret; its user is the one that Sidescale created for this service.
    Hand,
    /// A person put it into the Secret; it belongs to another user, so Sidescale never expires it.
    Foreign,
}

/// A key, and when it was created, which alone tells the newer of two keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DatedKey {
    /// Id of the key.
    pub id: KeyId,
    /// When it was created.
    pub created: Timestamp,
}

impl DatedKey {
    /// Returns whether it was created after the other one.
    #[must_use]
    pub fn is_newer_than(self, other: Self) -> bool {
        self.created > other.created
    }
}

impl IssuedKey {
    /// Returns its id and when it was created.
    #[must_use]
    pub fn dated(&self) -> DatedKey {
        DatedKey {
            id: self.id,
            created: self.created,
        }
    }
}

impl Origin {
    fn is_ours(&self) -> bool {
        *self == Self::Ours
    }
}

/// A replaced key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Previous {
    /// Id of the key.
    pub id: KeyId,
    /// When Sidescale expires it.
    pub expire_at: Timestamp,
    /// When it expires anyway; tells it from another key that got its id after a restore.
    pub expires: Timestamp,
    /// Whether a person revoked it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub revoked: bool,
}

/// A key that is about to be created.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Intent {
    /// Id of this attempt.
    pub op: String,
    /// Id of the process that creates it.
    pub writer: String,
    /// When the attempt began.
    pub started_at: Timestamp,
    /// The exact expiry that is requested: its sub-second part is the key's fingerprint.
    pub expires: Timestamp,
    /// The requested properties.
    #[serde(flatten)]
    pub asked: KeySpec,
}

/// An abandoned intent.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Abandoned {
    /// When it was abandoned.
    pub since: Timestamp,
    /// The intent; a key that matches it may have been created.
    pub intent: Intent,
}

impl KeyRecord {
    /// Returns the record of a key that was not created yet.
    #[must_use]
    pub fn new(service: &str, control_plane: &str) -> Self {
        Self {
            service: service.to_owned(),
            control_plane: control_plane.to_owned(),
            current: None,
            previous: Vec::new(),
            intent: None,
            abandoned: Vec::new(),
            lent: Vec::new(),
            unused_since: None,
            joined_with: None,
        }
    }

    /// Returns the key that its pods join with; once its single pod has joined, the key that the pod used.
    #[must_use]
    pub fn joins_with(&self) -> Option<KeyId> {
        let current = self.current.as_ref().map(|current| current.id);
        self.joined_with.or(current)
    }

    /// Returns whether nothing is left to remember.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.current.is_none()
            && self.previous.is_empty()
            && self.intent.is_none()
            && self.abandoned.is_empty()
    }

    /// Returns whether the key is or was in the Secret; after a restore, another key may have the same id.
    #[must_use]
    pub fn holds(&self, id: KeyId, expires: Timestamp) -> bool {
        let current = self.current.as_ref();
        let current = current.is_some_and(|key| (key.id, key.expires) == (id, expires));
        let previous = |key: &Previous| (key.id, key.expires) == (id, expires);
        current || self.previous.iter().any(previous)
    }

    /// Limits times from a fast clock: previous keys expire within one overlap, and lost intents are dated no later than now.
    pub fn bring_back(&mut self, now: Timestamp, overlap: Duration) {
        for previous in &mut self.previous {
            previous.expire_at = previous.expire_at.min(after(now, overlap));
        }
        for abandoned in &mut self.abandoned {
            abandoned.since = abandoned.since.min(now);
        }
    }

    /// Abandons the current intent, if any.
    pub fn give_up(&mut self, now: Timestamp) {
        if let Some(lost) = self.intent.take() {
            // A Secret has a size limit; a key whose intent is dropped here expires on schedule.
            let dropped = self.abandoned.len().saturating_sub(MOST_ABANDONED - 1);
            self.abandoned.drain(..dropped);
            self.abandoned.push(Abandoned {
                since: now,
                intent: lost,
            });
        }
    }

    /// Stores a new intent; an earlier one is abandoned and its key looked for later.
    pub fn intend(&mut self, intent: Intent, now: Timestamp) {
        self.give_up(now);
        self.intent = Some(intent);
    }

    /// Puts the created key in force; the key before it stays valid until `overlap` has passed.
    pub fn issue(&mut self, key: &PreAuthKey, intent: &Intent, now: Timestamp, overlap: Duration) {
        let issued = IssuedKey {
            id: key.id,
            created: now,
            expires: intent.expires,
            origin: Origin::Ours,
            asked: intent.asked.clone(),
        };
        self.retire(now, overlap);
        self.current = Some(issued);
        self.intent = None;
    }

    /// Takes over a key that a person put in the place of ours, as if it had the properties that pods ask for.
    pub fn adopt(&mut self, adopted: IssuedKey, now: Timestamp, overlap: Duration) {
        self.give_up(now);
        self.retire(now, overlap);
        self.previous.retain(|previous| previous.id != adopted.id);
        self.lent.retain(|id| *id != adopted.id);
        if adopted.origin == Origin::Foreign {
            self.lent.push(adopted.id);
            let too_many = self.lent.len().saturating_sub(MOST_LENT);
            self.lent.drain(..too_many);
        }
        self.current = Some(adopted);
    }

    /// Takes the key out of force; it stays valid until `overlap` has passed.
    pub fn retire(&mut self, now: Timestamp, overlap: Duration) {
        let old = self.current.take();
        if let Some(old) = old.filter(|old| old.origin != Origin::Foreign) {
            self.previous.push(Previous {
                revoked: false,
                id: old.id,
                // Not capped at the key's own expiry: the clock that compares them may be wrong.
                expire_at: after(now, overlap),
                expires: old.expires,
            });
        }
    }

    /// Takes the key of a single pod out of force; it expires now, unless it was used up or has expired.
    pub fn retire_own(&mut self, now: Timestamp) {
        let ended = |key: &IssuedKey| self.joined_with == Some(key.id) || now >= key.expires;
        if self.current.as_ref().is_some_and(ended) {
            self.current = None;
        }
        self.retire(now, Duration::ZERO);
    }

    /// Expires the previous keys at once: they may have leaked.
    pub fn revoke_previous(&mut self, now: Timestamp) {
        for previous in &mut self.previous {
            previous.expire_at = previous.expire_at.min(now);
            previous.revoked = true;
        }
    }
}
