//! What a Secret remembers of its keys: one JSON document beside them, moved by the same write. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::clock::after;
use crate::control_plane::{KeyId, PreAuthKey};

/// Is the data key that holds the record.
pub const DATA_KEY: &str = "sidescale.json";

/// Is the form that this program writes; a record with a greater number is left alone.
pub const VERSION: u32 = 1;

/// How long a lost intent's key is looked for: a create may still be under way when its writer is given up.
pub const ABANDONED_FOR: Duration = Duration::from_secs(600);

/// Bounds how many lost intents of a key are remembered.
const MOST_ABANDONED: usize = 32;

/// Bounds how many keys of others are remembered for one of ours.
const MOST_LENT: usize = 8;

/// Remembers every key of one Secret, by data key.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Record {
    /// Form of the document.
    pub version: u32,
    /// The keys by data key.
    #[serde(default)]
    pub keys: BTreeMap<String, KeyRecord>,
}

/// Remembers one key: what is in force, what went before, what is being made.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyRecord {
    /// The identity of the pods that use it.
    pub service: String,
    /// Name of the control plane that made it.
    pub control_plane: String,
    /// The key whose value stands in the Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<Issued>,
    /// Keys that went before and are still valid, until their overlap ends.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub previous: Vec<Previous>,
    /// The key that is being made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intent: Option<Intent>,
    /// Intents whose end nobody saw: a key with that fingerprint is ours, and nobody has its value.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub abandoned: Vec<Abandoned>,
    /// Keys of others that people put into the Secret, the latest last: pods have joined with them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lent: Vec<KeyId>,
    /// Since when no pod has needed it, as far as that was seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unused_since: Option<Timestamp>,
    /// The key that the one pod it is for has joined with: nobody needs another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joined_with: Option<KeyId>,
}

/// What was asked of a key; a change of any of it makes another key.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Asked {
    /// Headscale user.
    pub user: String,
    /// Tags, sorted.
    #[serde(default)]
    pub tags: Vec<String>,
    /// Whether it may be used more than once.
    pub reusable: bool,
    /// Whether its nodes are ephemeral.
    pub ephemeral: bool,
}

/// A key that was made.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Issued {
    /// Its id at the control plane.
    pub id: KeyId,
    /// When it was made.
    pub created: Timestamp,
    /// When it ends.
    pub expires: Timestamp,
    /// Who made it.
    #[serde(default, skip_serializing_if = "Origin::is_ours")]
    pub origin: Origin,
    /// What was asked.
    #[serde(flatten)]
    pub asked: Asked,
}

/// Says who made a key, and so whether it is ours to end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Origin {
    /// We did.
    #[default]
    Ours,
    /// A person put it into the Secret; it is of a user that we made.
    Hand,
    /// As that, and of another user: it is never ended by us.
    Foreign,
}

impl Origin {
    fn is_ours(&self) -> bool {
        *self == Self::Ours
    }
}

/// A key that was replaced.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Previous {
    /// Its id at the control plane.
    pub id: KeyId,
    /// When we end it.
    pub expire_at: Timestamp,
    /// When it ends by itself; tells it from another key that got its id after a restore.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
}

/// A key that is about to be made.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Intent {
    /// Names this attempt.
    pub op: String,
    /// Names the process that makes it.
    pub writer: String,
    /// When it began.
    pub started_at: Timestamp,
    /// The exact end that is asked for: its sub-second part is the key's fingerprint.
    pub expires: Timestamp,
    /// What is asked.
    #[serde(flatten)]
    pub asked: Asked,
}

/// An intent that was given up.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Abandoned {
    /// When it was given up.
    pub since: Timestamp,
    /// The intent; a key just like it may have been made.
    pub intent: Intent,
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

impl KeyRecord {
    /// A key that nobody made yet.
    #[must_use]
    pub fn new(service: &str, control_plane: &str) -> Self {
        Self {
            service: service.to_owned(),
            control_plane: control_plane.to_owned(),
            current: None,
            previous: Vec::new(),
            intent: None,
            abandoned: Vec::new(),
            lent: Vec::new(),
            unused_since: None,
            joined_with: None,
        }
    }

    /// The key that its pods join with; once a single pod has joined, the one that it did.
    #[must_use]
    pub fn joins_with(&self) -> Option<KeyId> {
        let current = self.current.as_ref().map(|current| current.id);
        self.joined_with.or(current)
    }

    /// Whether nothing is left to remember.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.current.is_none()
            && self.previous.is_empty()
            && self.intent.is_none()
            && self.abandoned.is_empty()
    }

    /// Whether that key stands or stood in the Secret: its id alone may be another's after a restore.
    #[must_use]
    pub fn holds(&self, id: KeyId, expires: Timestamp) -> bool {
        let current = self.current.as_ref();
        let current = current.is_some_and(|key| (key.id, key.expires) == (id, expires));
        let previous = |key: &Previous| (key.id, key.expires) == (id, Some(expires));
        current || self.previous.iter().any(previous)
    }

    /// Has previous keys end one overlap from now at the latest, and counts the age of lost intents from now at the latest.
    pub fn bring_back(&mut self, now: Timestamp, overlap: Duration) {
        for previous in &mut self.previous {
            previous.expire_at = previous.expire_at.min(after(now, overlap));
        }
        for abandoned in &mut self.abandoned {
            abandoned.since = abandoned.since.min(now);
        }
    }

    /// Gives up the intent that is under way, if any.
    pub fn give_up(&mut self, now: Timestamp) {
        if let Some(lost) = self.intent.take() {
            // A Secret has its limit; what is dropped here ends by itself.
            let dropped = self.abandoned.len().saturating_sub(MOST_ABANDONED - 1);
            self.abandoned.drain(..dropped);
            self.abandoned.push(Abandoned {
                since: now,
                intent: lost,
            });
        }
    }

    /// Takes up a new intent; one that was under way is given up, and its key looked for later.
    pub fn intend(&mut self, intent: Intent, now: Timestamp) {
        self.give_up(now);
        self.intent = Some(intent);
    }

    /// Puts the key in force that the intent has led to; the one before goes on until `overlap` has passed.
    pub fn issue(&mut self, key: &PreAuthKey, intent: &Intent, now: Timestamp, overlap: Duration) {
        let issued = Issued {
            id: key.id,
            created: now,
            expires: intent.expires,
            origin: Origin::Ours,
            asked: intent.asked.clone(),
        };
        self.retire(now, overlap);
        self.current = Some(issued);
        self.intent = None;
    }

    /// Takes over a key that a person put in the place of ours, as if it were what pods ask for.
    pub fn adopt(&mut self, adopted: Issued, now: Timestamp, overlap: Duration) {
        self.give_up(now);
        self.retire(now, overlap);
        self.previous.retain(|previous| previous.id != adopted.id);
        self.lent.retain(|id| *id != adopted.id);
        if adopted.origin == Origin::Foreign {
            self.lent.push(adopted.id);
            let too_many = self.lent.len().saturating_sub(MOST_LENT);
            self.lent.drain(..too_many);
        }
        self.current = Some(adopted);
    }

    /// Takes the key out of force; it goes on until `overlap` has passed.
    pub fn retire(&mut self, now: Timestamp, overlap: Duration) {
        let old = self.current.take();
        if let Some(old) = old.filter(|old| old.origin != Origin::Foreign) {
            self.previous.push(Previous {
                id: old.id,
                // Not earlier because it ends by itself: the clock that says so may be wrong.
                expire_at: after(now, overlap),
                expires: Some(old.expires),
            });
        }
    }

    /// Takes a key of one pod out of force: it ends now, unless it was used up or is over.
    pub fn retire_own(&mut self, now: Timestamp) {
        let ended = |key: &Issued| self.joined_with == Some(key.id) || now >= key.expires;
        if self.current.as_ref().is_some_and(ended) {
            self.current = None;
        }
        self.retire(now, Duration::ZERO);
    }

    /// Ends what went before at once: somebody may have it who should not.
    pub fn revoke_previous(&mut self, now: Timestamp) {
        for previous in &mut self.previous {
            previous.expire_at = previous.expire_at.min(now);
        }
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
                id: KeyId(1),
                expire_at: at(1_060),
                expires: Some(intent("a", 1_000).expires),
            }
        );
        assert_eq!(
            api.previous[1],
            Previous {
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
