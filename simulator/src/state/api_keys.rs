//! The API keys of the embedded Headscale. Pure; `now` is an argument.

use jiff::Timestamp;
use sidescale_core::key_value::KeyValue;

use super::{LastIds, ServerState, StateError, StoredApiKey, is_live};

impl ServerState {
    pub(crate) fn create_api_key(
        &mut self,
        value: KeyValue,
        now: Timestamp,
        expiration: Timestamp,
    ) -> KeyValue {
        self.add_api_key(value, now, Some(expiration))
    }

    pub(crate) fn add_api_key(
        &mut self,
        value: KeyValue,
        now: Timestamp,
        expiration: Option<Timestamp>,
    ) -> KeyValue {
        let id = LastIds::next(&mut self.last.api_key);
        self.api_keys.push(StoredApiKey {
            id,
            value: value.clone(),
            expiration,
            created_at: now,
        });
        value
    }

    pub(crate) fn expire_api_key(
        &mut self,
        id: Option<u64>,
        prefix: Option<&str>,
        now: Timestamp,
    ) -> Result<(), StateError> {
        let index = self.find_api_key(id, prefix)?;
        self.api_keys[index].expiration = Some(now);
        Ok(())
    }

    /// Finds an API key by its id, or by its prefix in any of the three accepted forms.
    fn find_api_key(&self, id: Option<u64>, prefix: Option<&str>) -> Result<usize, StateError> {
        let prefix = prefix.map(|prefix| {
            prefix
                .trim_start_matches("hskey-api-")
                .trim_end_matches("-***")
        });
        if id.is_none() == prefix.is_none() {
            return Err(StateError::NoApiKeyNamed);
        }
        let matches = |key: &StoredApiKey| {
            id == Some(key.id) || prefix.is_some_and(|prefix| key.bare_prefix() == prefix)
        };
        self.api_keys
            .iter()
            .position(matches)
            .ok_or(StateError::UnknownApiKey)
    }

    pub(crate) fn authorizes(&self, bearer: &str, now: Timestamp) -> bool {
        self.api_keys
            .iter()
            .any(|key| key.value.expose() == bearer && is_live(key.expiration, now))
    }
}

impl StoredApiKey {
    /// Returns its value as a list shows it.
    pub(crate) fn shown(&self) -> String {
        format!("hskey-api-{}-***", self.bare_prefix())
    }

    /// Returns the twelve characters that identify a key.
    fn bare_prefix(&self) -> &str {
        self.value.expose().get(10..22).unwrap_or_default()
    }
}
