//! Forms of values: durations, quantities, switches, names. Text in, value out. Pure.

use std::time::Duration;

/// Expected form of a duration, for messages.
pub const DURATION: &str = "want a duration such as 90m, 12h or 30d";
/// Expected form of a switch, for messages.
pub(crate) const SWITCH: &str = "want true or false";
/// Expected form of a CPU quantity, for messages.
pub(crate) const CPU: &str = "want a Kubernetes quantity such as 50m or 0.2";
/// Expected form of a memory quantity, for messages.
pub(crate) const MEMORY: &str = "want a Kubernetes quantity such as 128Mi or 1Gi";
/// Expected form of a Secret reference, for messages.
pub(crate) const SECRET_REFERENCE: &str = "want <Secret name>/<data key>, such as my-keys/authkey";

/// Expected form of an image, for messages.
pub(crate) const IMAGE: &str = "want an image such as docker.io/tailscale/tailscale:v1.102.3";

const SECOND: u128 = 1_000_000_000;
// Far enough for any key, and too small to overflow a date.
const LONGEST: u128 = 100 * 365 * 24 * 3600 * SECOND;

/// Parses `true` or `false`.
pub(crate) fn switch(text: &str) -> Option<bool> {
    match text {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    }
}

/// Parses a duration in Go's form, with `d` for 24 hours; at most 100 years, never negative.
pub fn duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut nanos = 0_u128;
    while !rest.is_empty() || text.is_empty() {
        let (whole, fraction, after) = number(rest)?;
        let length = after
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(after.len());
        let (unit, next) = after.split_at(length);
        let unit = unit_nanos(unit)?;
        let mut part = whole
            .parse::<u128>()
            .ok()
            .filter(|n| *n <= LONGEST)
            .map_or_else(|| whole.is_empty().then_some(0), |n| n.checked_mul(unit))?;
        let mut scale = unit;
        for digit in fraction.bytes() {
            scale /= 10;
            part += u128::from(digit - b'0') * scale;
        }
        nanos = nanos.checked_add(part).filter(|n| *n <= LONGEST)?;
        rest = next;
    }
    let seconds = u64::try_from(nanos / SECOND).ok()?;
    let below = u32::try_from(nanos % SECOND).ok()?;
    Some(Duration::new(seconds, below))
}

/// Parses a Kubernetes quantity, in billionths.
pub(crate) fn quantity(text: &str) -> Option<u128> {
    let (whole, fraction, suffix) = number(text)?;
    let scale = suffix_nanos(suffix)?;
    let whole = if whole.is_empty() {
        0
    } else {
        whole.parse::<u128>().ok()?
    };
    let mut nanos = whole.checked_mul(scale)?;
    let mut digit_scale = scale;
    for digit in fraction.bytes() {
        digit_scale /= 10;
        nanos = nanos.checked_add(u128::from(digit - b'0') * digit_scale)?;
    }
    Some(nanos)
}

/// Formats a duration as an author would write it: days, hours, minutes, seconds, without zero parts.
pub fn show(duration: Duration) -> String {
    let mut seconds = duration.as_secs();
    let mut text = String::new();
    for (unit, length) in [("h", 3600), ("m", 60), ("s", 1)] {
        if seconds >= length {
            text.push_str(&format!("{}{unit}", seconds / length));
            seconds %= length;
        }
    }
    if text.is_empty() {
        format!("{}ms", duration.as_millis())
    } else {
        text
    }
}

/// Returns whether `text` is a DNS subdomain of at most `longest` characters.
pub fn is_dns_subdomain(text: &str, longest: usize) -> bool {
    text.len() <= longest && text.split('.').all(is_dns_label_of_any_length)
}

/// Returns whether `text` is a DNS label of at most 63 characters.
pub fn is_dns_label(text: &str) -> bool {
    text.len() <= 63 && is_dns_label_of_any_length(text)
}

/// Returns whether `text` may be a data key of a Secret.
pub fn is_data_key(text: &str) -> bool {
    (1..=253).contains(&text.len())
        && text != "."
        && !text.starts_with("..")
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
}

/// Returns whether `text` is a tag that Headscale accepts.
pub(crate) fn is_tag(text: &str) -> bool {
    let Some(name) = text.strip_prefix("tag:") else {
        return false;
    };
    name.len() <= 63
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// Returns whether `text` may be an image.
pub(crate) fn is_image(text: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"-._/:@".contains(&b);
    (1..=512).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(fits)
}

/// Parses `<Secret name>/<data key>`.
pub(crate) fn secret_reference(text: &str) -> Option<(&str, &str)> {
    let (name, key) = text.split_once('/')?;
    (is_dns_subdomain(name, 253) && is_data_key(key)).then_some((name, key))
}

/// Returns the candidate most likely meant by a typing error.
pub(crate) fn nearest<'a>(
    word: &str,
    candidates: impl Iterator<Item = &'a str>,
) -> Option<&'a str> {
    candidates
        .map(|candidate| (distance(word, candidate), candidate))
        .min()
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len() / 4)
        .map(|(_, candidate)| candidate)
}

fn is_dns_label_of_any_length(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with('-')
        && !text.ends_with('-')
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// Splits off leading digits with an optional fraction.
fn number(text: &str) -> Option<(&str, &str, &str)> {
    let digits = |text: &str| {
        text.find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len())
    };
    let (whole, rest) = text.split_at(digits(text));
    let (fraction, rest) = match rest.strip_prefix('.') {
        Some(rest) => rest.split_at(digits(rest)),
        None => ("", rest),
    };
    (!whole.is_empty() || !fraction.is_empty()).then_some((whole, fraction, rest))
}

fn unit_nanos(unit: &str) -> Option<u128> {
    Some(match unit {
        "ns" => 1,
        "us" | "µs" | "μs" => 1_000,
        "ms" => 1_000_000,
        "s" => SECOND,
        "m" => 60 * SECOND,
        "h" => 3600 * SECOND,
        "d" => 24 * 3600 * SECOND,
        _ => return None,
    })
}

fn suffix_nanos(suffix: &str) -> Option<u128> {
    let binary = |exponent: u32| SECOND << (10 * exponent);
    Some(match suffix {
        "n" => 1,
        "u" => 1_000,
        "m" => 1_000_000,
        "" => SECOND,
        "k" => SECOND * 1_000,
        "M" => SECOND * 1_000_000,
        "G" => SECOND * 1_000_000_000,
        "T" => SECOND * 1_000_000_000_000,
        "P" => SECOND * 1_000_000_000_000_000,
        "E" => SECOND * 1_000_000_000_000_000_000,
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        "Ei" => binary(6),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E'])?;
            let exponent: i32 = exponent
                .strip_prefix('+')
                .unwrap_or(exponent)
                .parse()
                .ok()?;
            10_u128.checked_pow(u32::try_from(exponent.checked_add(9)?).ok()?)?
        }
    })
}

/// Returns the number of insertions, deletions and replacements between two words.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_durations_as_go_does_and_days() {
        let table = [
            ("90m", Some(5400.0)),
            ("12h", Some(43_200.0)),
            ("30d", Some(2_592_000.0)),
            ("1d12h", Some(129_600.0)),
            ("1h30m5s", Some(5405.0)),
            ("1.5h", Some(5400.0)),
            (".5s", Some(0.5)),
            ("250ms", Some(0.25)),
            ("3µs", Some(0.000_003)),
            ("0", Some(0.0)),
            ("", None),
            ("5", None),
            ("5 weeks", None),
            ("5w", None),
            ("-1h", None),
            ("+1h", None),
            ("1h ", None),
            ("h", None),
            (".", None),
            ("1..5h", None),
            ("99999999999999999999999999d", None),
            ("999999999999999999999999999999999999999999999999999d", None),
            ("101000d", None),
        ];
        for (text, seconds) in table {
            assert_eq!(duration(text).map(|d| d.as_secs_f64()), seconds, "{text:?}");
        }
    }

    #[test]
    fn reads_quantities() {
        let table = [
            ("50m", Some(50_000_000)),
            ("0.2", Some(200_000_000)),
            ("1", Some(SECOND)),
            ("128Mi", Some(128 * 1024 * 1024 * SECOND)),
            ("1e3", Some(1000 * SECOND)),
            ("1E", Some(1_000_000_000_000_000_000 * SECOND)),
            ("", None),
            ("lots", None),
            ("-1", None),
            ("1 Gi", None),
            ("1mi", None),
        ];
        for (text, nanos) in table {
            assert_eq!(quantity(text), nanos, "{text:?}");
        }
    }

    #[test]
    fn names_what_a_typing_error_meant() {
        let keys = ["inject", "hostname", "auth-key-expiration", "tags"];
        let table = [
            ("injekt", Some("inject")),
            ("hostnme", Some("hostname")),
            ("authkey-expiration", Some("auth-key-expiration")),
            ("tag", Some("tags")),
            ("colour", None),
        ];
        for (word, meant) in table {
            assert_eq!(nearest(word, keys.into_iter()), meant, "{word:?}");
        }
    }

    #[test]
    fn knows_names() {
        assert!(is_dns_subdomain("api.v2", 200) && !is_dns_subdomain("Api", 200));
        assert!(
            !is_dns_subdomain("", 200)
                && !is_dns_subdomain("a..b", 200)
                && !is_dns_subdomain("-a", 200)
        );
        assert!(
            is_tag("tag:web-1")
                && !is_tag("web")
                && !is_tag("tag:")
                && !is_tag("tag:Web")
                && !is_tag("tag:1")
        );
        assert_eq!(
            secret_reference("keys/auth_key"),
            Some(("keys", "auth_key"))
        );
        for wrong in ["keys", "keys/", "/a", "Keys/a", "keys/a/b", "keys/.."] {
            assert_eq!(secret_reference(wrong), None, "{wrong:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn never_panics_on_any_text(text in ".{0,40}") {
            let _ = (duration(&text), quantity(&text), secret_reference(&text), nearest(&text, ["a"].into_iter()));
        }

        #[test]
        fn shows_what_it_reads(seconds in 1_u64..3_000_000_000) {
            let shown = show(Duration::from_secs(seconds));
            proptest::prop_assert_eq!(duration(&shown), Some(Duration::from_secs(seconds)));
        }
    }
}
