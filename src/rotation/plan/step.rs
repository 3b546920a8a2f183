//! What a plan says is to be done: the steps, why, and when to ask again. Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::control_plane::KeyId;
use crate::rotation::record::{Intent, IssuedKey as Adopted};
use crate::rotation::state::KeyState;
use crate::rotation::value::Flaw;

/// Why a key is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeyReason {
    /// There is none.
    First,
    /// The record names one, and its value is not in the Secret.
    ValueLost,
    /// Somebody put a value in its place that is no key to use.
    Refused(Flaw),
    /// The control plane does not have it any more, or ended it early.
    Lost,
    /// The control plane says that it is another's: of a user that was not created for this service.
    NotOwned,
    /// Pods ask for other tags, another user or other properties than it has, by the record or the control plane.
    Changed,
    /// A person asked for another one.
    Requested,
    /// The pod that it is for has not joined, and the time has come.
    NotJoined,
    /// Its time has come.
    Due,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Write down that a key is about to be made; one that was under way is given up.
    Intend {
        /// The key.
        data_key: String,
        /// Why.
        why: KeyReason,
    },
    /// Make the key that was written down, and put it in force.
    Create {
        /// The key.
        data_key: String,
        /// What was written down.
        intent: Intent,
        /// Why.
        why: KeyReason,
    },
    /// Take over a key that a person put in the place of ours.
    Adopt {
        /// The key.
        data_key: String,
        /// What it is.
        key: Adopted,
    },
    /// Stop an intent that nobody follows.
    GiveUp {
        /// The key.
        data_key: String,
    },
    /// End a key at the control plane; if it was one of the previous, forget it.
    Expire {
        /// The key.
        data_key: String,
        /// Where.
        control_plane: String,
        /// Which.
        id: KeyId,
        /// When it ends by itself: a key of that id with another end is not the one.
        expires: Timestamp,
        /// Why.
        why: ExpireReason,
    },
    /// Bring what was put off for too long by a clock that was ahead back to now.
    BringBack {
        /// The key.
        data_key: String,
    },
    /// Forget a previous key that is over, or is the one in force.
    ForgetPrevious {
        /// The key.
        data_key: String,
        /// Which.
        id: KeyId,
    },
    /// Write down that the one pod that a key is for has joined.
    NoteJoined {
        /// The key.
        data_key: String,
        /// With which.
        id: KeyId,
    },
    /// Write down since when no pod needs the key; none: a pod needs it again.
    NoteUse {
        /// The key.
        data_key: String,
        /// Since when.
        unused_since: Option<Timestamp>,
    },
    /// Take a key that nobody needed for long out of the Secret; it then ends as any that went before.
    Retire {
        /// The key.
        data_key: String,
    },
    /// Forget a key of which nothing is left.
    Forget {
        /// The key.
        data_key: String,
    },
    /// Write down that the record of an earlier namespace of that name was confirmed.
    TakeOver,
    /// Forget an intent whose key can no longer turn up.
    ForgetAbandoned {
        /// The key.
        data_key: String,
        /// The intent.
        op: String,
    },
}

/// What to do now, and when to ask again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Most urgent first.
    pub steps: Vec<Step>,
    /// State of every demanded key.
    pub states: BTreeMap<String, KeyState>,
    /// Whether the Secret has no room for the keys of some services.
    pub full: bool,
    /// When a key is due or may be tried again.
    pub renew_at: Option<Timestamp>,
    /// When a key is to be ended.
    pub cleanup_at: Option<Timestamp>,
    /// When the control plane's list of keys is wanted.
    pub confirm_at: Option<Timestamp>,
}

/// Says why a key is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpireReason {
    /// It was replaced or taken out, and the time that it went on for has passed.
    Overlap,
    /// Somebody asked for its end.
    Revoked,
    /// It came of an intent that was given up: nobody has its value.
    LostIntent,
}

impl ExpireReason {
    /// Its name in logs.
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
    /// Its name in logs.
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
