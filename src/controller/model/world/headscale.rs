//! The Headscale of the world: its users and keys, and what expires them. Tests.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::SignedDuration;
use sidescale_core::id::{KeyId, UserId};
use sidescale_core::key_prefix::KeyPrefix;
use sidescale_core::key_value::KeyValue;
use sidescale_core::objects::{MintedKey, NewPreAuthKey, PreAuthKey, User};
use sidescale_core::release::HeadscaleRelease;
use sidescale_rotation::owner::Installation;
use sidescale_rotation::survey::Survey;

use super::{Made, World, value};

/// Longest duration of a write: an overlap is counted from before it.
const WRITE: SignedDuration = SignedDuration::from_secs(30);

/// The state of Headscale, and of a backup.
#[derive(Clone, Debug, Default)]
pub(super) struct Server {
    pub(super) users: Vec<User>,
    pub(super) keys: BTreeMap<KeyId, (u64, PreAuthKey)>,
    pub(super) last: u64,
}

impl World {
    pub(in crate::controller::model) fn users(&self) -> Vec<User> {
        self.server.users.clone()
    }

    pub(in crate::controller::model) fn create_user(
        &mut self,
        name: &str,
        display_name: &str,
    ) -> Option<User> {
        if self.server.users.iter().any(|user| user.name == name) {
            return None;
        }
        let user = User {
            id: UserId::from(self.server.users.len() as u64 + 1),
            name: name.to_owned(),
            display_name: display_name.to_owned(),
            from_provider: false,
            created_at: Some(self.now),
        };
        self.server.users.push(user.clone());
        Some(user)
    }

    pub(in crate::controller::model) fn keys(&self) -> Vec<PreAuthKey> {
        let keys = self.server.keys.values();
        keys.map(|(_, key)| key.clone()).collect()
    }

    pub(in crate::controller::model) fn create_key(
        &mut self,
        new: &NewPreAuthKey,
    ) -> Option<MintedKey> {
        if !self.server.users.iter().any(|user| user.id == new.user) {
            return None;
        }
        let serial = self.made.len() as u64 + 1;
        self.server.last += 1;
        let key = PreAuthKey {
            prefix: KeyPrefix::of(&value(serial)),
            id: KeyId::from(self.server.last),
            user: Some(new.user),
            reusable: new.reusable,
            ephemeral: new.ephemeral,
            used: false,
            expiration: Some(new.expiration),
            created_at: Some(self.now),
            tags: new.tags.clone(),
        };
        self.made.insert(
            serial,
            Made {
                at: self.now,
                readable: None,
                swept: false,
                taken: false,
                hers: false,
            },
        );
        self.note(format!("made: {serial} as {:?}", key.id));
        self.server.keys.insert(key.id, (serial, key.clone()));
        let value = KeyValue::new(value(serial));
        Some(MintedKey { key, value })
    }

    /// Expires a key. A key that a Secret names, or that a pod may have read within the overlap, must never be expired.
    pub(in crate::controller::model) fn expire(&mut self, id: KeyId) {
        let now = self.now;
        let Some((serial, key)) = self.server.keys.get_mut(&id) else {
            return;
        };
        let serial = *serial;
        if key.expiration.is_none_or(|at| at <= now) {
            return;
        }
        key.expiration = Some(now);
        let user = key.user;
        self.note(format!("expired: {serial} as {id:?}"));
        if let Some(hostile) = &self.hostile {
            let users = self.server.users.iter();
            let name = users
                .filter(|known| Some(known.id) == user)
                .map(|known| known.name.as_str())
                .next();
            let own = name.is_some_and(|name| name.starts_with(&format!("{hostile}.")));
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
        let made = &mut self.made;
        self.server.keys.retain(|_, (serial, key)| {
            let stays = key.expiration.is_some_and(|at| at > long_ago);
            if let Some(made) = made.get_mut(serial) {
                made.swept |= !stays;
            }
            stays
        });
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
            for (serial, _) in self.server.keys.values() {
                if let Some(made) = self.made.get_mut(serial) {
                    made.swept = false;
                }
            }
            // It is unavailable meanwhile.
            self.pass(Duration::from_secs(15));
        }
    }

    /// Returns the key created last, if it is still valid: a key that lost a race is not.
    pub(in crate::controller::model) fn last_live(&self) -> Option<KeyId> {
        let now = self.now;
        let last = self.server.keys.iter().next_back();
        let live = |(_, key): &&(u64, PreAuthKey)| key.expiration.is_some_and(|at| now < at);
        last.filter(|(_, row)| live(row)).map(|(id, _)| *id)
    }

    pub(super) fn live(&self) -> BTreeSet<u64> {
        let live = |(_, key): &&(u64, PreAuthKey)| key.expiration.is_some_and(|at| self.now < at);
        let keys = self.server.keys.values().filter(live);
        keys.map(|(serial, _)| *serial).collect()
    }

    /// Returns what a sweep sees of Headscale.
    pub(in crate::controller::model) fn survey(&self, installation: &Installation) -> Survey {
        Survey {
            keys: self.keys(),
            truncated: false,
            nodes: Vec::new(),
            users: installation.key_users(self.server.users.iter(), &[]),
            release: HeadscaleRelease::V0_29,
        }
    }
}
