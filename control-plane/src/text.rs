//! A server's own text, cut and escaped so that a terminal or a log shows it as plain text. Pure.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, Visitor};

/// Returns at most `longest` bytes of a text, with invisible characters escaped.
pub(super) fn shown(text: &str, longest: usize) -> String {
    let cut = &text[..text.floor_char_boundary(longest)];
    let plain = |c: char| !c.is_control() && (c.is_ascii() || c.is_alphanumeric());
    if cut.chars().all(plain) {
        return cut.to_owned();
    }
    let mut shown = String::with_capacity(cut.len());
    for c in cut.chars() {
        match c {
            '"' | '\'' | '\\' => shown.push(c),
            c => shown.extend(c.escape_debug()),
        }
    }
    shown
}

/// A text that is cut and escaped while it is read, so that a long one is never in memory as a whole.
#[derive(Debug)]
pub(super) struct BoundedText<const LONGEST: usize>(pub(super) String);

impl<'de, const LONGEST: usize> Deserialize<'de> for BoundedText<LONGEST> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Cut<const LONGEST: usize>;

        impl<const LONGEST: usize> Visitor<'_> for Cut<LONGEST> {
            type Value = BoundedText<LONGEST>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<BoundedText<LONGEST>, E> {
                Ok(BoundedText(shown(text, LONGEST)))
            }
        }

        deserializer.deserialize_str(Cut::<LONGEST>)
    }
}

#[cfg(test)]
mod tests {
    use super::{BoundedText, shown};

    #[test]
    fn shows_text_and_no_escapes() {
        for (text, want) in [
            ("web-1", "web-1"),
            ("Grüße, \"x\" \\ 'y'", "Grüße, \"x\" \\ 'y'"),
            ("a\u{1b}[2Jb", "a\\u{1b}[2Jb"),
            ("a\nb\0", "a\\nb\\0"),
            ("a\u{202e}b\u{9b}", "a\\u{202e}b\\u{9b}"),
            ("ääää", "ää"),
        ] {
            let longest = if text == "ääää" { 5 } else { 100 };
            assert_eq!(shown(text, longest), want);
            let BoundedText(read) =
                serde_json::from_str::<BoundedText<100>>(&serde_json::json!(text).to_string())
                    .unwrap();
            assert_eq!(read, shown(text, 100));
        }
    }
}
