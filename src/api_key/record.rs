//! What the Secret of an API key remembers beside it, in one annotation. Pure.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Is the annotation that holds the record.
pub const ANNOTATION: &str = "sidescale.io/api-key";

/// How long a lost intent's key is looked for: a create may still be under way when its writer is given up.
pub const ABANDONED_FOR: Duration = Duration::from_secs(600);

/// Bounds how many keys and lost intents are remembered: annotations have their limit.
const MOST: usize = 32;

/// Remembers which key is in force, what went before, and what is being made. It holds ids, no byte of a key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct ApiKeyRecord {
    /// The key in the Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<RecordedApiKey>,
    /// Who wrote it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub writer: String,
    /// Keys of ours that were replaced and are still to be ended.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub previous: Vec<PreviousApiKey>,
    /// The key that is being made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intent: Option<ApiKeyIntent>,
    /// Intents whose end nobody saw: a key with that fingerprint is ours, and nobody has its value.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub abandoned: Vec<AbandonedApiKey>,
}

/// A key at Headscale. Its end goes with its id: a new database gives the same ids again, to keys of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct RecordedApiKey {
    /// Its id.
    pub id: u64,
    /// When it ends, to the microsecond.
    pub expires: Timestamp,
}

/// A key that was replaced.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct PreviousApiKey {
    /// Which.
    #[serde(flatten)]
    pub key: RecordedApiKey,
    /// When it was replaced.
    pub since: Timestamp,
}

/// A key that is about to be made.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiKeyIntent {
    /// Names who makes it.
    pub writer: String,
    /// When that began.
    pub started_at: Timestamp,
    /// The exact end that is asked for: its sub-second part is the key's fingerprint.
    pub expires: Timestamp,
}

/// An intent that was given up.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct AbandonedApiKey {
    /// When it was given up.
    pub since: Timestamp,
    /// The end that was asked for.
    pub expires: Timestamp,
}

impl ApiKeyRecord {
    /// Reads the annotation; one that is damaged is as good as none, and that is told.
    #[must_use]
    pub fn parse(text: Option<&str>) -> (Self, bool) {
        match text.map(serde_json::from_str) {
            Some(Ok(record)) => (record, false),
            Some(Err(_)) => (Self::default(), true),
            None => (Self::default(), false),
        }
    }

    /// The annotation to write; none where there is nothing to remember.
    #[must_use]
    pub fn text(&self) -> Option<String> {
        (*self != Self::default())
            .then(|| serde_json::to_string(self).ok())
            .flatten()
    }

    /// Gives up the intent that is under way, if any.
    pub fn give_up(&mut self, now: Timestamp) {
        if let Some(ApiKeyIntent { expires, .. }) = self.intent.take() {
            cut(&mut self.abandoned);
            self.abandoned.push(AbandonedApiKey {
                since: now,
                expires,
            });
        }
    }

    /// Has a key ended once its overlap is over.
    pub fn replaced(&mut self, key: RecordedApiKey, now: Timestamp) {
        if self.previous.iter().all(|previous| previous.key != key) {
            cut(&mut self.previous);
            self.previous.push(PreviousApiKey { key, since: now });
        }
    }
}

/// Makes room for one more; what is dropped here ends by itself.
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
            id,
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
