//! Ids that a control plane gives to what it has: short texts that say nothing about age. Pure.
//!
//! Headscale's ids are numbers. Whatever asks which of two objects is newer compares when they were created: the order of
//! ids is for maps only.

use std::fmt;
use std::str::FromStr;

use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Maximum length of an id, which takes 32 bytes together with its length. Headscale's greatest number has 20 digits.
const LONGEST: usize = 31;

/// An id: 1 to 31 ASCII letters, digits, `-` and `_`, none of which needs escaping in a URL.
///
/// In a document it is a number where it is one in its shortest form, and else a text.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id {
    // Before the bytes, so that numbers are in the order of their values.
    length: u8,
    bytes: [u8; LONGEST],
}

/// Id of a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UserId(pub Id);

impl From<u64> for UserId {
    fn from(number: u64) -> Self {
        Self(number.into())
    }
}

/// Id of a pre-auth key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyId(pub Id);

impl From<u64> for KeyId {
    fn from(number: u64) -> Self {
        Self(number.into())
    }
}

/// Id of an API key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ApiKeyId(pub Id);

impl From<u64> for ApiKeyId {
    fn from(number: u64) -> Self {
        Self(number.into())
    }
}

/// Id of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeId(pub Id);

impl From<u64> for NodeId {
    fn from(number: u64) -> Self {
        Self(number.into())
    }
}

/// A text that is no id. The message does not contain the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidId;

impl fmt::Display for InvalidId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "want an id of 1 to {LONGEST} letters, digits, \"-\" and \"_\""
        )
    }
}

impl std::error::Error for InvalidId {}

impl Id {
    /// Returns the id as a text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        let bytes = &self.bytes[..usize::from(self.length)];
        // They are ASCII.
        std::str::from_utf8(bytes).unwrap_or_default()
    }

    /// Returns the id as a number; `None` if it is none, or not in its shortest form, such as `007`.
    #[must_use]
    pub fn number(&self) -> Option<u64> {
        let text = self.as_str();
        let is_shortest = text == "0" || !text.starts_with('0');
        text.parse().ok().filter(|_| is_shortest)
    }

    /// Copies at most [`LONGEST`] ASCII bytes.
    fn copied(text: &[u8]) -> Self {
        let length = text.len().min(LONGEST);
        let mut bytes = [0; LONGEST];
        bytes[..length].copy_from_slice(&text[..length]);
        Self {
            length: u8::try_from(length).unwrap_or_default(),
            bytes,
        }
    }
}

impl From<u64> for Id {
    fn from(number: u64) -> Self {
        Self::copied(number.to_string().as_bytes())
    }
}

impl FromStr for Id {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        if (1..=LONGEST).contains(&text.len()) && text.bytes().all(is_plain) {
            return Ok(Self::copied(text.as_bytes()));
        }
        Err(InvalidId)
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Id {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.number() {
            Some(number) => serializer.serialize_u64(number),
            None => serializer.serialize_str(self.as_str()),
        }
    }
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NumberOrText;

        impl Visitor<'_> for NumberOrText {
            type Value = Id;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the number or text of an id")
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Id, E> {
                Ok(number.into())
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Id, E> {
                text.parse().map_err(E::custom)
            }
        }

        deserializer.deserialize_any(NumberOrText)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_stays_a_number_in_a_document() {
        for (json, want) in [
            ("0", "0"),
            ("7", "7"),
            ("18446744073709551615", "18446744073709551615"),
            (r#""7""#, "7"),
            (r#""007""#, r#""007""#),
            (r#""kAbc123CNTRL""#, r#""kAbc123CNTRL""#),
            (r#""18446744073709551616""#, r#""18446744073709551616""#),
        ] {
            let id: KeyId = serde_json::from_str(json).unwrap();
            assert_eq!(serde_json::to_string(&id).unwrap(), want, "{json}");
        }
        for json in ["-1", "1.5", "18446744073709551616", "null", "[]", r#""""#] {
            assert!(serde_json::from_str::<KeyId>(json).is_err(), "{json}");
        }
    }

    #[test]
    fn only_what_needs_no_escaping_is_an_id() {
        let longest = "n".repeat(LONGEST);
        for text in ["1", "kAbc123CNTRL", "a-b_c", &longest] {
            assert_eq!(text.parse::<Id>().unwrap().as_str(), text);
        }
        let long = "n".repeat(LONGEST + 1);
        for text in ["", " ", "1/../2", "1?id=2", "1%2f", "ä", "1\n", &long] {
            assert_eq!(text.parse::<Id>(), Err(InvalidId), "{text:?}");
        }
    }

    #[test]
    fn numbers_are_in_the_order_of_their_values() {
        let numbers = [0, 1, 9, 10, 11, 99, 100, u64::from(u32::MAX), u64::MAX];
        assert!(numbers.map(Id::from).is_sorted());
        for number in numbers {
            let id = Id::from(number);
            assert_eq!(
                (id.to_string(), id.number()),
                (number.to_string(), Some(number))
            );
        }
        assert_eq!("+7".parse::<Id>(), Err(InvalidId));
        assert_eq!("007".parse::<Id>().unwrap().number(), None);
    }
}
