//! What the Secret of an API key records beside the key, in one annotation. Pure.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sidescale_core::id::ApiKeyId;

/// Annotation with the record.
pub const ANNOTATION: &str = "sidescale.io/api-key";

/// How long to look for the key of an abandoned intent: the create call may still be running when its writer is given
/// up.
pub const ABANDONED_FOR: Duration = Duration::from_secs(600);

/// Maximum number of keys and abandoned intents in the record: annotations are limited in size.
const MOST: usize = 32;

/// The key in use, the keys before it, and the key that is being created. Holds ids, no byte of a key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct ApiKeyRecord {
    /// The key in the Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<RecordedApiKey>,
    /// Process that wrote it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub writer: String,
    /// Replaced keys of Sidescale that have yet to expire.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub previous: Vec<PreviousApiKey>,
    /// The key that is being created.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intent: Option<ApiKeyIntent>,
    /// Intents with an unknown outcome: a key with such a fingerprint is Sidescale's, and its value is lost.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub abandoned: Vec<AbandonedApiKey>,
}

/// A key at Headscale. Expiration and id identify it together: a new database assigns the same ids again, to foreign
/// keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct RecordedApiKey {
    /// Id at Headscale.
    pub id: ApiKeyId,
    /// When it expires, to the microsecond.
    pub expires: Timestamp,
}

/// A key that was replaced.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct PreviousApiKey {
    /// The key.
    #[serde(flatten)]
    pub key: RecordedApiKey,
    /// When it was replaced.
    pub since: Timestamp,
}

/// A key that is about to be created.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiKeyIntent {
    /// Process that creates it.
    pub writer: String,
    /// When that began.
    pub started_at: Timestamp,
    /// Exact expiration of the request: its sub-second part is the key's fingerprint.
    pub expires: Timestamp,
}

/// An intent that was abandoned.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct AbandonedApiKey {
    /// When it was abandoned.
    pub since: Timestamp,
    /// Expiration of the request.
    pub expires: Timestamp,
}

impl ApiKeyRecord {
    /// Reads the annotation; returns an empty record and `true` for a damaged one.
    #[must_use]
    pub fn parse(text: Option<&str>) -> (Self, bool) {
        match text.map(serde_json::from_str) {
            Some(Ok(record)) => (record, false),
            Some(Err(_)) => (Self::default(), true),
            None => (Self::default(), false),
        }
    }

    /// Returns the annotation to write; `None` for an empty record.
    #[must_use]
    pub fn text(&self) -> Option<String> {
        (*self != Self::default())
            .then(|| serde_json::to_string(self).ok())
            .flatten()
    }

    /// Abandons the current intent, if any.
    pub fn give_up(&mut self, now: Timestamp) {
        if let Some(ApiKeyIntent { expires, .. }) = self.intent.take() {
            cut(&mut self.abandoned);
            self.abandoned.push(AbandonedApiKey {
                since: now,
                expires,
            });
        }
    }

    /// Records a replaced key, which is expired after its overlap.
    pub fn replaced(&mut self, key: RecordedApiKey, now: Timestamp) {
        if self.previous.iter().all(|previous| previous.key != key) {
            cut(&mut self.previous);
            self.previous.push(PreviousApiKey { key, since: now });
        }
    }
}

/// Makes room for one more; the keys that are dropped here expire at their own time.
fn cut<T>(list: &mut Vec<T>) {
    let over = (list.len() + 1).saturating_sub(MOST);
    list.drain(..over);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn key(id: u64) -> RecordedApiKey {
        RecordedApiKey {
            id: id.into(),
            expires: at(50),
        }
    }

    #[test]
    fn a_record_survives_its_annotation() {
        let mut record = ApiKeyRecord {
            current: Some(key(7)),
            writer: "headscale-0".into(),
            intent: Some(ApiKeyIntent {
                writer: "headscale-0".into(),
                started_at: at(1),
                expires: at(100),
            }),
            ..ApiKeyRecord::default()
        };
        record.replaced(key(6), at(2));
        record.replaced(key(6), at(3));
        assert_eq!(
            record.previous,
            [PreviousApiKey {
                key: key(6),
                since: at(2)
            }]
        );
        let text = record.text().unwrap();
        assert_eq!(ApiKeyRecord::parse(Some(&text)), (record.clone(), false));
        record.give_up(at(4));
        record.give_up(at(5));
        assert_eq!(record.intent, None);
        assert_eq!(
            record.abandoned,
            [AbandonedApiKey {
                since: at(4),
                expires: at(100)
            }]
        );
    }

    #[test]
    fn a_damaged_record_is_as_good_as_none() {
        assert_eq!(ApiKeyRecord::parse(None), (ApiKeyRecord::default(), false));
        for damaged in ["", "7", "nonsense", "{\"current\":\"x\"}"] {
            assert_eq!(
                ApiKeyRecord::parse(Some(damaged)),
                (ApiKeyRecord::default(), true),
                "{damaged}"
            );
        }
        assert_eq!(ApiKeyRecord::default().text(), None);
    }

    #[test]
    fn a_record_does_not_grow_without_end() {
        let mut record = ApiKeyRecord::default();
        for id in 0..100 {
            record.replaced(key(id), at(1));
            record.intent = Some(ApiKeyIntent {
                writer: String::new(),
                started_at: at(1),
                expires: at(1),
            });
            record.give_up(at(1));
        }
        assert_eq!(
            (record.previous.len(), record.abandoned.len()),
            (MOST, MOST)
        );
        assert_eq!(record.previous.last().unwrap().key, key(99));
    }
}
