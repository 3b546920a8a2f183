//! Whether a new API key is needed, and why. Pure.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use sidescale_core::key_form::is_api_key;
use sidescale_core::time::after;

use super::form::{SecretContents, Stated};
use super::value::ListedApiKey;

/// How an API key is managed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenPolicy {
    /// How long a key lives.
    pub expiration: Duration,
    /// How long before its expiration it is renewed.
    pub buffer: Duration,
    /// How long a replaced key stays valid; it has one reader, which follows at once.
    pub overlap: Duration,
    /// How long another writer's intent is respected.
    pub respect: Duration,
    /// Value of the label that makes a Secret ours.
    pub managed_by: String,
    /// Data key of the API key in its Secret.
    pub data_key: String,
    /// For a stand-in: how long after its due time a key is renewed, if it was not checked for as long.
    pub stand_in: Option<Duration>,
}

impl TokenPolicy {
    /// Adapts the policy of a stand-in, which does not know the settings of the key's manager: a key with a shorter
    /// life than ours is renewed for that life only, and later than our own.
    pub(super) fn for_key(&self, held: &SecretContents, row: Option<&ListedApiKey>) -> Self {
        let mut policy = self.clone();
        let ends = row.and_then(|row| row.expires);
        let (Some(_), &Stated::At(made), Some(ends)) = (self.stand_in, &held.created_at, ends)
        else {
            return policy;
        };
        // Headscale creates a key some time after the request chose its expiration.
        let minutes = ends.duration_since(made).as_secs().saturating_add(59) / 60;
        let life = u64::try_from(minutes).unwrap_or_default() * 60;
        if life > 0 {
            policy.expiration = policy.expiration.min(Duration::from_secs(life));
            policy.buffer = policy.buffer.min(policy.expiration / 3);
        }
        policy
    }
}

/// Why a key is created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenReason {
    /// There is no key.
    First,
    /// The value does not have the form of an API key.
    NotAKey,
    /// Headscale does not list it: a new database, or a deleted key.
    Unknown,
    /// It has expired.
    Ended,
    /// The annotation with the expiration is missing or unreadable.
    Unstated(Stated),
    /// It is due for renewal.
    Due,
}

impl TokenReason {
    /// Returns its name in logs.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::First => "first",
            Self::NotAKey => "not_a_key",
            Self::Unknown => "unknown_to_headscale",
            Self::Ended => "ended",
            Self::Unstated(_) => "expiration_unreadable",
            Self::Due => "due",
        }
    }
}

/// Result of checking the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenDecision {
    /// It is good and not yet due.
    Keep,
    /// A new one is needed.
    Renew(TokenReason),
}

/// Returns when a key is due for renewal.
#[must_use]
pub(super) fn due(expires: Timestamp, policy: &TokenPolicy) -> Timestamp {
    let early = SignedDuration::try_from(policy.buffer).unwrap_or(SignedDuration::MAX);
    let due = expires.checked_sub(early).unwrap_or(Timestamp::MIN);
    after(due, policy.stand_in.unwrap_or_default())
}

/// Checks the key: `row` is its entry in Headscale's list.
pub(super) fn decide(
    now: Timestamp,
    held: &SecretContents,
    row: Option<&ListedApiKey>,
    policy: &TokenPolicy,
) -> TokenDecision {
    let Some(value) = &held.value else {
        return TokenDecision::Renew(TokenReason::First);
    };
    if !is_api_key(value) {
        return TokenDecision::Renew(TokenReason::NotAKey);
    }
    let Some(row) = row else {
        return TokenDecision::Renew(TokenReason::Unknown);
    };
    let Some(expires) = row.expires.filter(|_| row.is_live(now)) else {
        return TokenDecision::Renew(TokenReason::Ended);
    };
    if now >= due(expires, policy) {
        return TokenDecision::Renew(TokenReason::Due);
    }
    match &held.expiration {
        Stated::At(_) => TokenDecision::Keep,
        // Put there by hand, without any of our annotations: Headscale knows its expiration.
        Stated::Absent if by_hand(held) => TokenDecision::Keep,
        stated @ (Stated::Absent | Stated::Unreadable(_)) => {
            TokenDecision::Renew(TokenReason::Unstated(stated.clone()))
        }
    }
}

fn by_hand(held: &SecretContents) -> bool {
    held.record.current.is_none() && held.created_at == Stated::Absent
}
