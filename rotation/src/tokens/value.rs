//! Matching of API keys with Headscale's list, which shows no values. Pure.

use jiff::Timestamp;
use sidescale_core::id::ApiKeyId;
use sidescale_core::key_prefix::api_key_prefix;
use sidescale_core::key_value::KeyValue;
use sidescale_core::objects::ApiKey;

use super::record::RecordedApiKey;

/// An API key as Headscale lists it.
#[derive(Clone, PartialEq, Eq)]
pub struct ListedApiKey {
    /// Id at Headscale.
    pub id: ApiKeyId,
    /// Start of its value after the scheme. Never logged: it is a part of the key.
    prefix: String,
    /// When it expires; `None` for a key that is never valid.
    pub expires: Option<Timestamp>,
}

impl ListedApiKey {
    /// Converts a row of the list.
    #[must_use]
    pub fn new(row: ApiKey) -> Self {
        let ApiKey {
            id,
            prefix,
            expiration,
            created_at: _,
            last_seen: _,
        } = row;
        Self {
            id,
            prefix,
            expires: expiration,
        }
    }

    /// Whether this row lists `value`.
    #[must_use]
    pub fn is_of(&self, value: &KeyValue) -> bool {
        api_key_prefix(value).is_some_and(|prefix| prefix == self.prefix)
    }

    /// Returns the key's id and expiration; `None` for one that is never valid.
    #[must_use]
    pub fn key(&self) -> Option<RecordedApiKey> {
        let Self {
            id,
            prefix: _,
            expires,
        } = self;
        expires.map(|expires| RecordedApiKey { id: *id, expires })
    }

    /// Whether it is valid now.
    #[must_use]
    pub fn is_live(&self, now: Timestamp) -> bool {
        self.expires.is_some_and(|expires| now < expires)
    }
}

impl std::fmt::Debug for ListedApiKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            id,
            prefix: _,
            expires,
        } = self;
        write!(f, "API key {} until {expires:?}", id.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> KeyValue {
        KeyValue::new(text.to_owned())
    }

    fn row(prefix: &str) -> ListedApiKey {
        ListedApiKey::new(ApiKey {
            id: ApiKeyId::from(7),
            prefix: prefix.to_owned(),
            expiration: None,
            created_at: None,
            last_seen: None,
        })
    }

    #[test]
    fn a_key_is_found_by_the_part_that_its_row_shows() {
        let (secret, old) = ("s".repeat(64), "o".repeat(32));
        for (shown, value, same) in [
            (
                "abcdefghijkl",
                format!("hskey-api-abcdefghijkl-{secret}"),
                true,
            ),
            (
                "abc-efghij--",
                format!("hskey-api-abc-efghij---{secret}"),
                true,
            ),
            ("abcdefg", format!("abcdefg.{old}"), true),
            // The first eight characters identify no key, in any version.
            (
                "hskey-ap",
                format!("hskey-api-abcdefghijkl-{secret}"),
                false,
            ),
            ("abcdefgh", format!("abcdefg.{old}"), false),
            (
                "abcdefghijkl",
                format!("hskey-api-abcdefghijkL-{secret}"),
                false,
            ),
            ("", String::new(), false),
        ] {
            assert_eq!(row(shown).is_of(&key(&value)), same, "{shown} {value}");
        }
    }

    #[test]
    fn debug_prints_nothing_of_a_key() {
        assert_eq!(format!("{:?}", row("abcdefghijkl")), "API key 7 until None");
    }
}
