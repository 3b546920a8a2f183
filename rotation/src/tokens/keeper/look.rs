//! One view of the Secret and of Headscale's list. Pure.

use std::time::Duration;

use jiff::Timestamp;
use sidescale_core::fingerprint::same_fingerprint;
use sidescale_core::secret::StoredSecret;

use crate::tokens::form::{self, SecretContents};
use crate::tokens::need::TokenPolicy;
use crate::tokens::record::{ApiKeyRecord, RecordedApiKey};
use crate::tokens::value::ListedApiKey;

/// A check is recorded if the last recorded one is older than this.
const CHECK_IN_EVERY: Duration = Duration::from_secs(1_800);

/// One view of the Secret and of Headscale's list.
pub(super) struct TokenView<'a> {
    pub(super) now: Timestamp,
    pub(super) secret: &'a StoredSecret,
    pub(super) held: SecretContents,
    pub(super) listed: &'a [ListedApiKey],
    pub(super) row: Option<&'a ListedApiKey>,
}

impl<'a> TokenView<'a> {
    pub(super) fn new(
        now: Timestamp,
        secret: &'a StoredSecret,
        listed: &'a [ListedApiKey],
        policy: &TokenPolicy,
    ) -> Self {
        let held = form::read(secret, &policy.managed_by, &policy.data_key);
        let of = |row: &&ListedApiKey| held.value.as_ref().is_some_and(|value| row.is_of(value));
        let row = listed.iter().find(of);
        Self {
            now,
            secret,
            held,
            listed,
            row,
        }
    }

    pub(super) fn is_live(&self, key: RecordedApiKey) -> bool {
        self.listed
            .iter()
            .any(|row| row.key() == Some(key) && row.is_live(self.now))
    }

    /// Returns a live key of an abandoned intent.
    pub(super) fn abandoned_key(&self, record: &ApiKeyRecord) -> Option<RecordedApiKey> {
        let current = self.row.map(|row| row.id);
        let of = |row: &&ListedApiKey| {
            Some(row.id) != current
                && row.is_live(self.now)
                && row.expires.is_some_and(|end| {
                    let mut abandoned = record.abandoned.iter();
                    abandoned.any(|abandoned| same_fingerprint(abandoned.expires, end))
                })
        };
        self.listed.iter().find(of).and_then(ListedApiKey::key)
    }

    pub(super) fn checked_long_ago(&self) -> bool {
        self.held.checked.as_ref().is_none_or(|(at, _)| {
            let age = self.now.duration_since(*at).unsigned_abs();
            age >= CHECK_IN_EVERY
        })
    }
}
