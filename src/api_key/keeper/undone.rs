//! The key that was written last, put back where somebody takes it out of the Secret: no fight makes keys. Pure.

use jiff::Timestamp;

use super::created::Last;
use super::look::Look;
use super::{Action, Change, Keeper, Why, need};
use crate::api_key::form::Issued;
use crate::clock::after;

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
