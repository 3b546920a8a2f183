//! The keys that only this process knows: the one not yet in the Secret, and the last written one. State.

use jiff::Timestamp;
use sidescale_core::key_value::KeyValue;

use crate::tokens::record::{ApiKeyIntent, RecordedApiKey};

/// A new key, and its intent.
#[derive(Debug)]
pub(super) struct Hand {
    pub(super) value: KeyValue,
    pub(super) intent: ApiKeyIntent,
    pub(super) used: Use,
}

/// Outcome of using a new key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    NotTried,
    Accepted,
    Refused,
}

/// How often a key is put back before that counts as contention: once may be a person trying things out.
const FIGHT: usize = 2;

/// The last written key, kept for an hour at most.
#[derive(Debug)]
pub(super) struct LastWritten {
    pub(super) value: KeyValue,
    pub(super) key: RecordedApiKey,
    pub(super) made_at: Timestamp,
    put_back: usize,
}

impl LastWritten {
    pub(super) fn new(value: KeyValue, key: RecordedApiKey, made_at: Timestamp) -> Self {
        Self {
            value,
            key,
            made_at,
            put_back: 0,
        }
    }

    pub(super) fn was_put_back(&mut self) {
        self.put_back += 1;
    }

    pub(super) fn is_fought_over(&self) -> bool {
        self.put_back >= FIGHT
    }
}
