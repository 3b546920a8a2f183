//! The key that was written last, put back where somebody takes it out of the Secret: no fight makes keys. Pure.

use jiff::Timestamp;

use super::created::LastWritten;
use super::look::TokenView;
use super::{Action, Change, TokenKeeper, TokenReason, need};
use crate::api_key::form::IssuedApiKey;
use crate::clock::after;

impl TokenKeeper {
    /// Forgets the key that was written last, once another may be made.
    pub(super) fn forget_last(&mut self, now: Timestamp) {
        let every = self.every();
        self.last
            .take_if(|last| now < last.made_at || now >= after(last.made_at, every));
    }

    /// Puts the key that was written last back, if it is as good as it was, and was taken out of the Secret.
    pub(super) fn put_back(&self, look: &TokenView<'_>, why: &TokenReason) -> Option<Action> {
        let last = self.last.as_ref()?;
        let taken_out = match why {
            TokenReason::First
            | TokenReason::NotAKey
            | TokenReason::Unknown
            | TokenReason::Ended => true,
            TokenReason::Unstated(_) | TokenReason::Due => false,
        };
        let LastWritten { value, key, .. } = last;
        let good = look.is_live(*key) && look.now < need::due(key.expires, &self.policy);
        if !taken_out || !good || look.held.value.as_ref() == Some(value) {
            return None;
        }
        let issued = IssuedApiKey {
            value: value.clone(),
            expires: key.expires,
            created_at: last.made_at,
        };
        Some(self.put_in_force(look, *key, Change::PutBack(*key), &issued))
    }
}
