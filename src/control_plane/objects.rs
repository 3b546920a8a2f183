//! Users, keys and nodes as a control plane lists them, by any protocol. Pure.

use jiff::Timestamp;

use super::{At, Error};
use crate::key_value::KeyValue;

/// Id of a Headscale user.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct UserId(pub u64);

/// Id of a pre-auth key.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct KeyId(pub u64);

/// Id of an API key.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct ApiKeyId(pub u64);

/// Id of a node.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct NodeId(pub u64);

/// A user of the control plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub id: UserId,
    pub name: String,
    /// Contains the owner tag if Sidescale created it.
    pub display_name: String,
    /// Whether an identity provider created it; such a user is always foreign.
    pub from_provider: bool,
    pub created_at: Option<Timestamp>,
}

/// The part of a pre-auth key's value that a list shows, which identifies its row. Never printed: it is a part of the
/// key.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyPrefix(String);

impl std::fmt::Debug for KeyPrefix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("<redacted>")
    }
}

/// Rows of a list.
#[derive(Clone, Debug)]
pub struct RowList<T> {
    /// The rows; if there are too many, the last of them.
    pub rows: Vec<T>,
    /// The call, if there are too many: then a missing row may exist all the same.
    pub beyond: Option<At>,
}

impl<T> RowList<T> {
    /// Returns the rows, if they are complete.
    ///
    /// # Errors
    /// [`Error::TooManyRows`] if they are not.
    pub fn whole(self) -> Result<Vec<T>, Error> {
        match self.beyond {
            Some(at) => Err(Error::TooManyRows { at }),
            None => Ok(self.rows),
        }
    }
}

/// A pre-auth key as the control plane lists it: without its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreAuthKey {
    pub id: KeyId,
    /// What the list shows of its value; `None` for a key of another form.
    pub prefix: Option<KeyPrefix>,
    /// The user that it belongs to; `None` for a key with only tags.
    pub user: Option<UserId>,
    /// Whether it may be used more than once.
    pub reusable: bool,
    /// Whether its nodes are ephemeral.
    pub ephemeral: bool,
    pub used: bool,
    /// When it expires; `None` for a key that is never valid.
    pub expiration: Option<Timestamp>,
    pub created_at: Option<Timestamp>,
    /// Tags of its nodes.
    pub tags: Vec<String>,
}

/// A new pre-auth key; its value is shown only this once.
#[derive(Clone, Debug)]
pub struct MintedKey {
    /// The created key according to the control plane.
    pub key: PreAuthKey,
    pub value: KeyValue,
}

/// An API key as the control plane lists it: without its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiKey {
    pub id: ApiKeyId,
    /// The public part of its value, without a marker: as [`api_key_prefix`] returns it.
    pub prefix: String,
    /// When it expires; `None` for a key that is never valid.
    pub expiration: Option<Timestamp>,
    pub created_at: Option<Timestamp>,
    /// When it was last used; no version writes it yet.
    pub last_seen: Option<Timestamp>,
}

/// A new API key; its value is shown only this once. The list has its id, by the prefix.
#[derive(Clone, Debug)]
pub struct MintedApiKey {
    /// The result of [`api_key_prefix`] for the value.
    pub prefix: String,
    pub value: KeyValue,
}

/// Request for a pre-auth key. The expiration is always set: a key without one is never valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewPreAuthKey {
    /// The user that it belongs to.
    pub user: UserId,
    /// Whether it may be used more than once.
    pub reusable: bool,
    /// Whether its nodes are ephemeral.
    pub ephemeral: bool,
    pub expiration: Timestamp,
    /// Tags of its nodes.
    pub tags: Vec<String>,
}

/// A node of the tailnet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub id: NodeId,
    /// The host's own name.
    pub name: String,
    /// Its label in the tailnet's DNS.
    pub given_name: String,
    /// The user that it belongs to; a node with tags is listed under a built-in user.
    pub user: Option<UserId>,
    pub online: bool,
    /// The key that it joined with; `None` also if that key's row was deleted.
    pub pre_auth_key: Option<KeyId>,
    pub tags: Vec<String>,
    pub created_at: Option<Timestamp>,
    pub last_seen: Option<Timestamp>,
    /// When it has to log in again; `None` for never.
    pub expiry: Option<Timestamp>,
}

/// Marker before the prefix of an API key, since 0.28.
const API_KEY: &str = "hskey-api-";

/// Placeholder of a secret in a list.
const MASK: &str = "***";

/// Returns the public part of an API key, which identifies its row; `None` if the key has another form.
///
/// Since 0.28 a key is `hskey-api-`, twelve characters, a dash and the secret; before, seven characters, a dot and the
/// secret. The twelve may contain dashes, so they are counted instead of split.
#[must_use]
pub fn api_key_prefix(value: &KeyValue) -> Option<&str> {
    let value = value.expose();
    let (prefix, secret) = match value.strip_prefix(API_KEY) {
        Some(rest) => (rest.get(..12)?, rest.get(12..)?.strip_prefix('-')?),
        None => (value.get(..7)?, value.get(7..)?.strip_prefix('.')?),
    };
    (is_plain(prefix) && !secret.is_empty() && !secret.contains(MASK)).then_some(prefix)
}

/// Returns the same from a list, which shows `hskey-api-<12>-***`, or `<7>***` for a key from before 0.28.
pub(super) fn listed_prefix(shown: &str) -> Option<&str> {
    let (prefix, length) = match shown.strip_prefix(API_KEY) {
        Some(rest) => (rest.strip_suffix("-***")?, 12),
        None => (shown.strip_suffix(MASK)?, 7),
    };
    (prefix.len() == length && is_plain(prefix)).then_some(prefix)
}

/// Marker before the prefix of a pre-auth key, since 0.28.
const AUTH_KEY: &str = "hskey-auth-";

/// Exact length of a pre-auth key's secret (0.28 to main).
const AUTH_SECRET: usize = 64;

impl KeyPrefix {
    /// Returns the prefix of a complete value: `hskey-auth-`, twelve characters that may be dashes, a dash and 64 more;
    /// for an older key, which has 48 digits, all of them.
    #[must_use]
    pub fn of(value: &str) -> Option<Self> {
        let Some(rest) = value.strip_prefix(AUTH_KEY) else {
            return Self::older(value);
        };
        let (prefix, secret) = (rest.get(..12)?, rest.get(12..)?.strip_prefix('-')?);
        let whole = is_plain(prefix) && is_plain(secret) && secret.len() == AUTH_SECRET;
        whole.then(|| Self(prefix.to_owned()))
    }

    /// Returns the prefix from a list: `hskey-auth-<12>-***`; an older key, and a new one, is shown completely.
    pub(super) fn shown(shown: &str) -> Option<Self> {
        let hidden = shown.strip_suffix("-***");
        let Some(prefix) = hidden.and_then(|hidden| hidden.strip_prefix(AUTH_KEY)) else {
            return Self::of(shown);
        };
        (prefix.len() == 12 && is_plain(prefix)).then(|| Self(prefix.to_owned()))
    }

    fn older(value: &str) -> Option<Self> {
        let digits = value.len() == 48 && value.bytes().all(|byte| byte.is_ascii_hexdigit());
        let prefix = value.get(..12).filter(|_| digits)?;
        Some(Self(prefix.to_owned()))
    }
}

/// Whether it needs no escaping in a URL.
pub(super) fn is_plain(prefix: &str) -> bool {
    !prefix.is_empty()
        && prefix
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

#[cfg(test)]
mod tests {
    use super::{KeyPrefix, api_key_prefix, listed_prefix};
    use crate::key_value::KeyValue;

    #[test]
    fn finds_the_row_of_a_pre_auth_key() {
        let secret = "s-".repeat(32);
        let older = "0123456789abcdef".repeat(3);
        for (value, shown, same) in [
            ("gcA5aTk6X1vK", "gcA5aTk6X1vK", true),
            ("-_-_-_-_-_-_", "-_-_-_-_-_-_", true),
            ("gcA5aTk6X1vK", "gcA5aTk6X1vk", false),
            ("short", "short", false),
            ("ga b5aTk6X1v", "ga b5aTk6X1v", false),
        ] {
            let of = KeyPrefix::of(&format!("hskey-auth-{value}-{secret}"));
            let listed = KeyPrefix::shown(&format!("hskey-auth-{shown}-***"));
            assert_eq!(of.is_some() && of == listed, same, "{value}");
        }
        for whole in [older.clone(), format!("hskey-auth-gcA5aTk6X1vK-{secret}")] {
            assert!(KeyPrefix::of(&whole).is_some());
            assert_eq!(KeyPrefix::of(&whole), KeyPrefix::shown(&whole), "{whole}");
        }
        for other in [
            format!("hskey-api-gcA5aTk6X1vK-{secret}"),
            format!("hskey-auth-gcA5aTk6X1vK-{}", &secret[1..]),
            format!("hskey-auth-gcA5aTk6X1vK-{secret}s"),
            "hskey-auth-gcA5aTk6X1vK-***".to_owned(),
            older[1..].to_owned(),
        ] {
            assert_eq!(KeyPrefix::of(&other), None, "{other}");
        }
        assert_eq!(format!("{:?}", KeyPrefix::of(&older)), "Some(<redacted>)");
    }

    #[test]
    fn finds_the_prefix_of_a_key_and_of_a_list_alike() {
        for (value, want) in [
            ("hskey-api-gcA5aTk6X1vK-secret", Some("gcA5aTk6X1vK")),
            ("hskey-api-Aal-4fC284uJ-secret", Some("Aal-4fC284uJ")),
            ("hskey-api--_-_-_-_-_-_-secret", Some("-_-_-_-_-_-_")),
            ("abcdefg.secret", Some("abcdefg")),
            ("hskey-api-gcA5aTk6X1vK-***", None),
            ("hskey-api-gcA5aTk6X1vK-", None),
            ("hskey-api-short-secret", None),
            ("hskey-api-gcA5aTk6/1vK-secret", None),
            ("abcdefghsecret", None),
            ("", None),
        ] {
            let value = KeyValue::new(value.to_owned());
            assert_eq!(api_key_prefix(&value), want, "{}", value.expose());
        }
        for (shown, want) in [
            ("hskey-api-gcA5aTk6X1vK-***", Some("gcA5aTk6X1vK")),
            ("hskey-api-Aal-4fC284uJ-***", Some("Aal-4fC284uJ")),
            ("abcdefg***", Some("abcdefg")),
            ("hskey-api-gcA5aTk6X1vK", None),
            ("hskey-api-gcA5aTk6X1vKx-***", None),
            ("abcdefgh***", None),
            ("ab/defg***", None),
        ] {
            assert_eq!(listed_prefix(shown), want, "{shown}");
        }
    }
}
