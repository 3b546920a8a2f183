//! Makes text of tenants and of Headscale safe to print to a terminal. Pure.

use std::borrow::Cow;
use std::fmt::Write;

/// Returns `text` on one line, with each control character and each character that turns the direction of writing
/// shown by its number: an escape sequence could otherwise hide lines, forge them, or set the terminal's title.
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
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

fn is_hostile(char: char) -> bool {
    // C0, DEL and C1, among them U+009B, which starts a sequence as ESC [ does; line and paragraph separators; marks,
    // embeddings, overrides and isolates of direction; what has no width.
    char.is_control()
        || matches!(char, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

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
