//! Strings that borrow from the body if they can: Go escapes `<`, `>` and `&`, and `&str` would refuse those. Pure.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, Visitor};

/// Maximum length copied of a string with escapes, far above any that is read.
const LONGEST_COPY: usize = 64 << 10;

/// Maximum length stored of a name: Kubernetes accepts 253 bytes, so a longer one is invalid, cut or not.
const LONGEST_NAME: usize = 256;

/// A JSON string, copied only if it has an escape.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Text<'a>(pub(crate) Cow<'a, str>);

/// A name, or the beginning of a text that is too long to be one: it goes into messages.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Name<'a>(Text<'a>);

impl<'a> From<Cow<'a, str>> for Name<'a> {
    fn from(text: Cow<'a, str>) -> Self {
        let end = text.floor_char_boundary(LONGEST_NAME);
        if end == text.len() {
            return Self(Text(text));
        }
        Self(Text(match text {
            Cow::Borrowed(text) => Cow::Borrowed(&text[..end]),
            Cow::Owned(text) => Cow::Owned(text[..end].to_owned()),
        }))
    }
}

impl std::ops::Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl std::ops::Deref for Name<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(TextVisitor).map(Self)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Name<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(TextVisitor).map(Self::from)
    }
}

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(text))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        let kept = &text[..text.floor_char_boundary(LONGEST_COPY)];
        Ok(Cow::Owned(kept.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_no_more_than_a_name_and_copies_no_more_than_is_read() {
        let long = "ä".repeat(LONGEST_COPY);
        let (plain, escaped) = (format!("\"{long}\""), format!("\"\\n{long}\""));
        let read = |text| serde_json::from_str::<Text<'_>>(text).unwrap();
        assert!(matches!(read(&plain), Text(Cow::Borrowed(text)) if text == long));
        assert_eq!(read(&escaped).len(), LONGEST_COPY - 1);
        for text in [&plain, &escaped] {
            let name: Name<'_> = serde_json::from_str(text).unwrap();
            assert!((LONGEST_NAME - 1..=LONGEST_NAME).contains(&name.len()));
        }
    }
}
