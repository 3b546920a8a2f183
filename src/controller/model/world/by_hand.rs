//! A person who writes her own key into a Secret of Sidescale. Tests.

use std::time::Duration;

use sidescale_core::id::{KeyId, UserId};
use sidescale_core::key_prefix::KeyPrefix;
use sidescale_core::objects::{PreAuthKey, User};
use sidescale_core::time::after;

use super::{Made, SECRET, World, value};

/// Longer than our own keys live until they are renewed.
const LIFE: Duration = Duration::from_secs(9 * 3_600);

/// Her user at Headscale, without our tag.
const USER: u64 = 1_000_000;

impl World {
    /// Creates a key that is not ours and overwrites the current one with it.
    pub(in crate::controller::model) fn write_own_key(&mut self, namespace: &str, data_key: &str) {
        let Some(mut secret) = self.read(namespace, SECRET) else {
            return;
        };
        if !secret.data.contains_key(data_key) {
            return;
        }
        let serial = self.made.len() as u64 + 1;
        self.server.last += 1;
        let (id, user) = (KeyId::from(self.server.last), UserId::from(USER));
        let key = PreAuthKey {
            prefix: KeyPrefix::of(&value(serial)),
            id,
            user: Some(user),
            reusable: true,
            ephemeral: true,
            used: false,
            expiration: Some(after(self.now, LIFE)),
            created_at: Some(self.now),
            tags: Vec::new(),
        };
        if self.server.users.iter().all(|known| known.id != user) {
            self.server.users.push(User {
                id: user,
                name: "alice".to_owned(),
                display_name: "Alice".to_owned(),
                from_provider: false,
                created_at: Some(self.now),
            });
        }
        self.server.keys.insert(id, (serial, key));
        let made = Made {
            at: self.now,
            readable: None,
            swept: false,
            taken: false,
            hers: true,
        };
        self.made.insert(serial, made);
        self.note(format!("{data_key}: she writes {serial}, which is {id:?}"));
        for serial in self.in_secrets() {
            self.was_readable(serial);
        }
        let value = value(serial).into_bytes();
        secret.data.insert(data_key.to_owned(), value.into());
        secret.writer = Some("alice".to_owned());
        self.put(secret);
        self.written_by_hand += 1;
    }
}
