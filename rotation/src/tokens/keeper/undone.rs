//! Puts the last written key back when it is removed from the Secret: contention creates no keys. Pure.

use jiff::Timestamp;
use sidescale_core::time::after;

use super::created::LastWritten;
use super::look::TokenView;
use super::{Action, Change, TokenKeeper, TokenReason, need};
use crate::tokens::form::IssuedApiKey;

impl TokenKeeper {
    /// Forgets the last written key as soon as another may be created.
    pub(super) fn forget_last(&mut self, now: Timestamp) {
        let every = self.every();
        self.last
            .take_if(|last| now < last.made_at || now >= after(last.made_at, every));
    }

    /// Puts the last written key back, if it is still valid and was removed from the Secret.
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
