//! How a key is known in Headscale's list, which shows no values. Pure.

use jiff::Timestamp;

use super::record::Key;
use crate::key_value::KeyValue;

/// Begins every API key since Headscale 0.28.
const SCHEME: &str = "hskey-api-";

/// Length of what a key and its row in the list have in common.
const PREFIX: usize = 12;
const SECRET: usize = 64;

/// The same for the keys of older versions, which go on after an upgrade.
const OLD_PREFIX: usize = 7;
const OLD_SECRET: usize = 32;

/// An API key as Headscale lists it.
#[derive(Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its id.
    pub id: u64,
    /// What its value begins with after the scheme. Never logged: it is a part of the key.
    prefix: String,
    /// When it ends; none is a dead key.
    pub expires: Option<Timestamp>,
}

impl Listed {
    /// Takes a row of the list, with the prefix in any form that Headscale shows.
    #[must_use]
    pub fn new(id: u64, shown: &str, expires: Option<Timestamp>) -> Self {
        let bare = shown.strip_prefix(SCHEME).unwrap_or(shown);
        let bare = bare.strip_suffix("***").unwrap_or(bare);
        // Only one dash is the mask's: a prefix may end with a dash of its own.
        let bare = if bare.len() > PREFIX {
            bare.strip_suffix('-').unwrap_or(bare)
        } else {
            bare
        };
        Self {
            id,
            prefix: bare.to_owned(),
            expires,
        }
    }

    /// Whether it is the row of this key.
    #[must_use]
    pub fn is_of(&self, value: &KeyValue) -> bool {
        prefix(value).is_some_and(|prefix| prefix == self.prefix)
    }

    /// The key, by id and end; none of a dead one.
    #[must_use]
    pub fn key(&self) -> Option<Key> {
        let Self {
            id,
            prefix: _,
            expires,
        } = self;
        expires.map(|expires| Key { id: *id, expires })
    }

    /// Whether it is good now.
    #[must_use]
    pub fn is_live(&self, now: Timestamp) -> bool {
        self.expires.is_some_and(|expires| now < expires)
    }
}

impl std::fmt::Debug for Listed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            id,
            prefix: _,
            expires,
        } = self;
        write!(f, "API key {id} until {expires:?}")
    }
}

/// Whether a value has the form of an API key.
#[must_use]
pub fn is_api_key(value: &KeyValue) -> bool {
    prefix(value).is_some()
}

/// What the list shows of a key: cut by length, for either part may hold dashes.
fn prefix(value: &KeyValue) -> Option<&str> {
    let value = value.expose();
    if !value.bytes().all(|byte| byte.is_ascii_graphic()) {
        return None;
    }
    if let Some(rest) = value.strip_prefix(SCHEME) {
        let (prefix, secret) = rest.split_at_checked(PREFIX)?;
        return (secret.starts_with('-') && secret.len() == SECRET + 1).then_some(prefix);
    }
    let (prefix, secret) = value.split_at_checked(OLD_PREFIX)?;
    (secret.starts_with('.') && secret.len() == OLD_SECRET + 1).then_some(prefix)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> KeyValue {
        KeyValue::new(text.to_owned())
    }

    #[test]
    fn a_key_is_found_in_the_list_whatever_form_it_and_its_row_have() {
        let secret = "s".repeat(64);
        let old = "o".repeat(32);
        for (shown, value, same) in [
            (
                "hskey-api-abcdefghijkl-***",
                format!("hskey-api-abcdefghijkl-{secret}"),
                true,
            ),
            (
                "hskey-api-abcdefghijkl",
                format!("hskey-api-abcdefghijkl-{secret}"),
                true,
            ),
            (
                "abcdefghijkl",
                format!("hskey-api-abcdefghijkl-{secret}"),
                true,
            ),
            // Dashes of the prefix itself, at its end and within.
            (
                "hskey-api-abc-efghij---***",
                format!("hskey-api-abc-efghij---{secret}"),
                true,
            ),
            (
                "hskey-api-abc-efghij--",
                format!("hskey-api-abc-efghij---{secret}"),
                true,
            ),
            (
                "abc-efghij--",
                format!("hskey-api-abc-efghij---{secret}"),
                true,
            ),
            ("abcdefg***", format!("abcdefg.{old}"), true),
            ("abcdefg", format!("abcdefg.{old}"), true),
            // The first eight characters name no key, in no version.
            (
                "hskey-ap",
                format!("hskey-api-abcdefghijkl-{secret}"),
                false,
            ),
            ("abcdefgh", format!("abcdefg.{old}"), false),
            (
                "hskey-api-abcdefghijkl-***",
                format!("hskey-api-abcdefghijkL-{secret}"),
                false,
            ),
            ("", String::new(), false),
        ] {
            assert_eq!(
                Listed::new(1, shown, None).is_of(&key(&value)),
                same,
                "{shown} {value}"
            );
        }
    }

    #[test]
    fn what_is_no_api_key_is_known_as_such() {
        let secret = "s".repeat(64);
        for wrong in [
            String::new(),
            "YOUR_KEY_HERE".into(),
            format!("hskey-auth-abcdefghijkl-{secret}"),
            format!("hskey-api-abcdefghijkl-{secret}x"),
            format!("hskey-api-abcdefghijkl-{secret}\n"),
            format!("hskey-api-abcdefghijk-{secret}"),
            "hskey-api-äöü".into(),
            "abcdefg.short".into(),
        ] {
            assert!(!is_api_key(&key(&wrong)), "{wrong}");
        }
        assert!(is_api_key(&key(&format!(
            "hskey-api-abcdefghijkl-{secret}"
        ))));
    }

    #[test]
    fn debug_prints_nothing_of_a_key() {
        let row = Listed::new(7, "hskey-api-abcdefghijkl-***", None);
        assert_eq!(format!("{row:?}"), "API key 7 until None");
    }
}
