//! What a Secret remembers of its keys: one JSON document beside them, moved by the same write. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use sidescale_webhook::identity::{self, POD_SECRET};

use super::demand::SecretRef;
use crate::clock::after;
use crate::control_plane::KeyId;
use crate::store::StoredSecret;

mod bounds;
mod key;

pub use key::{Abandoned, Asked, Intent, Issued, KeyRecord, Origin, Previous};

/// Is the data key that holds the record.
pub const DATA_KEY: &str = "sidescale.json";

/// Is the form that this program writes; a record with a greater number is left alone.
pub const VERSION: u32 = 1;

/// How long a lost intent's key is looked for: a create may still be under way when its writer is given up.
pub const ABANDONED_FOR: Duration = Duration::from_secs(600);

/// Largest document that is read, in bytes: what 2,000 keys of single pods need, and less than a Secret may hold.
pub const LARGEST: usize = 7 * (1 << 20) / 8;

/// Remembers every key of one Secret, by data key.
///
/// A tenant can write it, so it speaks for its own namespace alone, and `super::owner` says of which keys.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// Form of the document.
    pub version: u32,
    /// Namespace of the Secret that it was written into; empty before the first write.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Uid of that namespace; empty where it was not known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace_uid: String,
    /// Name of that Secret.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub secret: String,
    /// The keys by data key.
    #[serde(default, deserialize_with = "bounds::keys")]
    pub keys: BTreeMap<String, KeyRecord>,
    /// The Secret that the document was written into, where that is another one: it was copied, and none of it counts.
    #[serde(skip)]
    pub copied_from: Option<SecretRef>,
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
    /// It is larger than any that this program writes.
    #[error(
        "data key \"{DATA_KEY}\" has {found} bytes, more than {LARGEST}: delete that data key to have all keys made anew"
    )]
    TooLarge {
        /// Its size in bytes.
        found: usize,
    },
    /// The Secret around it has more labels, annotations, owners or data keys than any of ours; its data was not read.
    #[error(
        "it has more labels, annotations, owners or data keys than a Secret of keys may have: take out what others put there"
    )]
    Oversized,
}

impl Default for Record {
    fn default() -> Self {
        Self {
            version: VERSION,
            namespace: String::new(),
            namespace_uid: String::new(),
            secret: String::new(),
            keys: BTreeMap::new(),
            copied_from: None,
        }
    }
}

impl Record {
    /// Reads the record of a Secret; a Secret without one has an empty record.
    ///
    /// # Errors
    /// As for [`Self::parse`].
    pub fn of(secret: &StoredSecret) -> Result<Self, RecordError> {
        if secret.oversized {
            return Err(RecordError::Oversized);
        }
        let name = SecretRef {
            namespace: secret.namespace.clone(),
            name: secret.name.clone(),
        };
        let document = secret.data.get(DATA_KEY);
        Self::parse(document.map(|document| document.as_slice()), &name)
    }

    /// Reads the record from the document in `secret`. Entries whose service and control plane do not give their own data key
    /// are dropped; of a document that was written into another Secret, everything is.
    ///
    /// # Errors
    /// It was written by a newer program, is damaged, or larger than it may be.
    pub fn parse(document: Option<&[u8]>, secret: &SecretRef) -> Result<Self, RecordError> {
        let Some(document) = document else {
            return Ok(Self::default());
        };
        if document.len() > LARGEST {
            let found = document.len();
            return Err(RecordError::TooLarge { found });
        }
        let mut record: Self = serde_json::from_slice(document).map_err(RecordError::Damaged)?;
        if record.version > VERSION {
            return Err(RecordError::Newer {
                found: record.version,
            });
        }
        let SecretRef { namespace, name } = secret;
        let moved = |was: &String, is: &String| !was.is_empty() && was != is;
        if moved(&record.namespace, namespace) || moved(&record.secret, name) {
            let copied_from = SecretRef {
                namespace: record.namespace,
                name: record.secret,
            };
            return Ok(Self {
                copied_from: Some(copied_from),
                ..Self::default()
            });
        }
        let of_pods = name == POD_SECRET;
        record
            .keys
            .retain(|data_key, key| key.is_named(data_key, of_pods));
        Ok(record)
    }

    /// Writes down into which Secret the record goes. The uid of a namespace is written once: a record that was written in an
    /// earlier namespace of that name says so until [`Self::take_over`].
    pub fn belong_to(&mut self, namespace: &str, uid: Option<u128>, secret: &str) {
        namespace.clone_into(&mut self.namespace);
        secret.clone_into(&mut self.secret);
        if let (Some(uid), true) = (uid, self.namespace_uid.is_empty()) {
            self.namespace_uid = uid_text(uid);
        }
    }

    /// Whether it was written in an earlier namespace of that name. Without a uid on either side it was not.
    #[must_use]
    pub fn is_of_earlier_namespace(&self, uid: Option<u128>) -> bool {
        !self.namespace_uid.is_empty() && uid.is_some_and(|uid| uid_text(uid) != self.namespace_uid)
    }

    /// Has the next write name the namespace as it is now. Nodes that joined with keys of others went with the earlier one.
    pub fn take_over(&mut self) {
        self.namespace_uid.clear();
        self.keys.values_mut().for_each(|key| key.lent.clear());
    }

    /// The document to write.
    ///
    /// # Errors
    /// Never in practice: every part of it has a JSON form.
    pub fn document(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(self)
    }

    /// The document to write into a Secret that has `room` bytes left. Where that is not enough, it leaves out what can be found
    /// at the control plane as well, as keys that no Secret knows: those of lost intents first, then replaced keys.
    ///
    /// # Errors
    /// As for [`Self::document`].
    pub fn document_within(&mut self, room: usize) -> Result<Vec<u8>, serde_json::Error> {
        let leave_out: [fn(&mut KeyRecord); 2] =
            [|key| key.abandoned.clear(), |key| key.previous.clear()];
        let mut document = self.document()?;
        for leave_out in leave_out {
            if document.len() <= room {
                break;
            }
            self.keys.values_mut().for_each(leave_out);
            document = self.document()?;
        }
        Ok(document)
    }

    /// The keys in force, with their control planes: these are never expired.
    #[must_use]
    pub fn in_force(&self) -> BTreeSet<(&str, KeyId)> {
        let keys = self.keys.values();
        keys.filter_map(|key| Some((key.control_plane.as_str(), key.current.as_ref()?.id)))
            .collect()
    }
}

impl KeyRecord {
    /// Whether its service and control plane give this data key, in a Secret of keys that pods share or have for themselves.
    fn is_named(&self, data_key: &str, of_pods: bool) -> bool {
        let (service, plane) = (&self.service, &self.control_plane);
        identity::is_service(service)
            && if of_pods {
                identity::digits_of(data_key, service, plane).is_some()
            } else {
                identity::data_key(service, plane) == data_key
            }
    }
}

/// A uid as Kubernetes writes it.
fn uid_text(uid: u128) -> String {
    uuid::Uuid::from_u128(uid).hyphenated().to_string()
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

    fn secret() -> SecretRef {
        SecretRef {
            namespace: "shop".into(),
            name: "headscale-auth-keys".into(),
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
        assert_eq!(Record::parse(Some(&document), &secret()).unwrap(), record);
        assert_eq!(record.in_force(), [("default", KeyId(7))].into());
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
                expires: intent("a", 1_000).expires,
            }
        );
        assert_eq!(
            api.previous[1],
            Previous {
                revoked: false,
                id: KeyId(2),
                expire_at: at(1_060 + 3_600),
                expires: intent("b", 1_050).expires,
            }
        );
    }

    #[test]
    fn what_is_not_a_record_is_refused() {
        assert_eq!(Record::parse(None, &secret()).unwrap(), Record::default());
        assert!(matches!(
            Record::parse(Some(b"{\"version\":2}"), &secret()),
            Err(RecordError::Newer { found: 2 })
        ));
        for damaged in ["", "{}", "[]", "{\"version\":1,\"keys\":[]}", "nonsense"] {
            assert!(
                matches!(
                    Record::parse(Some(damaged.as_bytes()), &secret()),
                    Err(RecordError::Damaged(_))
                ),
                "{damaged}"
            );
        }
        let large = format!("{{\"version\":1{}}}", " ".repeat(LARGEST));
        assert!(matches!(
            Record::parse(Some(large.as_bytes()), &secret()),
            Err(RecordError::TooLarge { found }) if found == large.len()
        ));
    }

    #[test]
    fn what_the_control_plane_knows_as_well_is_left_out_where_there_is_no_room() {
        let mut api = KeyRecord::new("api", "default");
        let overlap = Duration::from_secs(10);
        for n in 1..=3 {
            api.issue(&key(n), &intent("a", 1_000), at(1_000), overlap);
        }
        api.intend(intent("b", 2_000), at(2_000));
        api.intend(intent("c", 3_000), at(3_000));
        let mut record = Record::default();
        record.keys.insert("api-authkey".into(), api);
        let left = |room: usize| {
            let mut record = record.clone();
            let document = record.document_within(room).unwrap();
            let read = Record::parse(Some(&document), &secret()).unwrap();
            assert_eq!(read, record);
            let key = &record.keys["api-authkey"];
            assert!(key.current.is_some() && key.intent.is_some());
            (key.abandoned.len(), key.previous.len())
        };
        let whole = record.document().unwrap().len();
        assert_eq!(left(whole), (1, 2));
        assert_eq!(left(whole - 1), (0, 2));
        assert_eq!(left(300), (0, 0));
        let oversized = StoredSecret {
            oversized: true,
            ..StoredSecret::absent("shop", "headscale-auth-keys")
        };
        let read = Record::of(&oversized);
        assert!(
            matches!(read, Err(RecordError::Oversized)),
            "its data was not read"
        );
    }

    /// The data keys that are left of a document with these entries: data key, service and control plane.
    fn kept(secret: &SecretRef, entries: &[(&str, &str, &str)]) -> Vec<String> {
        let keys = entries.iter().map(|(data_key, service, plane)| {
            let key = KeyRecord::new(service, plane);
            ((*data_key).to_owned(), key)
        });
        let record = Record {
            keys: keys.collect(),
            ..Record::default()
        };
        let document = record.document().unwrap();
        let record = Record::parse(Some(&document), secret).unwrap();
        record.keys.into_keys().collect()
    }

    #[test]
    fn an_entry_under_anothers_data_key_is_dropped() {
        let entries = [
            ("api-authkey", "api", "default"),
            ("api_prod-authkey", "api", "prod"),
            ("web-authkey", "api", "default"),
            ("web_prod-authkey", "web", "default"),
            ("x", "x", "default"),
            ("-authkey", "", "default"),
            ("UP-authkey", "UP", "default"),
            ("api-705ab4f56393-authkey", "api", "default"),
            ("db-705ab4f56393-authkey", "db-705ab4f56393", "default"),
        ];
        assert_eq!(
            kept(&secret(), &entries),
            ["api-authkey", "api_prod-authkey", "db-705ab4f56393-authkey"]
        );
        let pods = SecretRef {
            name: POD_SECRET.into(),
            ..secret()
        };
        assert_eq!(kept(&pods, &entries), ["api-705ab4f56393-authkey"]);
    }

    #[test]
    fn of_a_copy_nothing_counts() {
        let mut record = Record::default();
        record
            .keys
            .insert("api-authkey".into(), KeyRecord::new("api", "default"));
        record.belong_to("shop", Some(7), "headscale-auth-keys");
        let document = record.document().unwrap();
        assert_eq!(Record::parse(Some(&document), &secret()).unwrap(), record);
        for (namespace, name) in [("other", "headscale-auth-keys"), ("shop", "team-keys")] {
            let (namespace, name) = (namespace.to_owned(), name.to_owned());
            let copy = SecretRef { namespace, name };
            let read = Record::parse(Some(&document), &copy).unwrap();
            assert_eq!(read.copied_from, Some(secret()), "{copy}");
            assert!(read.keys.is_empty());
        }
    }

    #[test]
    fn a_record_of_an_earlier_namespace_says_so_until_it_is_taken_over() {
        for (written, now, earlier) in [
            (None, None, false),
            (None, Some(2), false),
            (Some(1), None, false),
            (Some(1), Some(1), false),
            (Some(1), Some(2), true),
        ] {
            let mut record = Record::default();
            let mut key = KeyRecord::new("api", "default");
            key.lent.push(KeyId(7));
            record.keys.insert("api-authkey".into(), key);
            record.belong_to("shop", written, "headscale-auth-keys");
            let document = record.document().unwrap();
            let mut record = Record::parse(Some(&document), &secret()).unwrap();
            let case = format!("{written:?} {now:?}");
            assert_eq!(record.is_of_earlier_namespace(now), earlier, "{case}");
            // Any other write leaves it so.
            record.belong_to("shop", now, "headscale-auth-keys");
            assert_eq!(record.is_of_earlier_namespace(now), earlier, "{case}");
            record.take_over();
            record.belong_to("shop", now, "headscale-auth-keys");
            assert!(!record.is_of_earlier_namespace(now), "{case}");
            assert_eq!(record.keys["api-authkey"].lent, [], "{case}");
        }
        let mut forged = Record {
            namespace_uid: "x".repeat(1_000),
            ..Record::default()
        };
        assert!(forged.is_of_earlier_namespace(Some(1)));
        forged.take_over();
        forged.belong_to("shop", Some(1), "headscale-auth-keys");
        assert_eq!(forged.namespace_uid.len(), 36);
    }

    #[test]
    fn what_is_decoded_is_bounded() {
        let previous =
            r#"{"id":1,"expireAt":"2020-01-01T00:00:00Z","expires":"2020-01-01T00:00:00Z"},"#;
        let endless = r#"{"id":2,"expireAt":"2020-01-01T00:00:00Z"},"#;
        let last = format!("{endless}{}", previous.repeat(bounds::MOST_PREVIOUS));
        let document = format!(
            r#"{{"version":1,"keys":{{"x-authkey":{{"service":"x","controlPlane":"default","previous":[{}{}]}}}}}}"#,
            previous.repeat(4_000),
            last.trim_end_matches(',')
        );
        let record = Record::parse(Some(document.as_bytes()), &secret()).unwrap();
        let kept = &record.keys["x-authkey"].previous;
        assert_eq!(kept.len(), bounds::MOST_PREVIOUS);
        assert!(
            kept.iter().all(|key| key.id == KeyId(1)),
            "one without an end is forgotten"
        );
        let entry =
            |n: usize| format!(r#""a{n}-authkey":{{"service":"a{n}","controlPlane":"default"}}"#);
        let document = |keys: usize| {
            let keys: Vec<_> = (0..keys).map(entry).collect();
            format!(r#"{{"version":1,"keys":{{{}}}}}"#, keys.join(","))
        };
        let most = document(bounds::MOST_KEYS);
        let read = Record::parse(Some(most.as_bytes()), &secret()).unwrap();
        assert_eq!(read.keys.len(), bounds::MOST_KEYS);
        let more = document(bounds::MOST_KEYS + 1);
        let read = Record::parse(Some(more.as_bytes()), &secret());
        assert!(matches!(read, Err(RecordError::Damaged(_))));
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
