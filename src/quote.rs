//! Text that others wrote, made fit for an Event, a line of the log or a terminal. Pure.

use std::borrow::Cow;

use sidescale_webhook::forms::is_data_key;

/// Characters of a text that are shown.
const SHOWN: usize = 100;

/// Beginnings of keys, of which nothing more is shown.
const KEYS: [&str; 2] = ["hskey-", "tskey-"];

/// Returns the text in quotes: control characters escaped, keys taken out, and of a long one only its beginning.
#[must_use]
pub fn quoted(text: &str) -> String {
    let shown: String = text.chars().take(SHOWN).collect();
    let quoted = format!("{:?}", without_keys(&shown));
    if shown.len() < text.len() {
        return format!("{quoted}… of {} bytes", text.len());
    }
    quoted
}

/// Returns a name as it is, if it has nothing but letters, digits, `-`, `.` and `_`, and else in quotes.
#[must_use]
pub fn name(text: &str) -> Cow<'_, str> {
    if is_data_key(text) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(quoted(text))
}

/// Returns the text with a space in the place of each control character.
#[must_use]
pub fn printable(text: &str) -> Cow<'_, str> {
    // Those that turn the direction of writing around are no control characters, and hide as much.
    let is_hidden = |c: char| {
        c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if text.contains(is_hidden) {
        return Cow::Owned(text.replace(is_hidden, " "));
    }
    Cow::Borrowed(text)
}

fn without_keys(text: &str) -> String {
    let mut rest = text;
    let mut shown = String::with_capacity(text.len());
    while let Some((start, key)) = first_key(rest) {
        let end = start + key.len();
        shown.push_str(&rest[..end]);
        shown.push('…');
        let is_of_key = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        rest = rest[end..].trim_start_matches(is_of_key);
    }
    shown.push_str(rest);
    shown
}

fn first_key(text: &str) -> Option<(usize, &'static str)> {
    let found = KEYS.iter().filter_map(|key| Some((text.find(key)?, *key)));
    found.min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_escapes_cuts_and_takes_keys_out() {
        let long = "x".repeat(300_000);
        let begin = "x".repeat(SHOWN);
        let key = "hskey-auth-0123456789ab-";
        let table = [
            ("web", r#""web""#.to_owned()),
            ("", r#""""#.to_owned()),
            ("a\n\u{1b}[2J\"b", r#""a\n\u{1b}[2J\"b""#.to_owned()),
            ("a\u{202e}b", r#""a\u{202e}b""#.to_owned()),
            (&long, format!("\"{begin}\"… of 300000 bytes")),
            (
                &format!("{key}cdef and {key}"),
                r#""hskey-… and hskey-…""#.to_owned(),
            ),
            ("x=tskey-auth-1, y", r#""x=tskey-…, y""#.to_owned()),
            (&"ä".repeat(100), format!("\"{}\"", "ä".repeat(100))),
        ];
        for (text, want) in table {
            assert_eq!(quoted(text), want);
        }
        let cut = format!("{}{key}cdef", "x".repeat(90));
        assert!(!quoted(&cut).contains("auth"), "{}", quoted(&cut));
    }

    #[test]
    fn a_name_stands_as_it_is_and_anything_else_in_quotes() {
        for (text, want) in [
            ("shop.api_1-x", "shop.api_1-x"),
            ("", r#""""#),
            ("web; rm -rf /", r#""web; rm -rf /""#),
            ("$(id)", r#""$(id)""#),
        ] {
            assert_eq!(name(text), want);
        }
    }

    #[test]
    fn puts_a_space_in_the_place_of_what_cannot_be_seen() {
        for (text, want) in [
            ("name is web: why, ä", "name is web: why, ä"),
            ("a\nb\u{1b}[31mc\u{202e}d", "a b [31mc d"),
        ] {
            assert_eq!(printable(text), want);
        }
    }
}
