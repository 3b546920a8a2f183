//! The record of a Secret's keys: one JSON document beside them, written with them. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sidescale_core::causes;
use sidescale_core::id::KeyId;
use sidescale_core::secret::{SecretRef, StoredSecret};
use sidescale_webhook::identity::{self, POD_SECRET};

mod bounds;
mod key;

pub use key::{Abandoned, DatedKey, Intent, IssuedKey, KeyRecord, KeySpec, Origin, Previous};

/// Data key of the record.
pub const DATA_KEY: &str = "sidescale.json";

/// Version of the document that this program writes; a record with a greater one is not touched.
pub const VERSION: u32 = 1;

/// How long the key of a lost intent is looked for: a create call may still be running when its process is given up.
pub const ABANDONED_FOR: Duration = Duration::from_secs(600);

/// Largest document that is read, in bytes: enough for 2,000 keys of single pods, and less than a Secret may hold.
pub const LARGEST: usize = 7 * (1 << 20) / 8;

/// The record of all keys of one Secret, by data key.
///
/// A tenant can write it, so it speaks only for its own namespace, and `super::owner` decides for which keys.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// Version of the format.
    pub version: u32,
    /// Namespace of the Secret that it was written into; empty before the first write.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Uid of that namespace; empty if it was unknown.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace_uid: String,
    /// Name of that Secret.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub secret: String,
    /// The keys by data key.
    #[serde(default, deserialize_with = "bounds::keys")]
    pub keys: BTreeMap<String, KeyRecord>,
    /// The other Secret that the document was written into, if any: it was copied, so all of it is ignored.
    #[serde(skip)]
    pub copied_from: Option<SecretRef>,
}

/// Why a record is not usable.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// A newer program wrote it.
    #[error(
        "data key \"{DATA_KEY}\" has version {found}, and this version of Sidescale knows only {VERSION}: run the newer \
         version again"
    )]
    Newer {
        /// Version of the document.
        found: u32,
    },
    /// It is not a record.
    #[error(
        "data key \"{DATA_KEY}\" cannot be read ({0}): restore it, or delete that data key to have all keys created again"
    )]
    Damaged(serde_json::Error),
    /// It is larger than this program ever writes.
    #[error(
        "data key \"{DATA_KEY}\" has {found} bytes, more than {LARGEST}: delete that data key to have all keys created again"
    )]
    TooLarge {
        /// Its size in bytes.
        found: usize,
    },
    /// The Secret has more labels, annotations, owners or data keys than Sidescale ever writes; its data was not read.
    #[error(
        "it has more labels, annotations, owners or data keys than a Secret of keys may have: remove what others added"
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
    /// Reads the record of a Secret; without one, the record is empty.
    ///
    /// # Errors
    /// As for [`Self::parse`].
    pub fn of(secret: &StoredSecret) -> Result<Self, RecordError> {
        if secret.oversized {
            return Err(RecordError::Oversized);
        }
        let name = SecretRef::new(&secret.namespace, &secret.name);
        let document = secret.data.get(DATA_KEY);
        Self::parse(document.map(|document| document.as_slice()), &name)
    }

    /// Reads the record of a Secret; the error names the Secret.
    pub fn named(secret: &StoredSecret) -> Result<Self, String> {
        Self::of(secret).map_err(|error| {
            let problem = causes::all(&error);
            format!("Secret {}/{}: {problem}", secret.namespace, secret.name)
        })
    }

    /// Reads the record from the document in `secret`. Drops entries whose data key does not match their service and control plane,
    /// and all entries of a document that was written into another Secret.
    ///
    /// # Errors
    /// A newer program wrote the document, it is damaged, or it is too large.
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

    /// Sets the Secret that the record is written into. The uid of the namespace is set once: a record from an earlier namespace
    /// of that name keeps that uid until [`Self::take_over`].
    pub fn belong_to(&mut self, namespace: &str, uid: Option<u128>, secret: &str) {
        namespace.clone_into(&mut self.namespace);
        secret.clone_into(&mut self.secret);
        if let (Some(uid), true) = (uid, self.namespace_uid.is_empty()) {
            self.namespace_uid = uid_text(uid);
        }
    }

    /// Returns whether it was written in an earlier namespace of that name; if either uid is unknown, it was not.
    #[must_use]
    pub fn is_of_earlier_namespace(&self, uid: Option<u128>) -> bool {
        !self.namespace_uid.is_empty() && uid.is_some_and(|uid| uid_text(uid) != self.namespace_uid)
    }

    /// Makes the next write name the current namespace. Nodes that joined with foreign keys went with the earlier one.
    pub fn take_over(&mut self) {
        self.namespace_uid.clear();
        self.keys.values_mut().for_each(|key| key.lent.clear());
    }

    /// Returns the document to write.
    ///
    /// # Errors
    /// Never in practice: every part has a JSON form.
    pub fn document(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(self)
    }

    /// Returns the document for a Secret with `room` bytes left. If it is too large, leaves out what can also be found at the
    /// control plane, as keys that no Secret knows: keys of lost intents first, then replaced keys.
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

    /// Returns the keys in force, with their control planes: these are never expired.
    #[must_use]
    pub fn in_force(&self) -> BTreeSet<(&str, KeyId)> {
        let keys = self.keys.values();
        keys.filter_map(|key| Some((key.control_plane.as_str(), key.current.as_ref()?.id)))
            .collect()
    }
}

impl KeyRecord {
    /// Returns whether the data key matches its service and control plane, for a Secret of shared keys or of keys of single pods.
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

/// Returns a uid in the form that Kubernetes uses.
fn uid_text(uid: u128) -> String {
    uuid::Uuid::from_u128(uid).hyphenated().to_string()
}

#[cfg(test)]
mod tests;
