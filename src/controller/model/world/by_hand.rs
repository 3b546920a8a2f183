//! A person who writes her own key into a Secret of Sidescale. Tests.

use std::time::Duration;

use sidescale_core::objects::{MintedKey, NewPreAuthKey};
use sidescale_core::time::after;

use super::{SECRET, World};

/// Longer than our own keys live until they are renewed.
const LIFE: Duration = Duration::from_secs(9 * 3_600);

/// Her user at Headscale, without our tag.
const USER: &str = "alice";

impl World {
    /// Creates a key that is not ours and overwrites the current one with it.
    pub(in crate::controller::model) fn write_own_key(&mut self, namespace: &str, data_key: &str) {
        let Some(mut secret) = self.read(namespace, SECRET) else {
            return;
        };
        if !secret.data.contains_key(data_key) {
            return;
        }
        let mut known = self.users().into_iter();
        let user = known
            .find(|user| user.name == USER)
            .or_else(|| self.create_user(USER, "Alice"));
        let new = NewPreAuthKey {
            user: user.unwrap().id,
            reusable: true,
            ephemeral: true,
            expiration: after(self.now, LIFE),
            tags: Vec::new(),
        };
        let MintedKey { key, value } = self.create_key_of(&new, true).unwrap();
        self.note(format!("{data_key}: she writes {:?}", key.id));
        for serial in self.in_secrets() {
            self.was_readable(serial);
        }
        let value = value.expose().as_bytes().to_vec();
        secret.data.insert(data_key.to_owned(), value.into());
        secret.writer = Some("alice".to_owned());
        self.put(secret);
        self.written_by_hand += 1;
    }
}
