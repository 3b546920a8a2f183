//! State of the embedded Headscale, and its changes. Pure; `now` is an argument.

use jiff::Timestamp;
use sidescale_core::id::KeyId;
use sidescale_core::key_prefix::KeyPrefix;
use sidescale_core::key_value::KeyValue;

mod api_keys;
mod nodes;
mod objects;

/// All tables, each in the order of its ids.
#[derive(Clone, Debug, Default)]
pub struct ServerState {
    pub(super) users: Vec<StoredUser>,
    pub(super) keys: Vec<StoredKey>,
    pub(super) api_keys: Vec<StoredApiKey>,
    pub(super) nodes: Vec<StoredNode>,
    last: LastIds,
}

/// The last assigned ids: an id is never used twice.
#[derive(Clone, Debug, Default)]
struct LastIds {
    user: u64,
    key: u64,
    api_key: u64,
    node: u64,
}

impl LastIds {
    fn next(id: &mut u64) -> u64 {
        *id += 1;
        *id
    }
}

#[derive(Clone, Debug)]
pub(super) struct StoredUser {
    pub(super) id: u64,
    pub(super) name: String,
    pub(super) display_name: String,
    pub(super) email: String,
    pub(super) provider: String,
    pub(super) created_at: Timestamp,
}

#[derive(Clone, Debug)]
pub(super) struct StoredKey {
    pub(super) id: u64,
    /// Index into the users' ids.
    pub(super) user: Option<u64>,
    pub(super) value: KeyValue,
    /// Found in the value once: a list shows it of each key.
    pub(super) prefix: Option<KeyPrefix>,
    pub(super) reusable: bool,
    pub(super) ephemeral: bool,
    pub(super) used: bool,
    /// `None` is stored as year 1: the key is never valid.
    pub(super) expiration: Option<Timestamp>,
    pub(super) created_at: Timestamp,
    pub(super) tags: Vec<String>,
}

/// A pre-auth key as the server stores it, for tests and for the demo to read.
#[derive(Clone, Debug)]
pub struct ServerKey {
    /// Its id.
    pub id: KeyId,
    /// Name of its user.
    pub user: Option<String>,
    /// What a node joins with.
    pub value: KeyValue,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it expires.
    pub expiration: Timestamp,
    /// Whether it may be used more than once.
    pub reusable: bool,
    /// Whether its nodes are ephemeral.
    pub ephemeral: bool,
    /// Tags of its nodes.
    pub tags: Vec<String>,
}

#[derive(Clone, Debug)]
pub(super) struct StoredNode {
    pub(super) id: u64,
    pub(super) name: String,
    pub(super) given_name: String,
    pub(super) online: bool,
    pub(super) user: Option<u64>,
    /// The key that it joined with, while that exists.
    pub(super) key: Option<u64>,
    pub(super) tags: Vec<String>,
    pub(super) created_at: Timestamp,
    pub(super) last_seen: Timestamp,
    pub(super) expiry: Option<Timestamp>,
}

#[derive(Clone, Debug)]
pub(super) struct StoredApiKey {
    pub(super) id: u64,
    value: KeyValue,
    pub(super) expiration: Option<Timestamp>,
    pub(super) created_at: Timestamp,
}

/// Properties of a new key.
pub(super) struct NewKey {
    pub(super) user: Option<u64>,
    pub(super) reusable: bool,
    pub(super) ephemeral: bool,
    pub(super) expiration: Option<Timestamp>,
    pub(super) tags: Vec<String>,
}

/// Why a request fails; each release has its own status for it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum StateError {
    /// An invalid tag.
    BadTag(&'static str),
    /// Neither an id nor a prefix of an API key, or both.
    NoApiKeyNamed,
    /// A name that is not a DNS label.
    BadNodeName,
    /// No such API key.
    UnknownApiKey,
    /// No such key.
    UnknownKey,
    /// No such node.
    UnknownNode,
    /// No such user.
    UnknownUser,
    /// A key needs a user or a tag.
    Unowned,
    /// A node's name that is already used.
    NodeNameTaken,
    /// A user's name that is already used.
    UserNameTaken,
    /// A user with nodes cannot be deleted.
    UserNotEmpty,
}

impl ServerState {
    pub(super) fn add_user(
        &mut self,
        name: &str,
        display_name: &str,
        provider: &str,
        now: Timestamp,
    ) -> &mut StoredUser {
        let id = LastIds::next(&mut self.last.user);
        self.users.push(StoredUser {
            id,
            // A user without a name is named by its id.
            name: if name.is_empty() {
                id.to_string()
            } else {
                name.to_owned()
            },
            display_name: display_name.to_owned(),
            email: String::new(),
            provider: provider.to_owned(),
            created_at: now,
        });
        let last = self.users.len() - 1;
        &mut self.users[last]
    }

    pub(super) fn create_user(
        &mut self,
        name: &str,
        display_name: &str,
        email: &str,
        now: Timestamp,
    ) -> Result<&StoredUser, StateError> {
        if self
            .users
            .iter()
            .any(|user| user.name == name && user.provider.is_empty())
        {
            return Err(StateError::UserNameTaken);
        }
        let user = self.add_user(name, display_name, "", now);
        email.clone_into(&mut user.email);
        Ok(user)
    }

    pub(super) fn create_key(
        &mut self,
        new: NewKey,
        value: KeyValue,
        now: Timestamp,
    ) -> Result<&StoredKey, StateError> {
        let NewKey {
            user,
            reusable,
            ephemeral,
            expiration,
            mut tags,
        } = new;
        for tag in &tags {
            if !tag.starts_with("tag:") {
                return Err(StateError::BadTag("a tag begins with tag:"));
            }
            if tag.bytes().any(|byte| byte.is_ascii_uppercase()) {
                return Err(StateError::BadTag("a tag is lower-case"));
            }
            if tag.contains(char::is_whitespace) {
                return Err(StateError::BadTag("a tag holds no space"));
            }
        }
        if user.is_some_and(|user| !self.users.iter().any(|known| known.id == user)) {
            return Err(StateError::UnknownUser);
        }
        if user.is_none() && tags.is_empty() {
            return Err(StateError::Unowned);
        }
        tags.sort();
        tags.dedup();
        let id = LastIds::next(&mut self.last.key);
        self.keys.push(StoredKey {
            id,
            user,
            prefix: KeyPrefix::of(value.expose()),
            value,
            reusable,
            ephemeral,
            used: false,
            expiration,
            created_at: now,
            tags,
        });
        Ok(&self.keys[self.keys.len() - 1])
    }

    pub(super) fn expire_key(&mut self, id: u64, now: Timestamp) -> Result<(), StateError> {
        let key = self
            .keys
            .iter_mut()
            .find(|key| key.id == id)
            .ok_or(StateError::UnknownKey)?;
        key.expiration = Some(now);
        Ok(())
    }

    /// Deletes a key; its nodes stay, and are no longer ephemeral.
    pub(super) fn delete_key(&mut self, id: u64) -> Result<(), StateError> {
        let index = self
            .keys
            .iter()
            .position(|key| key.id == id)
            .ok_or(StateError::UnknownKey)?;
        self.keys.remove(index);
        for node in self.nodes.iter_mut().filter(|node| node.key == Some(id)) {
            node.key = None;
        }
        Ok(())
    }

    /// Deletes a user and its keys, or the keys of all users, as 0.28 does.
    pub(super) fn delete_user(&mut self, id: u64, all_keys: bool) -> Result<(), StateError> {
        let index = self
            .users
            .iter()
            .position(|user| user.id == id)
            .ok_or(StateError::UnknownUser)?;
        if self.nodes.iter().any(|node| node.user == Some(id)) {
            return Err(StateError::UserNotEmpty);
        }
        let gone = self
            .keys
            .iter()
            .filter(|key| all_keys || key.user == Some(id));
        for key in gone.map(|key| key.id).collect::<Vec<_>>() {
            self.delete_key(key)?;
        }
        self.users.remove(index);
        Ok(())
    }

    pub(super) fn accepts(&self, value: &str, now: Timestamp) -> bool {
        self.usable(value, now).is_some()
    }

    /// Returns all pre-auth keys with their values, the oldest first.
    #[must_use]
    pub fn issued(&self) -> Vec<ServerKey> {
        let user = |id: u64| {
            self.users
                .iter()
                .find(|user| user.id == id)
                .map(|user| user.name.clone())
        };
        self.keys
            .iter()
            .map(|key| ServerKey {
                id: KeyId::from(key.id),
                user: key.user.and_then(user),
                value: key.value.clone(),
                created_at: key.created_at,
                expiration: key.expiration.unwrap_or(Timestamp::UNIX_EPOCH),
                reusable: key.reusable,
                ephemeral: key.ephemeral,
                tags: key.tags.clone(),
            })
            .collect()
    }

    fn usable(&self, value: &str, now: Timestamp) -> Option<usize> {
        self.keys.iter().position(|key| {
            key.value.expose() == value
                && is_live(key.expiration, now)
                && (key.reusable || !key.used)
        })
    }
}

impl StoredUser {
    /// Empty without a provider.
    pub(super) fn provider_id(&self) -> String {
        if self.provider.is_empty() {
            return String::new();
        }
        format!("provider/{}", self.id)
    }
}

impl StoredKey {
    /// Returns its value as an answer shows it: complete only at its creation.
    pub(super) fn shown(&self, whole: bool) -> String {
        let value = self.value.expose();
        if whole {
            return value.to_owned();
        }
        format!("{}-***", value.get(..23).unwrap_or_default())
    }
}

/// A key is no longer valid at the exact time of its expiration.
fn is_live(expiration: Option<Timestamp>, now: Timestamp) -> bool {
    expiration.is_some_and(|end| now < end)
}
