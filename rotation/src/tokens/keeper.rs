//! State machine of an API key: intent, create, verify, write, expire the old one, forget. Pure; the time is an
//! argument.
//!
//! The caller reads the Secret, then Headscale's list, asks for the next action, performs it, reports the outcome, and
//! reads again. Every action is safe to repeat and to lose: after a crash the Secret's record says how to continue.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use sidescale_core::fingerprint::fingerprint;
use sidescale_core::secret::StoredSecret;
use sidescale_core::time::after;

use super::form::{self, Stated, TokenOwnership};
use super::need::{self, TokenDecision, TokenPolicy, TokenReason};
use super::record::{ABANDONED_FOR, ApiKeyIntent, ApiKeyRecord, RecordedApiKey};
use super::value::ListedApiKey;

mod action;
mod created;
mod hand;
mod look;
mod undone;

pub use action::{Action, ActionOutcome, Change, Idle, TokenState, Write};
use created::{Hand, LastWritten, Use};
use look::TokenView;

/// How often the key is checked even without a change.
pub const CHECK_EVERY: Duration = Duration::from_secs(3_600);

/// How many keys are created at once where one was of no use; after that one per interval between renewals, at most one
/// an hour. A key that is removed from the Secret is put back, without creating another.
const BURST: usize = 2;

/// Manages one API key in one Secret.
#[derive(Debug)]
pub struct TokenKeeper {
    writer: String,
    /// The policy as configured.
    told: TokenPolicy,
    /// The policy for the current key.
    policy: TokenPolicy,
    /// Our intent that is written, with its key still to be created.
    begun: Option<ApiKeyIntent>,
    /// A created key that is not in the Secret yet: only this process has its value.
    hand: Option<Hand>,
    /// The key of the last write.
    last: Option<LastWritten>,
    /// Our keys that were once in the Secret.
    made: Vec<RecordedApiKey>,
    /// Our keys that never were in the Secret.
    dropped: Vec<RecordedApiKey>,
    /// When the last keys were created.
    mints: Vec<Timestamp>,
}

impl TokenKeeper {
    /// Starts without any state; `writer` identifies this process, and stays the same when its container restarts.
    #[must_use]
    pub fn new(writer: String, policy: TokenPolicy) -> Self {
        Self {
            writer,
            told: policy.clone(),
            policy,
            begun: None,
            hand: None,
            last: None,
            made: Vec::new(),
            dropped: Vec::new(),
            mints: Vec::new(),
        }
    }

    /// Returns the next action; the list was read after the Secret. `random` makes the expiration of a new key unique.
    pub fn next(
        &mut self,
        now: Timestamp,
        secret: &StoredSecret,
        listed: &[ListedApiKey],
        random: u64,
    ) -> Action {
        let look = TokenView::new(now, secret, listed, &self.told);
        self.policy = self.told.for_key(&look.held, look.row);
        self.forget_last(now);
        let action = match self.in_hand(&look) {
            Some(action) => action,
            None => self.settle(&look, random),
        };
        match action {
            // Creating a key comes before cleaning up, which may fail for long.
            Action::Rest(_) => self.clear_dropped(&look).unwrap_or(action),
            other => other,
        }
    }

    fn settle(&mut self, look: &TokenView<'_>, random: u64) -> Action {
        let now = look.now;
        if look.held.ownership != TokenOwnership::Ours {
            let state = TokenState::Left(look.held.ownership.clone());
            return self.rest(look, state, after(now, CHECK_EVERY));
        }
        if let Some((by, until)) = self.attended(look) {
            return self.rest(look, TokenState::Attended(by), until);
        }
        match need::decide(now, &look.held, look.row, &self.policy) {
            TokenDecision::Renew(why) => self.renew(look, why, random),
            TokenDecision::Keep => self.keep(look),
        }
    }

    /// Records the outcome of an action.
    pub fn absorb(&mut self, now: Timestamp, action: Action, done: ActionOutcome) {
        match action {
            Action::Write(write) => {
                let Write { secret: _, change } = *write;
                match change {
                    Change::Intend(intent, _) => {
                        self.begun = (done == ActionOutcome::Ok).then_some(intent)
                    }
                    Change::Store(key) if done == ActionOutcome::Ok => self.stored(key),
                    Change::PutBack(_) if done == ActionOutcome::Ok => {
                        self.last.iter_mut().for_each(LastWritten::was_put_back);
                    }
                    Change::GiveUp(_) if done == ActionOutcome::Ok => self.hand = None,
                    Change::Store(_)
                    | Change::PutBack(_)
                    | Change::GiveUp(_)
                    | Change::Repair
                    | Change::Tidy
                    | Change::CheckIn => {}
                }
            }
            Action::Create { .. } => {
                // Created once only: whether a lost answer created a key is seen by its fingerprint.
                let intent = self.begun.take();
                if let (Some(intent), ActionOutcome::Created(value)) = (intent, done) {
                    self.hand = Some(Hand {
                        value,
                        intent,
                        used: Use::NotTried,
                    });
                    self.mints.push(now);
                }
            }
            Action::Verify { .. } => {
                if let Some(hand) = &mut self.hand {
                    hand.used = match done {
                        ActionOutcome::Refused => Use::Refused,
                        // Where it is used cannot be asked now; its row in the list has to do.
                        ActionOutcome::Ok | ActionOutcome::Failed | ActionOutcome::Created(_) => {
                            Use::Accepted
                        }
                    };
                }
            }
            Action::Expire { .. } | Action::Rest(_) => {}
        }
    }

    /// Handles the need for a new key.
    fn renew(&mut self, look: &TokenView<'_>, why: TokenReason, random: u64) -> Action {
        let now = look.now;
        if let Some(intent) = &look.held.record.intent {
            if self.begun.as_ref() == Some(intent) {
                return Action::Create {
                    expires: intent.expires,
                };
            }
            if let Some(until) = self.respected(intent, now) {
                let state = TokenState::Yields(intent.writer.clone());
                return self.rest(look, state, until);
            }
        }
        if self.policy.stand_in.is_some() && why != TokenReason::Due {
            let until = after(now, CHECK_EVERY);
            return self.rest(look, TokenState::LeftToOthers(why), until);
        }
        if let Some(put_back) = self.put_back(look, &why) {
            return put_back;
        }
        if let Some(until) = self.spent(now) {
            let by = look.held.record.writer.clone();
            return self.rest(look, TokenState::Contended(by), until);
        }
        let intent = ApiKeyIntent {
            writer: self.writer.clone(),
            started_at: now,
            expires: fingerprint(now, self.policy.expiration, random),
        };
        let mut record = look.held.record.clone();
        record.give_up(now);
        record.intent = Some(intent.clone());
        self.write(look, &record, Change::Intend(intent, why), |_| {})
    }

    /// Does the remaining work while the key is good.
    fn keep(&mut self, look: &TokenView<'_>) -> Action {
        let (now, record) = (look.now, &look.held.record);
        let Some(current) = look.row.and_then(ListedApiKey::key) else {
            return self.rest(look, TokenState::Good, after(now, CHECK_EVERY));
        };
        let mut until = after(now, CHECK_EVERY);
        if let Some(intent) = &record.intent {
            match self.respected(intent, now) {
                Some(end) => until = until.min(end),
                None => return self.give_up(look, None, "its writer has stopped"),
            }
        }
        if let Some(repaired) = self.repair(look, current) {
            return repaired;
        }
        let known =
            |key: RecordedApiKey| record.previous.iter().any(|previous| previous.key == key);
        let lost = |key: &&RecordedApiKey| **key != current && !known(**key) && look.is_live(**key);
        if let Some(key) = self.made.iter().find(lost) {
            return Action::Expire {
                key: *key,
                orphan: true,
            };
        }
        let mut tidy = record.clone();
        tidy.previous
            .retain(|previous| previous.key != current && look.is_live(previous.key));
        for previous in &tidy.previous {
            let end = after(previous.since, self.policy.overlap);
            // A clock that was set back must not keep an old key alive forever.
            if now >= end || previous.since > now {
                return Action::Expire {
                    key: previous.key,
                    orphan: previous.since == Timestamp::UNIX_EPOCH,
                };
            }
            until = until.min(end);
        }
        if let Some(key) = look.abandoned_key(record) {
            return Action::Expire { key, orphan: true };
        }
        let fresh = |since: Timestamp| {
            now < after(since, ABANDONED_FOR) && since <= after(now, ABANDONED_FOR)
        };
        tidy.abandoned.retain(|abandoned| fresh(abandoned.since));
        if tidy != *record {
            return self.write(look, &tidy, Change::Tidy, |_| {});
        }
        for abandoned in &tidy.abandoned {
            until = until.min(after(abandoned.since, ABANDONED_FOR));
        }
        if self.policy.stand_in.is_none() && look.checked_long_ago() {
            return self.write(look, record, Change::CheckIn, |_| {});
        }
        let state = if self.last.as_ref().is_some_and(LastWritten::is_fought_over) {
            TokenState::Contended(String::new())
        } else {
            TokenState::Good
        };
        self.rest(look, state, until)
    }

    /// Returns the write that makes the Secret agree with Headscale about its key.
    fn repair(&self, look: &TokenView<'_>, current: RecordedApiKey) -> Option<Action> {
        let (held, expires) = (&look.held, current.expires);
        let same = |stated: Timestamp| {
            stated.duration_since(expires).abs() <= SignedDuration::from_secs(1)
        };
        let times = matches!(held.expiration, Stated::At(stated) if same(stated))
            && matches!(held.created_at, Stated::At(_));
        let named = held.record.current == Some(current);
        if times && named && held.labelled && !held.record_damaged {
            return None;
        }
        let mut record = held.record.clone();
        // Another key was put there by hand: Sidescale expires its own key before it.
        if let Some(old) = record.current.replace(current)
            && old != current
            && look.is_live(old)
        {
            record.replaced(old, look.now);
        }
        let created_at = match held.created_at {
            Stated::At(at) => at,
            Stated::Absent | Stated::Unreadable(_) => look.now,
        };
        Some(self.write(look, &record, Change::Repair, |secret| {
            form::write_times(secret, expires, created_at);
        }))
    }

    /// Expires keys that this process created and that never reached a reader.
    fn clear_dropped(&mut self, look: &TokenView<'_>) -> Option<Action> {
        self.dropped
            .retain(|key| look.is_live(*key) && look.row.and_then(ListedApiKey::key) != Some(*key));
        let key = *self.dropped.first()?;
        Some(Action::Expire { key, orphan: true })
    }

    /// Returns until when another writer's intent is respected.
    fn respected(&self, intent: &ApiKeyIntent, now: Timestamp) -> Option<Timestamp> {
        let TokenPolicy { respect, .. } = self.policy;
        let age = now.duration_since(intent.started_at).unsigned_abs();
        (intent.writer != self.writer && age < respect)
            .then(|| after(intent.started_at, respect).min(after(now, respect)))
    }

    /// For a stand-in: returns who manages the key, and until when it is left to them.
    fn attended(&self, look: &TokenView<'_>) -> Option<(String, Timestamp)> {
        let alone_after = self.policy.stand_in?;
        let (at, by) = look.held.checked.as_ref()?;
        let until = after(*at, alone_after);
        (*by != self.writer && look.now < until && *at <= after(look.now, alone_after))
            .then(|| (by.clone(), until.min(after(look.now, CHECK_EVERY))))
    }

    /// Shortest average interval between new keys: the time from creation to renewal, at most an hour.
    fn every(&self) -> Duration {
        let TokenPolicy {
            expiration, buffer, ..
        } = self.policy;
        expiration.saturating_sub(buffer).min(CHECK_EVERY)
    }

    /// Returns until when no more keys are created, if there were too many.
    fn spent(&mut self, now: Timestamp) -> Option<Timestamp> {
        let every = self.every();
        let window = every.saturating_mul(u32::try_from(BURST).unwrap_or(u32::MAX));
        self.mints
            .retain(|mint| *mint <= now && now < after(*mint, window));
        let last = self.mints.last().filter(|_| self.mints.len() >= BURST)?;
        let free = after(*last, every);
        (now < free).then_some(free)
    }

    fn write(
        &self,
        look: &TokenView<'_>,
        record: &ApiKeyRecord,
        change: Change,
        more: impl FnOnce(&mut StoredSecret),
    ) -> Action {
        let mut secret = look.secret.clone();
        form::write(&mut secret, &self.policy.managed_by, record);
        form::check_in(&mut secret, &self.writer, look.now);
        more(&mut secret);
        Action::Write(Box::new(Write { secret, change }))
    }

    fn rest(&self, look: &TokenView<'_>, state: TokenState, until: Timestamp) -> Action {
        let expires = look.row.and_then(|row| row.expires);
        let due = expires.map(|expires| need::due(expires, &self.policy));
        let ours = |row: &&ListedApiKey| {
            let previous = &look.held.record.previous;
            let key = row.key();
            look.row.and_then(ListedApiKey::key) == key
                || self.made.iter().any(|made| Some(*made) == key)
                || previous.iter().any(|previous| Some(previous.key) == key)
        };
        let live = look.listed.iter().filter(|row| row.is_live(look.now));
        let until = match (&state, due) {
            (TokenState::Good | TokenState::Contended(_), Some(due)) if look.now < due => {
                until.min(due)
            }
            _ => until,
        };
        Action::Rest(Idle {
            state,
            expires,
            due,
            until,
            others: live.filter(|row| !ours(row)).count(),
        })
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
