//! What is known of a value in the place of a pre-auth key: from its form, and from a list of keys. Pure.

use std::collections::BTreeMap;

use sidescale_core::key_form::{KeyKind, kind_of_key};
use sidescale_core::key_prefix::KeyPrefix;
use zeroize::Zeroizing;

use super::demand::KeyDemand;

/// What is known of a value in a Secret.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredValue {
    /// Prefix that identifies its row; none for a key of another form.
    pub prefix: Option<KeyPrefix>,
    /// Why it cannot be a key, if its form shows that.
    pub flaw: Option<Flaw>,
}

/// Why a value is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Flaw {
    /// It is not a key; says what it is, as the end of a sentence.
    NoKey(&'static str),
    /// It has another form than the keys of its control plane, or is cut.
    Form,
    /// The control plane does not have it.
    Unknown,
    /// It has expired.
    Ended,
    /// It was for a single node, which has joined.
    UsedUp,
    /// It is for a single node, but pods share it.
    Once,
}

impl Flaw {
    /// Returns the description of the value.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoKey(what) => what,
            Self::Form => {
                "does not have the form of its control plane's pre-auth keys, or is truncated"
            }
            Self::Unknown => "is not a key of its control plane",
            Self::Ended => "is an expired key",
            Self::UsedUp => "is a single-use key that was already used",
            Self::Once => "is a single-use key, and several pods share it",
        }
    }
}

impl StoredValue {
    /// Checks the values of all keys that pods need.
    #[must_use]
    pub fn all(
        data: &BTreeMap<String, Zeroizing<Vec<u8>>>,
        demand: &BTreeMap<String, KeyDemand>,
    ) -> BTreeMap<String, Self> {
        let value = |data_key: &String| {
            let value = data.get(data_key)?;
            Some((data_key.clone(), Self::of(value)?))
        };
        demand.keys().filter_map(value).collect()
    }

    /// Checks a value; none if it is empty.
    #[must_use]
    pub fn of(value: &[u8]) -> Option<Self> {
        let flaw = match kind_of_key(value) {
            KeyKind::None(what) => Some(Flaw::NoKey(what)),
            KeyKind::Headscale
            | KeyKind::OldHeadscale
            | KeyKind::Cut { .. }
            | KeyKind::Tailscale
            | KeyKind::Unknown => None,
        };
        let text = std::str::from_utf8(value).unwrap_or_default().trim();
        (!value.trim_ascii().is_empty()).then(|| Self {
            prefix: KeyPrefix::of(text),
            flaw,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_has_a_prefix_or_a_flaw_or_neither() {
        let whole = ["hskey-", "auth-abcdefghijkl-"].concat() + &"k".repeat(64);
        let line = format!("{whole}\n");
        for (value, prefix, flaw) in [
            (whole.as_bytes(), true, false),
            (line.as_bytes(), true, false),
            (&whole.as_bytes()[..87], false, false),
            (b"of-a-form-to-come", false, false),
            (b"YOUR_KEY_HERE", false, true),
            (&[0xff], false, true),
        ] {
            let seen = StoredValue::of(value).unwrap();
            assert_eq!((seen.prefix.is_some(), seen.flaw.is_some()), (prefix, flaw));
        }
        assert_eq!(StoredValue::of(b" \n"), None);
    }
}
