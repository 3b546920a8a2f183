//! What a Secret remembers of its keys: one JSON document beside them, moved by the same write. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::clock::after;
use crate::control_plane::KeyId;

mod key;

pub use key::{Abandoned, Asked, Intent, Issued, KeyRecord, Origin, Previous};

/// Is the data key that holds the record.
pub const DATA_KEY: &str = "sidescale.json";

/// Is the form that this program writes; a record with a greater number is left alone.
pub const VERSION: u32 = 1;

/// How long a lost intent's key is looked for: a create may still be under way when its writer is given up.
pub const ABANDONED_FOR: Duration = Duration::from_secs(600);

/// Remembers every key of one Secret, by data key.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Record {
    /// Form of the document.
    pub version: u32,
    /// The keys by data key.
    #[serde(default)]
    pub keys: BTreeMap<String, KeyRecord>,
}

/// Says why a record is not usable.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// It was written by a newer program.
    #[error(
        "data key \"{DATA_KEY}\" has version {found}, this program knows {VERSION}: run the newer version again"
    )]
    Newer {
        /// The version it names.
        found: u32,
    },
    /// It is no record.
    #[error(
        "data key \"{DATA_KEY}\" cannot be read ({0}): put it back as it was, or delete that data key to have all keys made anew"
    )]
    Damaged(serde_json::Error),
}

impl Default for Record {
    fn default() -> Self {
        Self {
            version: VERSION,
            keys: BTreeMap::new(),
        }
    }
}

impl Record {
    /// Reads the record from a Secret's data; a Secret without one has an empty record.
    ///
    /// # Errors
    /// It was written by a newer program or is damaged.
    pub fn parse(document: Option<&[u8]>) -> Result<Self, RecordError> {
        let Some(document) = document else {
            return Ok(Self::default());
        };
        let record: Self = serde_json::from_slice(document).map_err(RecordError::Damaged)?;
        if record.version > VERSION {
            return Err(RecordError::Newer {
                found: record.version,
            });
        }
        Ok(record)
    }

    /// The document to write.
    ///
    /// # Errors
    /// Never in practice: every part of it has a JSON form.
    pub fn document(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(self)
    }

    /// Whether any key in it is this one: such a key is in force and never ended.
    #[must_use]
    pub fn names(&self, control_plane: &str, id: KeyId) -> bool {
        let current = |key: &KeyRecord| key.current.as_ref().map(|current| current.id);
        self.keys
            .values()
            .any(|key| key.control_plane == control_plane && current(key) == Some(id))
    }
}

/// The end to ask for: `life` from now, with a sub-second part that no other key of ours has.
#[must_use]
pub fn fingerprint(now: Timestamp, life: Duration, random: u64) -> Timestamp {
    // Microseconds: databases behind Headscale keep no more.
    let micros = i32::try_from(random % 1_000_000).unwrap_or_default();
    Timestamp::new(after(now, life).as_second(), micros * 1_000).unwrap_or(Timestamp::MAX)
}

/// Whether two ends are one fingerprint: the same to the microsecond.
#[must_use]
pub fn same_fingerprint(one: Timestamp, other: Timestamp) -> bool {
    one.duration_since(other).abs() < SignedDuration::from_micros(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control_plane::PreAuthKey;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn asked() -> Asked {
        Asked {
            user: "shop.api".into(),
            tags: vec!["tag:web".into()],
            reusable: true,
            ephemeral: true,
        }
    }

    fn intent(op: &str, now: i64) -> Intent {
        let expires = fingerprint(at(now), Duration::from_secs(100), 123_456);
        Intent {
            op: op.into(),
            writer: "w".into(),
            started_at: at(now),
            expires,
            asked: asked(),
        }
    }

    fn key(id: u64) -> PreAuthKey {
        PreAuthKey {
            prefix: None,
            id: KeyId(id),
            user: None,
            reusable: true,
            ephemeral: true,
            used: false,
            expiration: None,
            created_at: None,
            tags: Vec::new(),
        }
    }

    #[test]
    fn a_record_survives_its_document() {
        let mut record = Record::default();
        let mut api = KeyRecord::new("api", "default");
        api.intend(intent("a", 1_000), at(1_000));
        api.issue(
            &key(7),
            &intent("a", 1_000),
            at(1_001),
            Duration::from_secs(3_600),
        );
        api.intend(intent("b", 2_000), at(2_000));
        api.intend(intent("c", 3_000), at(3_000));
        record.keys.insert("api-authkey".into(), api);
        let document = record.document().unwrap();
        assert_eq!(Record::parse(Some(&document)).unwrap(), record);
        assert!(record.names("default", KeyId(7)));
        assert!(!record.names("other", KeyId(7)));
        assert_eq!(
            record.keys["api-authkey"].abandoned,
            [Abandoned {
                since: at(3_000),
                intent: intent("b", 2_000)
            }]
        );
    }

    #[test]
    fn a_replaced_key_ends_after_the_overlap() {
        let mut api = KeyRecord::new("api", "default");
        api.issue(
            &key(1),
            &intent("a", 1_000),
            at(1_000),
            Duration::from_secs(10),
        );
        api.issue(
            &key(2),
            &intent("b", 1_050),
            at(1_050),
            Duration::from_secs(10),
        );
        api.issue(
            &key(3),
            &intent("c", 1_060),
            at(1_060),
            Duration::from_secs(3_600),
        );
        assert_eq!(
            api.previous[0],
            Previous {
                revoked: false,
                id: KeyId(1),
                expire_at: at(1_060),
                expires: Some(intent("a", 1_000).expires),
            }
        );
        assert_eq!(
            api.previous[1],
            Previous {
                revoked: false,
                id: KeyId(2),
                expire_at: at(1_060 + 3_600),
                expires: Some(intent("b", 1_050).expires),
            }
        );
    }

    #[test]
    fn what_is_not_a_record_is_refused() {
        assert_eq!(Record::parse(None).unwrap(), Record::default());
        assert!(matches!(
            Record::parse(Some(b"{\"version\":2}")),
            Err(RecordError::Newer { found: 2 })
        ));
        for damaged in ["", "{}", "[]", "{\"version\":1,\"keys\":[]}", "nonsense"] {
            assert!(
                matches!(
                    Record::parse(Some(damaged.as_bytes())),
                    Err(RecordError::Damaged(_))
                ),
                "{damaged}"
            );
        }
    }

    #[test]
    fn fingerprints_are_exact_to_the_microsecond() {
        let one = fingerprint(at(1_000), Duration::from_secs(60), 7_000_123);
        assert_eq!(one.to_string(), "1970-01-01T00:17:40.000123Z");
        assert!(same_fingerprint(one, one));
        assert!(!same_fingerprint(
            one,
            fingerprint(at(1_000), Duration::from_secs(60), 124)
        ));
    }
}
