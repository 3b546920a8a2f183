//! What is known of one Secret: all input of a plan except the time. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use sidescale_core::id::{KeyId, UserId};
use sidescale_core::key_state::KeyState;
use sidescale_core::objects::PreAuthKey;

use crate::demand::KeyDemand;
use crate::owner::{KeyClaim, KeyHolder, KeyUser, ServiceOwner, owns};
use crate::record::Record;
use crate::request::Requests;
use crate::value::StoredValue;

/// What is known of one Secret. Everything else in it was read after the Secret.
#[derive(Clone, Copy, Debug)]
pub struct SecretView<'a> {
    /// The Secret's namespace; the Secret speaks only for keys of services there.
    pub namespace: &'a str,
    /// Whose Secret it is.
    pub ownership: Ownership,
    /// What the Secret remembers.
    pub record: &'a Record,
    /// Whether the record was written in an earlier namespace of that name: only what the control planes confirm is kept.
    pub recreated: bool,
    /// Size of the Secret's data in bytes.
    pub bytes: usize,
    /// Demanded data keys with a value that may be a key.
    pub filled: &'a BTreeSet<String>,
    /// Properties of those values.
    pub values: &'a BTreeMap<String, StoredValue>,
    /// Requests of a person.
    pub requests: &'a Requests,
    /// What pods need of the Secret, by data key.
    pub demand: &'a BTreeMap<String, KeyDemand>,
    /// Whether it is the Secret for keys of single pods, each of which works once.
    pub of_pods: bool,
    /// Data keys that pods refer to, even if they get no key: without the value, a restarted container would fail.
    pub held: &'a BTreeSet<String>,
    /// Demanded data keys whose service would exceed the namespace's quota.
    pub over_quota: &'a BTreeSet<String>,
    /// How many services of the namespace wait for the place of another.
    pub excess: usize,
    /// Whether all pods were seen, so that a key without demand is really unused.
    pub synced: bool,
    /// What the control planes hold, by name; only those that were asked.
    pub issued: &'a BTreeMap<String, IssuedKeys>,
    /// What this process knows besides.
    pub process: &'a Process,
}

/// Who owns a Secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// It is ours, or does not exist.
    Ours,
    /// It belongs to somebody else: it is read, never written.
    NotOurs,
    /// It is ours, and paused by its annotation.
    Paused,
}

/// One fresh listing of a control plane. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct IssuedKeys {
    /// Its pre-auth keys: all of them, unless truncated.
    pub keys: Arc<BTreeMap<KeyId, PreAuthKey>>,
    /// Whether it holds more keys than are read: a key that is not listed may exist.
    pub truncated: bool,
    /// Users that keys are created for.
    pub users: Arc<BTreeMap<UserId, KeyUser>>,
    /// Holders and hostnames of nodes that are online; requested only if pods have keys of their own.
    pub online: BTreeSet<(KeyHolder, String)>,
}

/// What the control plane says of a key that a Secret claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claimed {
    /// It is the service's own.
    Owned,
    /// There is no key with that id.
    NotListed,
    /// There is one, but it belongs to another owner or expires at another time.
    NotOwned,
}

impl IssuedKeys {
    /// Returns whether this listing decides about the key, even by not listing it.
    pub(super) fn tells_of(&self, id: KeyId) -> bool {
        !self.truncated || self.keys.contains_key(&id)
    }

    /// Returns what it says of a claimed key; none if that was not read. `adopted` is the name of the user that the service's keys
    /// are created for.
    #[must_use]
    pub fn claimed(&self, claim: &KeyClaim<'_>, adopted: &str) -> Option<Claimed> {
        match self.keys.get(&claim.id) {
            None => (!self.truncated).then_some(Claimed::NotListed),
            Some(row) if owns(row, &self.users, claim, adopted) => Some(Claimed::Owned),
            Some(_) => Some(Claimed::NotOwned),
        }
    }

    /// Returns the user of a key, if keys are created for that user.
    pub(super) fn user_of(&self, row: &PreAuthKey) -> Option<&KeyUser> {
        self.users.get(&row.user?)
    }

    /// Returns whether the key is the service's own; `adopted` is the name of the user that its keys are created for.
    pub(super) fn serves(&self, row: &PreAuthKey, owner: &ServiceOwner, adopted: &str) -> bool {
        self.user_of(row)
            .is_some_and(|user| user.serves(owner, adopted))
    }
}

impl SecretView<'_> {
    /// Returns the owner for a service of this Secret's namespace.
    pub(super) fn owner(&self, service: &str) -> ServiceOwner {
        ServiceOwner::new(self.namespace, service)
    }
}

/// What this process is doing with one Secret, and has met there.
#[derive(Clone, Debug, Default)]
pub struct Process {
    /// Id of this process.
    pub writer: String,
    /// How long another process's intent is respected.
    pub intent_ttl: Duration,
    /// Our intents that were written and whose key is still to be created.
    pub live: BTreeSet<String>,
    /// Intents that other jobs of this process follow.
    pub beside: BTreeSet<String>,
    /// Data keys that must not be tried yet, and why.
    pub held: BTreeMap<String, Blocked>,
}

/// Why and until when a key is not to be created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocked {
    /// State to show meanwhile.
    pub state: KeyState,
    /// When it is tried again; none if something else has to happen first.
    pub until: Option<Timestamp>,
}
