//! What is remembered of one key: what is in force, what went before, what is being made. Pure.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::bounds;
use crate::clock::after;
use crate::control_plane::{KeyId, PreAuthKey};

/// Bounds how many lost intents of a key are remembered.
const MOST_ABANDONED: usize = 32;

/// Bounds how many keys of others are remembered for one of ours.
const MOST_LENT: usize = 8;

/// Remembers one key: what is in force, what went before, what is being made.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyRecord {
    /// The identity of the pods that use it.
    pub service: String,
    /// Name of the control plane that made it.
    pub control_plane: String,
    /// The key whose value stands in the Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<IssuedKey>,
    /// Keys that went before and are still valid, until their overlap ends.
    #[serde(
        default,
        deserialize_with = "bounds::previous",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub previous: Vec<Previous>,
    /// The key that is being made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intent: Option<Intent>,
    /// Intents whose end nobody saw: a key with that fingerprint is ours, and nobody has its value.
    #[serde(
        default,
        deserialize_with = "bounds::last::<_, _, MOST_ABANDONED>",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub abandoned: Vec<Abandoned>,
    /// Keys of others that people put into the Secret, the latest last: pods have joined with them.
    #[serde(
        default,
        deserialize_with = "bounds::last::<_, _, MOST_LENT>",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub lent: Vec<KeyId>,
    /// Since when no pod has needed it, as far as that was seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unused_since: Option<Timestamp>,
    /// The key that the one pod it is for has joined with: nobody needs another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joined_with: Option<KeyId>,
}

/// What was asked of a key; a change of any of it makes another key.
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

/// A key that was made.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct IssuedKey {
    /// Its id at the control plane.
    pub id: KeyId,
    /// When it was made.
    pub created: Timestamp,
    /// When it ends.
    pub expires: Timestamp,
    /// Who made it.
    #[serde(default, skip_serializing_if = "Origin::is_ours")]
    pub origin: Origin,
    /// What was asked.
    #[serde(flatten)]
    pub asked: KeySpec,
}

/// Says who made a key, and so whether it is ours to end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Origin {
    /// We did.
    #[default]
    Ours,
    /// A person put it into the Secret; it is of the user that Sidescale created for this service.
    Hand,
    /// As that, and of another user: it is never ended by us.
    Foreign,
}

impl Origin {
    fn is_ours(&self) -> bool {
        *self == Self::Ours
    }
}

/// A key that was replaced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Previous {
    /// Its id at the control plane.
    pub id: KeyId,
    /// When we end it.
    pub expire_at: Timestamp,
    /// When it ends by itself; tells it from another key that got its id after a restore.
    pub expires: Timestamp,
    /// Whether somebody asked for its end.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub revoked: bool,
}

/// A key that is about to be made.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Intent {
    /// Names this attempt.
    pub op: String,
    /// Names the process that makes it.
    pub writer: String,
    /// When it began.
    pub started_at: Timestamp,
    /// The exact end that is asked for: its sub-second part is the key's fingerprint.
    pub expires: Timestamp,
    /// What is asked.
    #[serde(flatten)]
    pub asked: KeySpec,
}

/// An intent that was given up.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Abandoned {
    /// When it was given up.
    pub since: Timestamp,
    /// The intent; a key just like it may have been made.
    pub intent: Intent,
}

impl KeyRecord {
    /// A key that nobody made yet.
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

    /// The key that its pods join with; once a single pod has joined, the one that it did.
    #[must_use]
    pub fn joins_with(&self) -> Option<KeyId> {
        let current = self.current.as_ref().map(|current| current.id);
        self.joined_with.or(current)
    }

    /// Whether nothing is left to remember.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.current.is_none()
            && self.previous.is_empty()
            && self.intent.is_none()
            && self.abandoned.is_empty()
    }

    /// Whether that key stands or stood in the Secret: its id alone may be another's after a restore.
    #[must_use]
    pub fn holds(&self, id: KeyId, expires: Timestamp) -> bool {
        let current = self.current.as_ref();
        let current = current.is_some_and(|key| (key.id, key.expires) == (id, expires));
        let previous = |key: &Previous| (key.id, key.expires) == (id, expires);
        current || self.previous.iter().any(previous)
    }

    /// Has previous keys end one overlap from now at the latest, and counts the age of lost intents from now at the latest.
    pub fn bring_back(&mut self, now: Timestamp, overlap: Duration) {
        for previous in &mut self.previous {
            previous.expire_at = previous.expire_at.min(after(now, overlap));
        }
        for abandoned in &mut self.abandoned {
            abandoned.since = abandoned.since.min(now);
        }
    }

    /// Gives up the intent that is under way, if any.
    pub fn give_up(&mut self, now: Timestamp) {
        if let Some(lost) = self.intent.take() {
            // A Secret has its limit; what is dropped here ends by itself.
            let dropped = self.abandoned.len().saturating_sub(MOST_ABANDONED - 1);
            self.abandoned.drain(..dropped);
            self.abandoned.push(Abandoned {
                since: now,
                intent: lost,
            });
        }
    }

    /// Takes up a new intent; one that was under way is given up, and its key looked for later.
    pub fn intend(&mut self, intent: Intent, now: Timestamp) {
        self.give_up(now);
        self.intent = Some(intent);
    }

    /// Puts the key in force that the intent has led to; the one before goes on until `overlap` has passed.
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

    /// Takes over a key that a person put in the place of ours, as if it were what pods ask for.
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

    /// Takes the key out of force; it goes on until `overlap` has passed.
    pub fn retire(&mut self, now: Timestamp, overlap: Duration) {
        let old = self.current.take();
        if let Some(old) = old.filter(|old| old.origin != Origin::Foreign) {
            self.previous.push(Previous {
                revoked: false,
                id: old.id,
                // Not earlier because it ends by itself: the clock that says so may be wrong.
                expire_at: after(now, overlap),
                expires: old.expires,
            });
        }
    }

    /// Takes a key of one pod out of force: it ends now, unless it was used up or is over.
    pub fn retire_own(&mut self, now: Timestamp) {
        let ended = |key: &IssuedKey| self.joined_with == Some(key.id) || now >= key.expires;
        if self.current.as_ref().is_some_and(ended) {
            self.current = None;
        }
        self.retire(now, Duration::ZERO);
    }

    /// Ends what went before at once: somebody may have it who should not.
    pub fn revoke_previous(&mut self, now: Timestamp) {
        for previous in &mut self.previous {
            previous.expire_at = previous.expire_at.min(now);
            previous.revoked = true;
        }
    }
}
