//! The actions of a keeper, their outcomes, and why it rests. Pure.

use jiff::Timestamp;
use sidescale_core::key_value::KeyValue;
use sidescale_core::secret::StoredSecret;

use crate::tokens::form::TokenOwnership;
use crate::tokens::need::TokenReason;
use crate::tokens::record::{ApiKeyIntent, RecordedApiKey};

/// One step to take.
#[derive(Clone, Debug)]
pub enum Action {
    /// Write the Secret by compare-and-swap.
    Write(Box<Write>),
    /// Create a key at Headscale.
    Create {
        /// Its exact expiration, with the fingerprint.
        expires: Timestamp,
    },
    /// Call Headscale with the new key.
    Verify {
        /// The API key to call with.
        value: KeyValue,
        /// Its record.
        key: RecordedApiKey,
    },
    /// Expire a key at Headscale, by its id.
    Expire {
        /// The key to expire.
        key: RecordedApiKey,
        /// Whether it was created by a run that did not get to write it.
        orphan: bool,
    },
    /// Nothing, until a given time or a change.
    Rest(Idle),
}

/// A Secret to write.
#[derive(Clone, Debug)]
pub struct Write {
    /// The complete Secret, with the revision it was read at.
    pub secret: StoredSecret,
    /// What changes.
    pub change: Change,
}

/// Purpose of a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A key is about to be created.
    Intend(ApiKeyIntent, TokenReason),
    /// A created key is put into use.
    Store(RecordedApiKey),
    /// The key that was created last is put back, because another writer replaced it.
    PutBack(RecordedApiKey),
    /// An intent is abandoned, and why.
    GiveUp(&'static str),
    /// Annotations are made to agree with Headscale.
    Repair,
    /// Expired keys are removed from the record.
    Tidy,
    /// A check is recorded.
    CheckIn,
}

/// Outcome of an action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ActionOutcome {
    /// It was done.
    Ok,
    /// A key was created.
    Created(KeyValue),
    /// The new key is not accepted where it is used.
    Refused,
    /// It failed, or its outcome is unknown.
    Failed,
}

/// Why nothing is to be done, and until when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idle {
    /// State of the key.
    pub state: TokenState,
    /// When it expires, as Headscale reports it.
    pub expires: Option<Timestamp>,
    /// When it is renewed.
    pub due: Option<Timestamp>,
    /// When to check again at the latest.
    pub until: Timestamp,
    /// Number of live keys that are not ours, or not known to be.
    pub others: usize,
}

/// State of a key while there is nothing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenState {
    /// The API key works and is not due.
    Good,
    /// Another process is creating one.
    Yields(String),
    /// Another process manages it.
    Attended(String),
    /// It is not good; a process that can renew it does.
    LeftToOthers(TokenReason),
    /// Another writer keeps replacing it, or too many keys were created. Names the last writer of the Secret.
    Contended(String),
    /// Sidescale may not write the Secret.
    Left(TokenOwnership),
}
