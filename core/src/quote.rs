//! Text from others, made safe for an Event, a log line or a terminal. Pure.

use std::borrow::Cow;
use std::fmt::Write;

/// Maximum length of the names of objects and data keys, which are DNS subdomains (RFC 1123).
const LONGEST_NAME: usize = 253;

/// Maximum number of characters that are shown.
const SHOWN: usize = 100;

/// Prefixes of keys, of which nothing more is shown.
const KEYS: [&str; 2] = ["hskey-", "tskey-"];

/// Returns the text in quotes: control characters escaped, keys removed, and a long one cut.
#[must_use]
pub fn quoted(text: &str) -> String {
    let shown: String = text.chars().take(SHOWN).collect();
    let quoted = format!("{:?}", without_keys(&shown));
    if shown.len() < text.len() {
        return format!("{quoted}… of {} bytes", text.len());
    }
    quoted
}

/// Returns a name unchanged, if it has only letters, digits, `-`, `.` and `_`, and at most 253 of them, and else in quotes.
#[must_use]
pub fn name(text: &str) -> Cow<'_, str> {
    if is_plain(text) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(quoted(text))
}

/// Returns `text` on one line, with each control character and each character that changes the direction of writing
/// escaped: an escape sequence could otherwise hide lines, forge them, or set the terminal's title.
#[must_use]
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_hostile) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 8);
    for char in text.chars() {
        if is_hostile(char) {
            // Writing to a String cannot fail.
            let _ = write!(safe, "{}", char.escape_unicode());
        } else {
            safe.push(char);
        }
    }
    Cow::Owned(safe)
}

/// Whether Kubernetes takes the name for a data key, which every name of an object is too.
fn is_plain(name: &str) -> bool {
    (1..=LONGEST_NAME).contains(&name.len())
        && name != "."
        && !name.starts_with("..")
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
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

fn is_hostile(char: char) -> bool {
    // C0, DEL and C1, among them U+009B, which starts a sequence as ESC [ does; line and paragraph separators; marks,
    // embeddings, overrides and isolates of direction; characters without width.
    char.is_control()
        || matches!(char, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
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
    fn shows_what_a_terminal_would_obey() {
        for (text, want) in [
            ("", ""),
            (
                "web.shop (node 3), größer als \"a\"",
                "web.shop (node 3), größer als \"a\"",
            ),
            ("\x1b[2J\x1b]0;title\x07", r"\u{1b}[2J\u{1b}]0;title\u{7}"),
            ("\u{9b}31m", r"\u{9b}31m"),
            (
                "web\nok  all is well\r\t",
                r"web\u{a}ok  all is well\u{d}\u{9}",
            ),
            ("a\x7fb\0", r"a\u{7f}b\u{0}"),
            ("\u{202e}gpj.exe\u{2066}", r"\u{202e}gpj.exe\u{2066}"),
            (
                "a\u{200b}b\u{2028}c\u{feff}",
                r"a\u{200b}b\u{2028}c\u{feff}",
            ),
        ] {
            assert_eq!(printable(text), want, "{text:?}");
        }
    }

    #[test]
    fn leaves_harmless_text_where_it_is() {
        assert!(matches!(printable("shop/web"), Cow::Borrowed(_)));
    }
}
