//! The part of a key that Headscale's lists show, which finds the row of a value. Pure.

use crate::key_value::KeyValue;

/// The part of a pre-auth key's value that a list shows, which identifies its row. Never printed: it is a part of the
/// key.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyPrefix(String);

impl std::fmt::Debug for KeyPrefix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("<redacted>")
    }
}

/// Marker before the prefix of an API key, since 0.28.
const API_KEY: &str = "hskey-api-";

/// Placeholder of a secret in a list.
const MASK: &str = "***";

/// Returns the public part of an API key: its twelve characters, or seven before 0.28, which identifies its row; `None` if the key has another form.
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

/// Returns what [`api_key_prefix`] does, from a list: it shows `hskey-api-<12>-***`, or `<7>***` for a key from before 0.28.
/// `None` if it shows something else.
#[must_use]
pub fn listed_prefix(shown: &str) -> Option<&str> {
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
    /// for an older key, which has 48 digits, the first twelve. `None` for any other value.
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
    /// `None` for any other text.
    #[must_use]
    pub fn shown(shown: &str) -> Option<Self> {
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

/// Returns whether a prefix has only letters, digits, `-` and `_`, which need no escaping in a URL; `false` if it is empty.
#[must_use]
pub fn is_plain(prefix: &str) -> bool {
    !prefix.is_empty()
        && prefix
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

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
