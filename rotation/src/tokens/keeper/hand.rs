//! A created key that is not in the Secret yet: verify, write or give it up. Pure.

use jiff::{SignedDuration, Timestamp};

use super::created::{Hand, LastWritten, Use};
use super::look::TokenView;
use super::{Action, Change, TokenKeeper};
use crate::tokens::form::{self, IssuedApiKey, TokenOwnership};
use crate::tokens::record::RecordedApiKey;
use crate::tokens::value::ListedApiKey;

impl TokenKeeper {
    /// Returns the action for a key that only this process has.
    pub(super) fn in_hand(&mut self, look: &TokenView<'_>) -> Option<Action> {
        let hand = self.hand.as_ref()?;
        let row = look.listed.iter().find(|row| row.is_of(&hand.value));
        if look.held.value.as_ref() == Some(&hand.value) {
            // The write's answer was lost.
            if let Some(key) = row.and_then(ListedApiKey::key) {
                self.stored(key);
            }
            self.hand = None;
            return None;
        }
        let ours = look.held.ownership == TokenOwnership::Ours;
        if !ours || look.held.record.intent.as_ref() != Some(&hand.intent) {
            // Another process has taken over: this key is unused.
            self.dropped.extend(row.and_then(ListedApiKey::key));
            self.hand = None;
            return None;
        }
        let Some(row) = row else {
            return Some(self.give_up(
                look,
                None,
                "Headscale does not list the key that it created",
            ));
        };
        let asked = |end: Timestamp| {
            end.duration_since(hand.intent.expires).abs() <= SignedDuration::from_secs(1)
        };
        let key = row.key();
        let Some(key) = key.filter(|key| asked(key.expires) && row.is_live(look.now)) else {
            let why = "Headscale lists the new key with another expiration than requested";
            return Some(self.give_up(look, key, why));
        };
        match hand.used {
            Use::NotTried => Some(Action::Verify {
                value: hand.value.clone(),
                key,
            }),
            Use::Refused => {
                let why = "the new key is rejected where it is used";
                Some(self.give_up(look, Some(key), why))
            }
            Use::Accepted => Some(self.store(look, key, hand)),
        }
    }

    pub(super) fn stored(&mut self, key: RecordedApiKey) {
        if let Some(hand) = self.hand.take() {
            self.last = Some(LastWritten::new(hand.value, key, hand.intent.started_at));
        }
        self.made.push(key);
    }

    fn store(&self, look: &TokenView<'_>, key: RecordedApiKey, hand: &Hand) -> Action {
        let issued = IssuedApiKey {
            value: hand.value.clone(),
            expires: key.expires,
            created_at: look.now,
        };
        self.put_in_force(look, key, Change::Store(key), &issued)
    }

    /// Writes a key, and records all other keys of ours as replaced.
    pub(super) fn put_in_force(
        &self,
        look: &TokenView<'_>,
        key: RecordedApiKey,
        change: Change,
        issued: &IssuedApiKey,
    ) -> Action {
        let mut record = look.held.record.clone();
        let old = [look.row.and_then(ListedApiKey::key), record.current];
        let old = old.into_iter().flatten().chain(self.made.iter().copied());
        for old in old.filter(|old| *old != key && look.is_live(*old)) {
            record.replaced(old, look.now);
        }
        record.current = Some(key);
        record.writer.clone_from(&self.writer);
        record.intent = None;
        self.write(look, &record, change, |secret| {
            form::write_key(secret, &self.policy.data_key, issued);
        })
    }

    /// Abandons an intent; its key, if one was created, is expired.
    pub(super) fn give_up(
        &self,
        look: &TokenView<'_>,
        key: Option<RecordedApiKey>,
        why: &'static str,
    ) -> Action {
        let mut record = look.held.record.clone();
        record.give_up(look.now);
        if let Some(key) = key {
            record.replaced(key, Timestamp::UNIX_EPOCH);
        }
        self.write(look, &record, Change::GiveUp(why), |_| {})
    }
}
