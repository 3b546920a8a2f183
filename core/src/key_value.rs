//! The value of a key, which cannot be printed by accident. Pure.

use zeroize::Zeroizing;

/// A pre-auth or API key: zeroed on drop, `<redacted>` when printed.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyValue(Zeroizing<String>);

impl KeyValue {
    /// Takes ownership of a key.
    #[must_use]
    pub fn new(value: String) -> Self {
        Self(Zeroizing::new(value))
    }

    /// Returns the key itself: for a request's header or a Secret's data, never for a log.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for KeyValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("<redacted>")
    }
}

#[cfg(test)]
mod tests {
    use super::KeyValue;

    #[test]
    fn debug_prints_no_byte_of_the_key() {
        let key = KeyValue::new("hskey-auth-secret".to_owned());
        assert_eq!(format!("{key:?}"), "<redacted>");
        assert_eq!(format!("{:?}", Some(&key)), "Some(<redacted>)");
    }
}
