//! The steps of a plan, their reasons, and when to plan again. Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;
use sidescale_core::id::KeyId;
use sidescale_core::key_state::KeyState;

use crate::record::{Intent, IssuedKey as Adopted};
use crate::value::Flaw;

/// Why a key is created.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeyReason {
    /// The record has no key.
    First,
    /// The record names a key, but the Secret does not have its value.
    ValueLost,
    /// Another writer replaced the value with one that is not a usable key.
    Refused(Flaw),
    /// The control plane no longer has the key, or expired it early.
    Lost,
    /// By the control plane, the key belongs to a user that was not created for this service.
    NotOwned,
    /// Pods ask for other tags, another user or other properties than the key has by the record or the control plane.
    Changed,
    /// A person requested a new key.
    Requested,
    /// The key is due, and its pod has not joined.
    NotJoined,
    /// The key is due.
    Due,
}

/// One step of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Write an intent to create a key; an earlier intent is abandoned.
    Intend {
        /// Key of the Secret's data.
        data_key: String,
        /// Why the key is created.
        why: KeyReason,
    },
    /// Create the key of an intent and put it in force.
    Create {
        /// Key of the Secret's data.
        data_key: String,
        /// What is about to be created.
        intent: Intent,
        /// Why.
        why: KeyReason,
    },
    /// Take over a key that a person put in the place of ours.
    Adopt {
        /// Key of the Secret's data.
        data_key: String,
        /// The key, as the record remembers it.
        key: Adopted,
    },
    /// Abandon an intent that no process follows.
    GiveUp {
        /// Data key of the intent.
        data_key: String,
    },
    /// Expire a key at the control plane; forget it if it is a previous key.
    Expire {
        /// Key of the Secret's data.
        data_key: String,
        /// Name of the control plane in the configuration.
        control_plane: String,
        /// Id of the key to expire.
        id: KeyId,
        /// When it expires; a key of the same id with another expiry is a different key.
        expires: Timestamp,
        /// Why.
        why: ExpireReason,
    },
    /// Move times that a fast clock set too far in the future back to now.
    BringBack {
        /// Data key whose times are moved.
        data_key: String,
    },
    /// Forget a previous key that has expired, or is the one in force.
    ForgetPrevious {
        /// Key of the Secret's data.
        data_key: String,
        /// Id of the previous key.
        id: KeyId,
    },
    /// Record that the one pod of a key has joined.
    NoteJoined {
        /// Key of the Secret's data.
        data_key: String,
        /// The key that it joined with.
        id: KeyId,
    },
    /// Record since when no pod needs the key; none: a pod needs it again.
    NoteUse {
        /// Key of the Secret's data.
        data_key: String,
        /// Since when no pod needs the key; none if one does again.
        unused_since: Option<Timestamp>,
    },
    /// Take a key that was unused for long out of the Secret; it then expires like other previous keys.
    Retire {
        /// Data key of the unused key.
        data_key: String,
    },
    /// Forget a key that has nothing left to remember.
    Forget {
        /// Data key of the record's entry.
        data_key: String,
    },
    /// Record that the record of an earlier namespace of that name was confirmed.
    TakeOver,
    /// Forget an abandoned intent whose key can no longer turn up.
    ForgetAbandoned {
        /// Key of the Secret's data.
        data_key: String,
        /// Id of the intent.
        op: String,
    },
}

/// Steps to do now, and when to plan again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The steps, most urgent first.
    pub steps: Vec<Step>,
    /// State of every demanded key.
    pub states: BTreeMap<String, KeyState>,
    /// Whether the Secret has no room for the keys of some services.
    pub full: bool,
    /// When a key is due or may be tried again.
    pub renew_at: Option<Timestamp>,
    /// When a key is to be expired.
    pub cleanup_at: Option<Timestamp>,
    /// When the control plane's list of keys is needed.
    pub confirm_at: Option<Timestamp>,
}

/// Why a key is expired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpireReason {
    /// It was replaced or taken out, and its overlap has passed.
    Overlap,
    /// A person revoked it.
    Revoked,
    /// It was created from an abandoned intent: its value is lost.
    LostIntent,
}

impl ExpireReason {
    /// Returns the name used in logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Overlap => "overlap_over",
            Self::Revoked => "revoked",
            Self::LostIntent => "lost_intent",
        }
    }
}

impl KeyReason {
    /// Returns the name used in logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::ValueLost => "value_lost",
            Self::Refused(_) => "value_refused",
            Self::Lost => "lost",
            Self::NotOwned => "not_owned",
            Self::Changed => "changed",
            Self::Requested => "requested",
            Self::NotJoined => "not_joined",
            Self::Due => "due",
        }
    }
}

pub(super) fn urgency(step: &Step) -> u8 {
    match step {
        Step::Intend {
            why: KeyReason::First,
            ..
        }
        | Step::Create {
            why: KeyReason::First,
            ..
        } => 0,
        Step::Intend {
            why:
                KeyReason::ValueLost
                | KeyReason::Refused(_)
                | KeyReason::Lost
                | KeyReason::NotOwned
                | KeyReason::Changed
                | KeyReason::Requested
                | KeyReason::NotJoined,
            ..
        }
        | Step::Create {
            why:
                KeyReason::ValueLost
                | KeyReason::Refused(_)
                | KeyReason::Lost
                | KeyReason::NotOwned
                | KeyReason::Changed
                | KeyReason::Requested
                | KeyReason::NotJoined,
            ..
        }
        | Step::Adopt { .. } => 1,
        Step::Intend {
            why: KeyReason::Due,
            ..
        }
        | Step::Create {
            why: KeyReason::Due,
            ..
        } => 2,
        Step::GiveUp { .. }
        | Step::Expire { .. }
        | Step::BringBack { .. }
        | Step::ForgetPrevious { .. }
        | Step::NoteJoined { .. }
        | Step::NoteUse { .. }
        | Step::Retire { .. }
        | Step::Forget { .. }
        | Step::TakeOver
        | Step::ForgetAbandoned { .. } => 3,
    }
}
