//! The Headscale of the world: its users and keys, and what expires them. Tests.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::SignedDuration;
use sidescale_core::id::KeyId;
use sidescale_core::key_value::KeyValue;
use sidescale_core::objects::{MintedKey, NewPreAuthKey, PreAuthKey, User};
use sidescale_core::release::HeadscaleRelease;
use sidescale_rotation::owner::Installation;
use sidescale_rotation::survey::Survey;

use super::{Made, World, serial_of, value};

/// Longest duration of a write: an overlap is counted from before it.
const WRITE: SignedDuration = SignedDuration::from_secs(30);

impl World {
    pub(in crate::controller::model) fn users(&self) -> Vec<User> {
        self.server.list_users()
    }

    pub(in crate::controller::model) fn create_user(
        &mut self,
        name: &str,
        display_name: &str,
    ) -> Option<User> {
        self.server.new_user(name, display_name, self.now)
    }

    pub(in crate::controller::model) fn keys(&self) -> Vec<PreAuthKey> {
        self.server.list_pre_auth_keys()
    }

    pub(in crate::controller::model) fn create_key(
        &mut self,
        new: &NewPreAuthKey,
    ) -> Option<MintedKey> {
        self.create_key_of(new, false)
    }

    /// Creates a key for Sidescale, or for a person.
    pub(super) fn create_key_of(&mut self, new: &NewPreAuthKey, hers: bool) -> Option<MintedKey> {
        let serial = self.made.len() as u64 + 1;
        let value = KeyValue::new(value(serial));
        let key = self.server.new_pre_auth_key(new, value.clone(), self.now)?;
        let made = Made {
            at: self.now,
            readable: None,
            swept: false,
            taken: false,
            hers,
        };
        self.made.insert(serial, made);
        self.note(format!("made: {serial} as {:?}", key.id));
        Some(MintedKey { key, value })
    }

    /// Expires a key. A key that a Secret names, or that a pod may have read within the overlap, must never be expired.
    pub(in crate::controller::model) fn expire(&mut self, id: KeyId) {
        let now = self.now;
        let Some(serial) = self.server.expire(id, now).and_then(|key| serial(&key)) else {
            return;
        };
        self.note(format!("expired: {serial} as {id:?}"));
        if let Some(hostile) = &self.hostile {
            let issued = self.server.issued().into_iter();
            let mut names = issued.filter(|key| key.id == id).map(|key| key.user);
            let name = names.next().flatten();
            let own = name
                .as_ref()
                .is_some_and(|name| name.starts_with(&format!("{hostile}.")));
            if !own {
                self.wrong(&format!(
                    "key {serial} of user {name:?} is expired for a tenant"
                ));
            }
            // The tenant itself is responsible for its own keys.
            return;
        }
        if self.made.get(&serial).is_some_and(|made| made.hers) {
            self.wrong(&format!("key {serial} is ended and not ours"));
        }
        let named = self.in_secrets();
        if named.contains(&serial) {
            self.wrong(&format!("key {serial} is ended and a Secret names it"));
        }
        let least = SignedDuration::try_from(self.overlap).unwrap() - self.skew * 2 - WRITE;
        if let Some(read) = self
            .made
            .get(&serial)
            .filter(|made| !made.taken)
            .and_then(|made| made.readable)
            && now.duration_since(read) < least
            && !self.mad_clock
        {
            self.wrong(&format!("key {serial} is ended, and was read at {read}"));
        }
        self.check();
    }

    /// Deletes long expired keys, as people do.
    pub(super) fn sweep(&mut self) {
        let long_ago = self.now - SignedDuration::from_hours(4);
        for key in self.server.delete_expired(long_ago) {
            if let Some(made) = serial(&key).and_then(|serial| self.made.get_mut(&serial)) {
                made.swept = true;
            }
        }
    }

    pub(in crate::controller::model) fn back_up(&mut self) {
        self.backup = Some(self.server.clone());
    }

    /// Restores Headscale from a backup: newer keys are gone and their ids are reassigned. Excused until the next pass.
    pub(in crate::controller::model) fn restore_headscale(&mut self) {
        if let Some(backup) = self.backup.clone() {
            self.note("headscale restored");
            self.excuse("Headscale lost its newer keys");
            self.forgetting.push(self.now);
            self.server = backup;
            for serial in self.issued().into_keys() {
                if let Some(made) = self.made.get_mut(&serial) {
                    made.swept = false;
                }
            }
            // It is unavailable meanwhile.
            self.pass(Duration::from_secs(15));
        }
    }

    /// Returns the key created last, if it is still valid: a key that lost a race is not.
    pub(in crate::controller::model) fn last_live(&self) -> Option<KeyId> {
        let last = self.server.issued().pop();
        last.filter(|key| self.now < key.expiration)
            .map(|key| key.id)
    }

    pub(super) fn live(&self) -> BTreeSet<u64> {
        self.server.live(self.now).filter_map(serial).collect()
    }

    /// Returns the ids of all keys at Headscale, by serial.
    pub(super) fn issued(&self) -> BTreeMap<u64, KeyId> {
        let issued = self.server.issued().into_iter();
        issued
            .filter_map(|key| Some((serial(&key.value)?, key.id)))
            .collect()
    }

    /// Returns what a sweep sees of Headscale.
    pub(in crate::controller::model) fn survey(&self, installation: &Installation) -> Survey {
        Survey {
            keys: self.keys(),
            truncated: false,
            nodes: Vec::new(),
            users: installation.key_users(self.server.list_users().iter(), &[]),
            release: HeadscaleRelease::V0_29,
        }
    }
}

fn serial(key: &KeyValue) -> Option<u64> {
    serial_of(key.expose().as_bytes())
}
