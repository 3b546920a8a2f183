//! What a Secret remembers of its keys: one JSON document beside them, moved by the same write. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sidescale_webhook::identity::{self, POD_SECRET};

use super::demand::SecretRef;
use crate::control_plane::KeyId;
use crate::store::StoredSecret;

mod bounds;
mod key;

pub use key::{Abandoned, Intent, IssuedKey, KeyRecord, KeySpec, Origin, Previous};

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
        let name = SecretRef::new(&secret.namespace, &secret.name);
        let document = secret.data.get(DATA_KEY);
        Self::parse(document.map(|document| document.as_slice()), &name)
    }

    /// The same; the error names the Secret.
    pub(super) fn named(secret: &StoredSecret) -> Result<Self, String> {
        Self::of(secret).map_err(|error| {
            let error = anyhow::Error::new(error);
            format!("Secret {}/{}: {error:#}", secret.namespace, secret.name)
        })
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

#[cfg(test)]
mod tests;
