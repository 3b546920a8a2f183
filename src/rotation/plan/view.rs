//! What is known of one Secret: the whole input of a plan, but for the time. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::control_plane::{KeyId, PreAuthKey, UserId};
use crate::rotation::demand::KeyDemand;
use crate::rotation::owner::{KeyClaim, KeyHolder, KeyUser, ServiceOwner, owns};
use crate::rotation::record::Record;
use crate::rotation::request::Requests;
use crate::rotation::state::KeyState;
use crate::rotation::value::StoredValue;

/// Holds what is known of one Secret. Everything in it was read after the Secret.
#[derive(Clone, Copy, Debug)]
pub struct SecretView<'a> {
    /// Its namespace: it speaks of the keys of services there alone.
    pub namespace: &'a str,
    /// Whose it is.
    pub ownership: Ownership,
    /// What it remembers.
    pub record: &'a Record,
    /// Whether the record was written in an earlier namespace of that name: what of it the control planes confirm is kept.
    pub recreated: bool,
    /// How many bytes of data it has.
    pub bytes: usize,
    /// Data keys of the demand under which something stands that may be a key.
    pub filled: &'a BTreeSet<String>,
    /// What can be told of those values.
    pub values: &'a BTreeMap<String, StoredValue>,
    /// What a person asks of it.
    pub requests: &'a Requests,
    /// What pods need of it, by data key.
    pub demand: &'a BTreeMap<String, KeyDemand>,
    /// Whether it holds keys of single pods, each of which works once.
    pub of_pods: bool,
    /// Data keys that pods refer to, though they may get no key: a container that starts again would fail without.
    pub held: &'a BTreeSet<String>,
    /// Data keys of the demand whose service would be one too many for the namespace.
    pub over_quota: &'a BTreeSet<String>,
    /// How many services of the namespace wait for the place of another.
    pub excess: usize,
    /// Whether the pods were all seen, so that a key without demand is really not used.
    pub synced: bool,
    /// What the control planes hold, by name, where they were asked.
    pub issued: &'a BTreeMap<String, IssuedKeys>,
    /// What this process is doing and has met.
    pub process: &'a Process,
}

/// Says whose a Secret is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// It is not there, or ours.
    Ours,
    /// Somebody else's: read, never written.
    NotOurs,
    /// Ours, and stopped by its annotation.
    Paused,
}

/// What one control plane holds: one fresh look. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct IssuedKeys {
    /// Its pre-auth keys: all of them, unless they are truncated.
    pub keys: Arc<BTreeMap<KeyId, PreAuthKey>>,
    /// Whether it holds more keys than are read: then one that is not listed may be there all the same.
    pub truncated: bool,
    /// Users that keys are made for.
    pub users: Arc<BTreeMap<UserId, KeyUser>>,
    /// Whose nodes are online, and their host names; asked for where pods have keys of their own.
    pub online: BTreeSet<(KeyHolder, String)>,
}

/// What the control plane says of a key that a Secret speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claimed {
    /// It is the service's own.
    Owned,
    /// There is no key of that id.
    NotListed,
    /// There is, and it is another's, or ends at another time.
    NotOwned,
}

impl IssuedKeys {
    /// Whether this list says what becomes of that key, if only by not having it.
    pub(super) fn tells_of(&self, id: KeyId) -> bool {
        !self.truncated || self.keys.contains_key(&id)
    }

    /// What it says of a key that a Secret speaks of, unless that was not read; `adopted` is the name of the user that the service's keys are made for.
    #[must_use]
    pub fn claimed(&self, claim: &KeyClaim<'_>, adopted: &str) -> Option<Claimed> {
        match self.keys.get(&claim.id) {
            None => (!self.truncated).then_some(Claimed::NotListed),
            Some(row) if owns(row, &self.users, claim, adopted) => Some(Claimed::Owned),
            Some(_) => Some(Claimed::NotOwned),
        }
    }

    /// The user of a key, if keys are made for it.
    pub(super) fn user_of(&self, row: &PreAuthKey) -> Option<&KeyUser> {
        self.users.get(&row.user?)
    }

    /// Whether the key is the service's own; `adopted` is the name of the user that its keys are made for.
    pub(super) fn serves(&self, row: &PreAuthKey, owner: &ServiceOwner, adopted: &str) -> bool {
        self.user_of(row)
            .is_some_and(|user| user.serves(owner, adopted))
    }
}

impl SecretView<'_> {
    /// The service of this Secret's namespace.
    pub(super) fn owner(&self, service: &str) -> ServiceOwner {
        ServiceOwner::new(self.namespace, service)
    }
}

/// What this process is doing and has met, as far as one Secret goes.
#[derive(Clone, Debug, Default)]
pub struct Process {
    /// Names this process.
    pub writer: String,
    /// How long another writer's intent is respected.
    pub intent_ttl: Duration,
    /// Intents of ours that were written and whose key is still to be made.
    pub live: BTreeSet<String>,
    /// Intents that other jobs of this process follow.
    pub beside: BTreeSet<String>,
    /// Data keys that are not tried again before a time, and why.
    pub held: BTreeMap<String, Blocked>,
}

/// Says that a key is not to be made now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocked {
    /// What it is waiting for.
    pub state: KeyState,
    /// When it is tried again; none if something else has to happen first.
    pub until: Option<Timestamp>,
}
