//! The key that was written last, put back where somebody takes it out of the Secret: no fight makes keys. Pure.

use jiff::Timestamp;

use super::look::Look;
use super::{Action, Change, Keeper, Why, need};
use crate::api_key::form::Issued;
use crate::api_key::record::Key;
use crate::clock::after;
use crate::key_value::KeyValue;

/// So often a key is put back before that is called a fight: once may be a person trying things out.
const FIGHT: usize = 2;

/// The key that was written last. It is kept for an hour at most.
#[derive(Debug)]
pub(super) struct Last {
    value: KeyValue,
    key: Key,
    made_at: Timestamp,
    put_back: usize,
}

impl Last {
    pub(super) fn new(value: KeyValue, key: Key, made_at: Timestamp) -> Self {
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

impl Keeper {
    /// Forgets the key that was written last, once another may be made.
    pub(super) fn forget_last(&mut self, now: Timestamp) {
        let every = self.every();
        self.last
            .take_if(|last| now < last.made_at || now >= after(last.made_at, every));
    }

    /// Puts the key that was written last back, if it is as good as it was, and was taken out of the Secret.
    pub(super) fn put_back(&self, look: &Look<'_>, why: &Why) -> Option<Action> {
        let last = self.last.as_ref()?;
        let taken_out = match why {
            Why::First | Why::NotAKey | Why::Unknown | Why::Ended => true,
            Why::Unstated(_) | Why::Due => false,
        };
        let Last { value, key, .. } = last;
        let good = look.is_live(*key) && look.now < need::due(key.expires, &self.policy);
        if !taken_out || !good || look.held.value.as_ref() == Some(value) {
            return None;
        }
        let issued = Issued {
            value: value.clone(),
            expires: key.expires,
            created_at: last.made_at,
        };
        Some(self.put_in_force(look, *key, Change::PutBack(*key), &issued))
    }
}
