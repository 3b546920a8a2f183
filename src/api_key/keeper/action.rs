//! What a keeper asks to be done, what came of it, and why it rests. Pure.

use jiff::Timestamp;

use crate::api_key::form::TokenOwnership;
use crate::api_key::need::TokenReason;
use crate::api_key::record::{ApiKeyIntent, RecordedApiKey};
use crate::key_value::KeyValue;
use crate::store::StoredSecret;

/// One thing to do.
#[derive(Clone, Debug)]
pub enum Action {
    /// Write the Secret by compare-and-swap.
    Write(Box<Write>),
    /// Ask Headscale for a key with exactly this end.
    Create {
        /// The end.
        expires: Timestamp,
    },
    /// Make a call with the new key.
    Verify {
        /// Its value.
        value: KeyValue,
        /// The key.
        key: RecordedApiKey,
    },
    /// End a key at Headscale, by its id.
    Expire {
        /// Which.
        key: RecordedApiKey,
        /// Whether it was made by a run that did not get to write it.
        orphan: bool,
    },
    /// Nothing, until a time or until something changes.
    Rest(Idle),
}

/// A Secret to write.
#[derive(Clone, Debug)]
pub struct Write {
    /// All of it, with the revision it was read at.
    pub secret: StoredSecret,
    /// What for.
    pub change: Change,
}

/// What a write is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A key is about to be made.
    Intend(ApiKeyIntent, TokenReason),
    /// A key that was made is put in force.
    Store(RecordedApiKey),
    /// The key that was made last is put back in force, because somebody undid that.
    PutBack(RecordedApiKey),
    /// An intent is given up, and why.
    GiveUp(&'static str),
    /// Annotations are made to say what Headscale says.
    Repair,
    /// Keys that are over are forgotten.
    Tidy,
    /// A look is written down.
    CheckIn,
}

/// What came of an action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ActionOutcome {
    /// It was done.
    Ok,
    /// A key was made.
    Created(KeyValue),
    /// The new key is not accepted where it is used.
    Refused,
    /// It was not done, or that is not known.
    Failed,
}

/// Says why nothing is to be done, and until when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idle {
    /// How the key is.
    pub state: TokenState,
    /// When it ends, as Headscale reports it.
    pub expires: Option<Timestamp>,
    /// When it is renewed.
    pub due: Option<Timestamp>,
    /// When to look again at the latest.
    pub until: Timestamp,
    /// Live keys that are not ours, or not known to be.
    pub others: usize,
}

/// How a key is when there is nothing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenState {
    /// Good.
    Good,
    /// Somebody else is making one.
    Yields(String),
    /// Somebody else looks after it.
    Attended(String),
    /// It is not good, and is renewed by those who can.
    LeftToOthers(TokenReason),
    /// Somebody keeps undoing it, or too many keys were made. Names who wrote the Secret last.
    Contended(String),
    /// The Secret is not ours to write.
    Left(TokenOwnership),
}
