//! Parsing of durations in flags. Pure.

use std::time::Duration;

use jiff::SignedDuration;

/// Parses a duration such as `10s` or `1m30s`.
///
/// # Errors
///
/// Names the accepted form, if the text is invalid or negative.
pub fn duration(text: &str) -> Result<Duration, String> {
    let accepted = || "want a duration such as 10s or 1m30s".to_owned();
    let parsed: SignedDuration = text.parse().map_err(|_| accepted())?;
    Duration::try_from(parsed).map_err(|_| accepted())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_durations() {
        assert_eq!(duration("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("0s"), Ok(Duration::ZERO));
        for wrong in ["", "10", "-1s", "soon"] {
            assert!(duration(wrong).is_err(), "{wrong:?} was taken");
        }
    }
}
