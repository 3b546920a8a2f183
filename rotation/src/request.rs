//! Requests of a person for the keys of one Secret: a new key now, and optionally the old one expired at once. Pure.
//!
//! A request is in an annotation of the Secret and names the key to replace. So it is done as soon as another key is in force,
//! whoever created it, and no clocks have to agree. A request that revokes is done when the key that it names has expired.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sidescale_core::id::KeyId;
use sidescale_core::notice::{About, Notice};
use sidescale_core::quote::quoted;
use sidescale_core::secret::SecretRef;

use super::record::{KeyRecord, Record};

/// Annotation with the requests.
pub const ANNOTATION: &str = "sidescale.io/rotate-requested";

/// A request to replace a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RotationRequest {
    /// The key to replace; the request is done when another key is in force.
    pub replaces: KeyId,
    /// Whether the old key is expired at once, without overlap.
    #[serde(default)]
    pub revoke: bool,
}

/// The requests on one Secret, by data key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(transparent)]
pub struct Requests(BTreeMap<String, RotationRequest>);

/// The annotation cannot be read.
#[derive(Debug, thiserror::Error)]
#[error(
    "annotation \"{ANNOTATION}\" is {value}: want what \"sidescale rotate --now\" writes, such as \
     {{\"api-authkey\":{{\"replaces\":7,\"revoke\":false}}}}; remove it, and run that command again"
)]
pub struct Unreadable {
    /// The value for messages: quoted, and cut if long.
    value: String,
}

impl Unreadable {
    /// How often it is reported while the annotation remains.
    pub const TELL_EVERY: Duration = Duration::from_secs(3_600);

    /// Returns the Event for the Secret's owner.
    #[must_use]
    pub fn notice(&self, secret: &SecretRef) -> Notice {
        Notice {
            namespace: secret.namespace.clone(),
            about: About::secret(&secret.name),
            warning: true,
            reason: "RequestUnreadable",
            note: self.to_string(),
        }
    }
}

impl Requests {
    /// Reads the annotation; a Secret without one has no requests.
    ///
    /// # Errors
    /// The annotation does not have the form that Sidescale writes.
    pub fn parse(annotations: &BTreeMap<String, String>) -> Result<Self, Unreadable> {
        let Some(value) = annotations.get(ANNOTATION) else {
            return Ok(Self::default());
        };
        // The parser's message repeats parts of the value, of any length.
        serde_json::from_str(value).map_err(|_| Unreadable {
            value: quoted(value),
        })
    }

    /// Adds a request; an earlier request to revoke the same key still applies.
    pub fn add(&mut self, data_key: &str, request: RotationRequest) {
        let known = self.0.get(data_key);
        let revoke = request.revoke
            || known.is_some_and(|known| known.replaces == request.replaces && known.revoke);
        self.0
            .insert(data_key.to_owned(), RotationRequest { revoke, ..request });
    }

    /// Returns the request for that data key, while the key that it names is in force.
    #[must_use]
    pub fn open(&self, data_key: &str, key: &KeyRecord) -> Option<RotationRequest> {
        let current = key.current.as_ref()?.id;
        self.0
            .get(data_key)
            .copied()
            .filter(|request| request.replaces == current)
    }

    /// Returns whether the key is to be expired at once when it is no longer in force.
    #[must_use]
    pub fn revoke(&self, data_key: &str, id: KeyId) -> bool {
        let request = self.0.get(data_key);
        request.is_some_and(|request| request.revoke && request.replaces == id)
    }

    /// Writes the open requests back; without any, removes the annotation.
    ///
    /// # Errors
    /// Never in practice: every part has a JSON form.
    pub fn write(
        mut self,
        record: &Record,
        annotations: &mut BTreeMap<String, String>,
    ) -> Result<(), serde_json::Error> {
        let open = |(data_key, request): &(String, RotationRequest)| {
            let Some(key) = record.keys.get(data_key) else {
                return false;
            };
            let in_force = key.current.as_ref().map(|current| current.id);
            let mut previous = key.previous.iter().map(|previous| previous.id);
            in_force == Some(request.replaces)
                || request.revoke && previous.any(|id| id == request.replaces)
        };
        self.0 = std::mem::take(&mut self.0)
            .into_iter()
            .filter(open)
            .collect();
        if self.0.is_empty() {
            annotations.remove(ANNOTATION);
        } else {
            annotations.insert(ANNOTATION.to_owned(), serde_json::to_string(&self)?);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::record::{IssuedKey, KeySpec, Previous};

    fn record(id: u64) -> Record {
        let mut key = KeyRecord::new("api", "default");
        key.current = Some(IssuedKey {
            origin: crate::record::Origin::Ours,
            id: KeyId::from(id),
            created: Timestamp::UNIX_EPOCH,
            expires: Timestamp::MAX,
            asked: KeySpec {
                user: "shop.api".into(),
                tags: Vec::new(),
                reusable: true,
                ephemeral: true,
            },
        });
        Record {
            keys: [("api-authkey".to_owned(), key)].into(),
            ..Record::default()
        }
    }

    fn asking(value: &str) -> BTreeMap<String, String> {
        [(ANNOTATION.to_owned(), value.to_owned())].into()
    }

    #[test]
    fn a_request_is_open_until_another_key_is_in_force() {
        let value = r#"{"api-authkey":{"replaces":7,"revoke":true}}"#;
        let mut annotations = asking(value);
        let requests = Requests::parse(&annotations).unwrap();
        let open = |id| requests.open("api-authkey", &record(id).keys["api-authkey"]);
        assert_eq!(open(7).map(|request| request.revoke), Some(true));
        assert_eq!(open(8), None);
        assert_eq!(
            requests.open("db-authkey", &record(7).keys["api-authkey"]),
            None
        );

        requests
            .clone()
            .write(&record(7), &mut annotations)
            .unwrap();
        assert_eq!(annotations, asking(value));
        requests.write(&record(8), &mut annotations).unwrap();
        assert!(annotations.is_empty());
    }

    #[test]
    fn a_second_request_takes_nothing_back() {
        let mut requests = Requests::default();
        for revoke in [false, true, false] {
            let replaces = KeyId::from(7);
            requests.add("api-authkey", RotationRequest { replaces, revoke });
        }
        let key = &record(7).keys["api-authkey"];
        assert!(requests.open("api-authkey", key).unwrap().revoke);
        let replaces = KeyId::from(8);
        requests.add(
            "api-authkey",
            RotationRequest {
                replaces,
                revoke: false,
            },
        );
        let key = &record(8).keys["api-authkey"];
        assert!(!requests.open("api-authkey", key).unwrap().revoke);
    }

    #[test]
    fn one_that_revokes_is_over_when_its_key_has_ended() {
        let value = r#"{"api-authkey":{"replaces":7,"revoke":true}}"#;
        let mut annotations = asking(value);
        let mut record = record(8);
        let previous = Previous {
            revoked: false,
            id: KeyId::from(7),
            expire_at: Timestamp::MAX,
            expires: jiff::Timestamp::UNIX_EPOCH,
        };
        record.keys.get_mut("api-authkey").unwrap().previous = vec![previous];
        let requests = Requests::parse(&annotations).unwrap();
        assert!(
            requests.revoke("api-authkey", KeyId::from(7))
                && !requests.revoke("api-authkey", KeyId::from(8))
        );
        requests.clone().write(&record, &mut annotations).unwrap();
        assert_eq!(annotations, asking(value));
        record.keys.get_mut("api-authkey").unwrap().previous.clear();
        requests.write(&record, &mut annotations).unwrap();
        assert!(annotations.is_empty());
    }

    #[test]
    fn what_is_no_request_is_named() {
        for value in [
            "",
            "true",
            "{\"a\":7}",
            r#"{"a":{"replaces":7,"now":true}}"#,
        ] {
            let error = Requests::parse(&asking(value)).unwrap_err().to_string();
            assert!(
                error.contains(&format!("{value:?}")) && error.contains("rotate --now"),
                "{error}"
            );
        }
    }

    #[test]
    fn of_a_long_request_the_beginning_is_told() {
        let key = "hskey-auth-0123456789ab-cdef";
        for value in [
            "x".repeat(256 * 1024),
            format!("{{\"{key}{}\":7}}", "y".repeat(1_000)),
        ] {
            let error = Requests::parse(&asking(&value)).unwrap_err();
            let secret = SecretRef::new("shop", "keys");
            let note = error.notice(&secret).note;
            assert!(note.len() < 500 && !note.contains("cdef"), "{note}");
            let length = format!("… of {} bytes", value.len());
            assert!(note.contains(&length), "{note}");
        }
    }
}
