//! Reads what is stored about an object's metadata from its bytes, without decoding the rest. Pure.
//!
//! An author may give a pod 60,000 annotations or a megabyte of labels, and the server adds as much of managedFields:
//! all of that is skipped. The caller decides the maximum length of a value.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeSet;

use jiff::Timestamp;
use kube::api::ObjectMeta;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use sidescale_core::secret::FIELD_MANAGER;
use sidescale_webhook::annotations::deciding;

mod fields;

use fields::each_element;
pub(crate) use fields::{MetadataFields, each_pair};
use sidescale_webhook::keys::{INJECT, PREFIX};

/// Labels for the version of a pod's workload.
const HASHES: [&str; 2] = ["pod-template-hash", "rollouts-pod-template-hash"];

/// More than any name in Kubernetes; an owner's may have a megabyte.
const LONGEST_NAME: usize = 320;

/// Maximum number of annotations under our prefix without effect: for a namespace they are reported, the first of them
/// by name.
const MOST_UNKNOWN: usize = 16;

/// Maximum number of labels of a namespace that are stored regardless of the policy, so that a new policy finds them.
const MOST_LABELS: usize = 64;

type Pairs = Vec<(Box<str>, Box<str>)>;

/// What is stored about an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObjectMetadata {
    pub name: Box<str>,
    /// Its namespace; empty for objects without one.
    pub namespace: Box<str>,
    pub version: Box<str>,
    /// Its uid, if valid.
    pub uid: Option<u128>,
    /// Creation time in seconds, the precision of the API server.
    pub created: i64,
    /// Whether it is being deleted.
    pub leaving: bool,
    /// Its controller.
    pub owner: Option<ControllerRef>,
    /// The labels that matter.
    pub labels: Pairs,
    /// The annotations that matter.
    pub annotations: Pairs,
    /// Its last writers.
    pub last_write: LastWrite,
}

/// Controller of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControllerRef {
    pub kind: Box<str>,
    pub name: Box<str>,
    /// Its uid, if valid.
    pub uid: Option<u128>,
}

/// The last writers of an object. The server records seconds, so there may be several.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LastWrite {
    at: Option<Timestamp>,
    ours: bool,
    other: bool,
    /// The first other manager in that second.
    named: Option<Box<str>>,
}

/// An event of a watch, with the bytes of its object.
#[derive(Deserialize)]
pub(crate) struct Line<'a> {
    #[serde(borrow, rename = "type")]
    pub(crate) kind: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) object: &'a RawValue,
}

/// The object of a bookmark.
#[derive(Deserialize)]
pub(crate) struct Bookmark {
    pub(crate) metadata: Mark,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Mark {
    pub(crate) resource_version: String,
    #[serde(default)]
    pub(crate) annotations: Marks,
}

#[derive(Default, Deserialize)]
pub(crate) struct Marks {
    #[serde(default, rename = "k8s.io/initial-events-end")]
    pub(crate) initial_events_end: Option<IgnoredAny>,
}

/// The fields around the objects of a list.
#[derive(Deserialize)]
pub(crate) struct Frame {
    #[serde(default)]
    pub(crate) metadata: Paging,
    // An empty array; otherwise the answer is not a list of objects.
    #[serde(default, rename = "items")]
    _items: Option<[(); 0]>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Paging {
    #[serde(default)]
    pub(crate) resource_version: Option<String>,
    #[serde(default, rename = "continue")]
    pub(crate) next: Option<String>,
}

#[derive(Deserialize)]
struct Object<'a> {
    #[serde(borrow)]
    metadata: MetadataFields<'a>,
}

#[derive(Deserialize)]
struct OwnerRef<'a> {
    #[serde(borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow, default)]
    uid: Option<Cow<'a, str>>,
    #[serde(default)]
    controller: Option<bool>,
}

#[derive(Deserialize)]
struct Writer<'a> {
    #[serde(borrow, default)]
    manager: Option<Cow<'a, str>>,
    #[serde(default)]
    time: Option<Timestamp>,
}

impl ObjectMetadata {
    /// Reads what matters about an injected pod; includes the labels in `selecting`, which may choose a profile.
    ///
    /// # Errors
    /// The bytes are not an object of Kubernetes.
    pub fn of_pod(bytes: &[u8], selecting: &BTreeSet<&str>) -> serde_json::Result<Self> {
        let fields = serde_json::from_slice::<Object<'_>>(bytes)?.metadata;
        let mut labels = Pairs::new();
        each_pair(
            fields.labels,
            |key| HASHES.contains(&key) || selecting.contains(key),
            |key, value| put(&mut labels, key, value),
        )?;
        let mut annotations = Pairs::new();
        each_pair(
            fields.annotations,
            |key| deciding(key, "").is_some(),
            |key, value| {
                if let Some(value) = deciding(key, value) {
                    put(&mut annotations, key, value);
                }
            },
        )?;
        let mut owner = None;
        each_element(fields.owner_references, |one: OwnerRef<'_>| {
            if one.controller == Some(true) && owner.is_none() {
                owner = Some(ControllerRef::of(&one.kind, &one.name, one.uid.as_deref()));
            }
        })?;
        Ok(Self {
            owner,
            labels,
            annotations,
            ..Self::named(&fields)
        })
    }

    /// Reads the version of a Secret, and its last writers.
    ///
    /// # Errors
    /// The bytes are not an object of Kubernetes.
    pub fn of_secret(bytes: &[u8]) -> serde_json::Result<Self> {
        let fields = serde_json::from_slice::<Object<'_>>(bytes)?.metadata;
        Ok(Self {
            last_write: LastWrite::read(fields.managed_fields)?,
            ..Self::named(&fields)
        })
    }

    /// Reads what matters for a namespace's pods; beyond a usual number of labels, only those in `selecting`.
    ///
    /// # Errors
    /// The bytes are not an object of Kubernetes.
    pub fn of_namespace(bytes: &[u8], selecting: &BTreeSet<&str>) -> serde_json::Result<Self> {
        let fields = serde_json::from_slice::<Object<'_>>(bytes)?.metadata;
        let labels = RefCell::new(Pairs::new());
        each_pair(
            fields.labels,
            |key| labels.borrow().len() < MOST_LABELS || key == INJECT || selecting.contains(key),
            |key, value| put(&mut labels.borrow_mut(), key, value),
        )?;
        let labels = labels.into_inner();
        let mut annotations = Pairs::new();
        let mut unknown = 0;
        each_pair(
            fields.annotations,
            |key| key.starts_with(PREFIX),
            |key, value| match deciding(key, value) {
                Some(value) => put(&mut annotations, key, value),
                None if unknown < MOST_UNKNOWN => {
                    unknown += 1;
                    put(&mut annotations, cut(key), "");
                }
                None => {}
            },
        )?;
        Ok(Self {
            labels,
            annotations,
            ..Self::named(&fields)
        })
    }

    /// Converts a pod that was read as a whole, for a command that reads once and exits.
    pub(crate) fn of_read_pod(metadata: &ObjectMeta) -> Self {
        let owners = metadata.owner_references.iter().flatten();
        let owner = owners
            .filter(|owner| owner.controller == Some(true))
            .map(|owner| ControllerRef::of(&owner.kind, &owner.name, Some(&owner.uid)))
            .next();
        Self {
            name: metadata.name.as_deref().unwrap_or_default().into(),
            namespace: metadata.namespace.as_deref().unwrap_or_default().into(),
            version: Box::default(),
            uid: metadata.uid.as_deref().and_then(parsed),
            created: metadata
                .creation_timestamp
                .as_ref()
                .map_or(0, |time| time.0.as_second()),
            leaving: metadata.deletion_timestamp.is_some(),
            owner,
            labels: boxed(metadata.labels.iter().flatten()),
            annotations: boxed(metadata.annotations.iter().flatten()),
            last_write: LastWrite::default(),
        }
    }

    fn named(fields: &MetadataFields<'_>) -> Self {
        let text = |field: &Option<Cow<'_, str>>| cut(field.as_deref().unwrap_or_default()).into();
        Self {
            name: text(&fields.name),
            namespace: text(&fields.namespace),
            version: text(&fields.resource_version),
            uid: fields.uid.as_deref().and_then(parsed),
            created: fields.creation_timestamp.map_or(0, Timestamp::as_second),
            leaving: fields.deletion_timestamp.is_some(),
            ..Self::default()
        }
    }
}

impl ControllerRef {
    fn of(kind: &str, name: &str, uid: Option<&str>) -> Self {
        Self {
            kind: cut(kind).into(),
            name: cut(name).into(),
            uid: uid.and_then(parsed),
        }
    }
}

impl LastWrite {
    /// Whether Sidescale wrote it, beyond doubt.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.ours && !self.other
    }

    /// Returns the other writer, if known: of two in one second, the one that is not Sidescale.
    #[must_use]
    pub fn by_other(&self) -> Option<&str> {
        self.named.as_deref()
    }

    /// Reads it from managedFields, one entry at a time; skips the fields that an entry names.
    pub(crate) fn read(managed_fields: Option<&RawValue>) -> serde_json::Result<Self> {
        let mut last = Self::default();
        each_element(managed_fields, |writer: Writer<'_>| {
            last.add(writer.manager.as_deref(), writer.time);
        })?;
        Ok(last)
    }

    fn add(&mut self, manager: Option<&str>, at: Option<Timestamp>) {
        if at < self.at {
            return;
        }
        if at > self.at {
            *self = Self {
                at,
                ..Self::default()
            };
        }
        match manager {
            Some(FIELD_MANAGER) => self.ours = true,
            Some(name) => {
                self.other = true;
                self.named.get_or_insert_with(|| cut(name).into());
            }
            None => self.other = true,
        }
    }
}

/// Stores a pair; the last of two with one key counts.
fn put(pairs: &mut Pairs, key: &str, value: &str) {
    match pairs.iter_mut().find(|(known, _)| **known == *key) {
        Some((_, known)) => *known = value.into(),
        None => pairs.push((key.into(), value.into())),
    }
}

fn boxed<'a>(pairs: impl Iterator<Item = (&'a String, &'a String)>) -> Pairs {
    pairs
        .map(|(key, value)| (key.as_str().into(), value.as_str().into()))
        .collect()
}

fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(LONGEST_NAME)]
}

fn parsed(uid: &str) -> Option<u128> {
    let uid = uuid::Uuid::parse_str(uid).ok()?;
    Some(uid.as_u128())
}

#[cfg(test)]
mod tests;
