//! The state in the words of `core`, as a model of rotation asks for it. Pure; `now` is an argument.

use jiff::Timestamp;
use sidescale_core::id::{KeyId, UserId};
use sidescale_core::key_value::KeyValue;
use sidescale_core::objects::{NewPreAuthKey, PreAuthKey, User};

use super::{NewKey, ServerState, StoredKey, StoredUser, is_live};

impl ServerState {
    /// Returns all users, the oldest first.
    #[must_use]
    pub fn list_users(&self) -> Vec<User> {
        self.users.iter().map(user).collect()
    }

    /// Returns all pre-auth keys without their values, the oldest first.
    #[must_use]
    pub fn list_pre_auth_keys(&self) -> Vec<PreAuthKey> {
        self.keys.iter().map(pre_auth_key).collect()
    }

    /// Returns the values that have not expired at `now`.
    pub fn live(&self, now: Timestamp) -> impl Iterator<Item = &KeyValue> {
        let live = self.keys.iter();
        let live = live.filter(move |key| is_live(key.expiration, now));
        live.map(|key| &key.value)
    }

    /// Creates a user without an identity provider; `None` if the name is taken.
    pub fn new_user(&mut self, name: &str, display_name: &str, now: Timestamp) -> Option<User> {
        let created = self.create_user(name, display_name, "", now);
        created.ok().map(user)
    }

    /// Creates a pre-auth key with this value; `None` if its user does not exist.
    pub fn new_pre_auth_key(
        &mut self,
        new: &NewPreAuthKey,
        value: KeyValue,
        now: Timestamp,
    ) -> Option<PreAuthKey> {
        let new = NewKey {
            user: Some(new.user.0.number()?),
            reusable: new.reusable,
            ephemeral: new.ephemeral,
            expiration: Some(new.expiration),
            tags: new.tags.clone(),
        };
        let created = self.create_key(new, value, now);
        created.ok().map(pre_auth_key)
    }

    /// Expires a pre-auth key; returns it as it was, `None` if it is missing or expired already.
    pub fn expire(&mut self, id: KeyId, now: Timestamp) -> Option<KeyValue> {
        let mut keys = self.keys.iter_mut();
        let key = keys.find(|key| KeyId::from(key.id) == id && is_live(key.expiration, now))?;
        key.expiration = Some(now);
        Some(key.value.clone())
    }

    /// Deletes the pre-auth keys that expired at that time or before; returns their values.
    pub fn delete_expired(&mut self, until: Timestamp) -> Vec<KeyValue> {
        let expired = self.keys.iter();
        let expired = expired.filter(|key| !is_live(key.expiration, until));
        let (ids, values): (Vec<u64>, Vec<KeyValue>) =
            expired.map(|key| (key.id, key.value.clone())).unzip();
        self.keys.retain(|key| !ids.contains(&key.id));
        values
    }
}

fn user(user: &StoredUser) -> User {
    User {
        id: UserId::from(user.id),
        name: user.name.clone(),
        display_name: user.display_name.clone(),
        from_provider: !user.provider.is_empty(),
        created_at: Some(user.created_at),
    }
}

fn pre_auth_key(key: &StoredKey) -> PreAuthKey {
    PreAuthKey {
        prefix: key.prefix.clone(),
        id: KeyId::from(key.id),
        user: key.user.map(UserId::from),
        reusable: key.reusable,
        ephemeral: key.ephemeral,
        used: key.used,
        expiration: key.expiration,
        created_at: Some(key.created_at),
        tags: key.tags.clone(),
    }
}
