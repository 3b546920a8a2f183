//! Untrusted text made safe for a denial, a log line, an Event or a terminal: short, without keys and control characters. Pure.

use std::borrow::Cow;

/// Maximum length of a value in a message.
const SHOWN: usize = 100;

/// Maximum length of a name or an error in a log line.
const LINE: usize = 256;

/// Longer than any key: a key whose end was cut off is still redacted.
const LONGEST_KEY: usize = 128;

/// Prefixes of Headscale's and Tailscale's keys.
const KEYS: [&str; 2] = ["hskey-", "tskey-"];

/// Length of a pre-auth key of Headscale before 0.28, which is only hexadecimal digits.
const OLDER_KEY: usize = 48;

const REDACTED: &str = "<redacted>";

/// Returns the text in quotes, escaped; of a long one, its beginning and its length.
#[must_use]
pub fn shown(text: &str) -> String {
    match cut(text, SHOWN) {
        (start, true) => format!("{start:?}… of {} bytes", text.len()),
        (start, false) => format!("{start:?}"),
    }
}

/// Returns the text in one line, without quotes; of a long one, its beginning.
#[must_use]
pub fn line(text: &str) -> String {
    let (start, more) = cut(text, LINE);
    let mut said = if start.contains(is_control) {
        start.replace(is_control, "?")
    } else {
        start.into_owned()
    };
    if more {
        said.push('…');
    }
    said
}

/// Returns the text without what looks like a key.
#[must_use]
pub fn redacted(text: &str) -> Cow<'_, str> {
    let mut safe = String::new();
    let mut rest = text;
    while let Some((start, end, prefix)) = first_key(rest) {
        safe.push_str(&rest[..start]);
        safe.push_str(prefix);
        safe.push_str(REDACTED);
        rest = &rest[end..];
    }
    if rest.len() == text.len() {
        return Cow::Borrowed(text);
    }
    safe.push_str(rest);
    Cow::Owned(safe)
}

/// Returns the first characters of the text without keys, and whether there are more.
fn cut(text: &str, most: usize) -> (Cow<'_, str>, bool) {
    let end = |text: &str, most| text.char_indices().nth(most).map(|(end, _)| end);
    // A key that begins in the shown part is examined as a whole, and nothing after it.
    let window = end(text, most + LONGEST_KEY).map_or(text, |end| &text[..end]);
    let safe = redacted(window);
    let Some(end) = end(&safe, most) else {
        return (safe, window.len() < text.len());
    };
    let start = match safe {
        Cow::Borrowed(safe) => Cow::Borrowed(&safe[..end]),
        Cow::Owned(mut safe) => {
            safe.truncate(end);
            Cow::Owned(safe)
        }
    };
    (start, true)
}

/// Returns where the first key begins and ends, and the part of its beginning that may be shown.
fn first_key(text: &str) -> Option<(usize, usize, &'static str)> {
    let named = KEYS.iter().filter_map(|prefix| {
        let start = text.find(prefix)?;
        let is_part = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        let length = text[start..].find(|c| !is_part(c));
        let end = length.map_or(text.len(), |length| start + length);
        Some((start, end, *prefix))
    });
    let named = named.min();
    let older = older_key(&text[..named.map_or(text.len(), |(start, _, _)| start)]);
    older.map(|(start, end)| (start, end, "")).or(named)
}

/// Returns a word of 48 hexadecimal digits; a digest of an image has 64.
fn older_key(text: &str) -> Option<(usize, usize)> {
    let mut start = 0;
    for run in text.split(|c: char| !c.is_ascii_alphanumeric()) {
        if run.len() == OLDER_KEY && run.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Some((start, start + run.len()));
        }
        let after = start + run.len();
        let gap = text[after..].chars().next().map_or(0, char::len_utf8);
        start = after + gap;
    }
    None
}

/// Returns whether a terminal would obey the character, or reorder the text after it.
fn is_control(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(kind: &str) -> String {
        format!("{kind}-gcA5aTk6_1vK-{}", "s3".repeat(32))
    }

    #[test]
    fn shows_no_byte_of_a_key() {
        let (auth, api, ts) = (key("hskey-auth"), key("hskey-api"), key("tskey-auth"));
        let older = "0123456789abcdef".repeat(3);
        let digest = format!("registry.example.com/a@sha256:{}", "0f".repeat(32));
        let late = format!("{}{auth}", "x".repeat(95));
        let cut_off = format!("{}hskey-auth-{}", "x".repeat(80), "k".repeat(5000));
        let table = [
            (auth.clone(), "\"hskey-<redacted>\"".to_owned()),
            (format!("my/{api}!"), "\"my/hskey-<redacted>!\"".to_owned()),
            (
                format!("{ts} {auth}"),
                "\"tskey-<redacted> hskey-<redacted>\"".to_owned(),
            ),
            (
                format!("{auth} {ts}"),
                "\"hskey-<redacted> tskey-<redacted>\"".to_owned(),
            ),
            (older.clone(), "\"<redacted>\"".to_owned()),
            (
                format!("é/{older}, {auth}"),
                "\"é/<redacted>, hskey-<redacted>\"".to_owned(),
            ),
            (format!("{older}0"), format!("\"{older}0\"")),
            (digest.clone(), format!("\"{digest}\"")),
            ("hskey-".to_owned(), "\"hskey-<redacted>\"".to_owned()),
            (
                late.clone(),
                format!("\"{}hskey\"… of {} bytes", "x".repeat(95), late.len()),
            ),
            (
                cut_off.clone(),
                format!(
                    "\"{}hskey-<redacted>\"… of {} bytes",
                    "x".repeat(80),
                    cut_off.len()
                ),
            ),
            ("tag:web".to_owned(), "\"tag:web\"".to_owned()),
            (
                "\u{1b}[2J\u{202e}".to_owned(),
                "\"\\u{1b}[2J\\u{202e}\"".to_owned(),
            ),
            (
                "é".repeat(101),
                format!("\"{}\"… of 202 bytes", "é".repeat(100)),
            ),
        ];
        for (text, want) in table {
            assert_eq!(shown(&text), want, "{text}");
        }
    }

    #[test]
    fn a_line_stays_one_and_a_terminal_obeys_nothing() {
        let text = "a\u{1b}]0;x\u{7}\nb\u{202e}c";
        assert_eq!(line(text), "a?]0;x??b?c");
        assert_eq!(line(&"x".repeat(1 << 20)).chars().count(), LINE + 1);
        assert_eq!(line(&key("hskey-auth")), "hskey-<redacted>");
    }

    proptest::proptest! {
        #[test]
        fn no_key_gets_through_whatever_stands_around_it(before in ".{0,120}", after in "[^0-9A-Za-z_-]?.{0,40}") {
            let text = format!("{before}hskey-auth-{}{after}", "Q7".repeat(40));
            for said in [shown(&text), line(&text)] {
                proptest::prop_assert!(!said.contains("Q7Q7"), "{}", said);
            }
        }
    }
}
