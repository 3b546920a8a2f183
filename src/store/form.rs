//! A Secret in the form of the API server: parsed straight from the bytes, without unused fields. Pure.

use std::borrow::Cow;
use std::collections::BTreeMap;

use base64::Engine;
use base64::display::Base64Display;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde::de::Error as _;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;
use sidescale_core::secret::{MANAGED_BY, PreservedFields, StoredSecret};
use sidescale_webhook::keys::PREFIX;
use zeroize::Zeroizing;

use super::limits::{MOST_DATA_KEYS, MOST_LABELS};
use crate::metadata::{LastWrite, MetadataFields, each_pair};

/// Maximum size of the owners, and of the finalizers, as JSON.
const LONGEST_LIST: usize = 64 << 10;

#[derive(Deserialize)]
struct ReadForm<'a> {
    #[serde(borrow)]
    metadata: MetadataFields<'a>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    immutable: Option<bool>,
    #[serde(rename = "type")]
    kind: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WrittenForm<'a> {
    api_version: &'static str,
    kind: &'static str,
    metadata: WrittenMetadata<'a>,
    #[serde(rename = "type")]
    of_type: &'a str,
    data: BTreeMap<&'a str, Encoded<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    immutable: Option<bool>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WrittenMetadata<'a> {
    namespace: &'a str,
    name: &'a str,
    labels: &'a BTreeMap<String, String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: &'a BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resource_version: Option<&'a str>,
    // A PUT without them would remove them.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    owner_references: &'a [OwnerReference],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    finalizers: &'a [String],
}

/// Bytes that are written as base64.
struct Encoded<'a>(&'a [u8]);

impl Serialize for Encoded<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&Base64Display::new(self.0, &STANDARD))
    }
}

/// Returns an error for bytes that are no Secret, without quoting them.
pub(super) fn unreadable() -> serde_json::Error {
    serde_json::Error::custom("an answer that is not a readable Secret")
}

/// Parses a Secret as the API server sends it, and takes the last writer from its managedFields.
///
/// # Errors
/// The bytes are no Secret. The error does not quote them.
pub(super) fn parse(bytes: &[u8]) -> serde_json::Result<StoredSecret> {
    read(bytes).map_err(|_| unreadable())
}

/// A Secret with more parts than Sidescale reads keeps its owner marks, and has no data.
fn read(bytes: &[u8]) -> serde_json::Result<StoredSecret> {
    let ReadForm {
        metadata,
        data,
        immutable,
        kind,
    } = serde_json::from_slice(bytes)?;
    let mut oversized = false;
    let mut room = MOST_LABELS;
    let labels = texts(metadata.labels, &mut room, &mut oversized)?;
    let annotations = texts(metadata.annotations, &mut room, &mut oversized)?;
    let mut values = BTreeMap::new();
    let mut broken = false;
    each_pair(
        data,
        |_| true,
        |key, value| {
            if values.len() >= MOST_DATA_KEYS {
                oversized = true;
            } else if let Ok(value) = STANDARD.decode(value) {
                values.insert(key.to_owned(), Zeroizing::new(value));
            } else {
                broken = true;
            }
        },
    )?;
    if broken {
        return Err(unreadable());
    }
    let owners = bounded(metadata.owner_references, &mut oversized)?;
    let finalizers = bounded(metadata.finalizers, &mut oversized)?;
    if oversized {
        values = BTreeMap::new();
    }
    let last = LastWrite::read(metadata.managed_fields)?;
    Ok(StoredSecret {
        namespace: metadata.namespace.unwrap_or_default().into_owned(),
        name: metadata.name.unwrap_or_default().into_owned(),
        labels,
        annotations,
        data: values,
        revision: metadata.resource_version.map(Cow::into_owned),
        writer: last.by_other().map(str::to_owned),
        kept: PreservedFields {
            kind: kind.unwrap_or_else(|| PreservedFields::default().kind),
            immutable: immutable.unwrap_or_default(),
            owners,
            finalizers,
        },
        oversized,
    })
}

/// Returns the body of a write.
pub(super) fn body(secret: &StoredSecret) -> serde_json::Result<Vec<u8>> {
    let StoredSecret {
        namespace,
        name,
        labels,
        annotations,
        data,
        revision,
        writer: _,
        kept:
            PreservedFields {
                kind,
                immutable,
                owners,
                finalizers,
            },
        oversized: _,
    } = secret;
    serde_json::to_vec(&WrittenForm {
        api_version: "v1",
        kind: "Secret",
        metadata: WrittenMetadata {
            namespace,
            name,
            labels,
            annotations,
            resource_version: revision.as_deref(),
            owner_references: owners,
            finalizers,
        },
        of_type: kind,
        data: data
            .iter()
            .map(|(key, value)| (key.as_str(), Encoded(value)))
            .collect(),
        immutable: immutable.then_some(true),
    })
}

fn texts(
    object: Option<&RawValue>,
    room: &mut usize,
    oversized: &mut bool,
) -> serde_json::Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    each_pair(
        object,
        |_| true,
        |key, value| {
            // The owner can always be determined.
            let marks = key == MANAGED_BY.0 || key.starts_with(PREFIX);
            match room.checked_sub(1) {
                Some(less) => *room = less,
                None => *oversized = true,
            }
            if !*oversized || (marks && found.len() <= MOST_LABELS) {
                found.insert(key.to_owned(), value.to_owned());
            }
        },
    )?;
    Ok(found)
}

fn bounded<'a, T: Deserialize<'a>>(
    list: Option<&'a RawValue>,
    oversized: &mut bool,
) -> serde_json::Result<Vec<T>> {
    match list {
        Some(list) if list.get().len() > LONGEST_LIST => *oversized = true,
        Some(list) => return serde_json::from_str(list.get()),
        None => {}
    }
    Ok(Vec::new())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Secret;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_secret_comes_back_as_it_was_sent() {
        let owner = json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u"});
        let read = json!({"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "immutable": true,
            "metadata": {"namespace": "shop", "name": "keys", "resourceVersion": "7", "labels": {"a": "b"},
                "annotations": {"c": "d\n"}, "ownerReferences": [owner], "finalizers": ["x/y"],
                "managedFields": [{"manager": "argocd", "time": "2026-01-01T00:00:00Z", "fieldsV1": {"f:data": {}}}]},
            "data": {"key": "AAECAw==", "empty": ""}});
        let parsed = parse(read.to_string().as_bytes()).unwrap();
        assert_eq!(*parsed.data["key"], [0, 1, 2, 3]);
        assert_eq!(
            (parsed.writer.as_deref(), parsed.oversized),
            (Some("argocd"), false)
        );
        let mut want = read;
        want["metadata"]
            .as_object_mut()
            .unwrap()
            .remove("managedFields");
        let sent: serde_json::Value = serde_json::from_slice(&body(&parsed).unwrap()).unwrap();
        assert_eq!(sent, want);
        let known: Secret = serde_json::from_value(sent).unwrap();
        assert_eq!(known.data.unwrap()["key"].0, [0, 1, 2, 3]);
        let bare = StoredSecret::absent("shop", "keys");
        let sent: serde_json::Value = serde_json::from_slice(&body(&bare).unwrap()).unwrap();
        assert_eq!(sent["metadata"].as_object().unwrap().len(), 3, "{sent}");
    }

    #[test]
    fn one_with_too_many_parts_shows_whose_it_is_and_no_data() {
        let many = |count: usize, value: &str| {
            let many = (0..count).map(|n| (format!("k{n}"), json!(value)));
            many.collect::<serde_json::Map<_, _>>()
        };
        let ours = json!({MANAGED_BY.0: MANAGED_BY.1});
        for (what, labels, annotations, data, want) in [
            (
                "usual",
                ours.clone(),
                json!({}),
                many(MOST_DATA_KEYS, "AA=="),
                false,
            ),
            (
                "data",
                ours.clone(),
                json!({}),
                many(MOST_DATA_KEYS + 1, ""),
                true,
            ),
            (
                "annotations",
                ours,
                json!(many(MOST_LABELS, "")),
                many(1, ""),
                true,
            ),
        ] {
            let secret = json!({"metadata": {"name": "keys", "labels": labels, "annotations": annotations}, "data": data});
            let parsed = parse(secret.to_string().as_bytes()).unwrap();
            assert_eq!(parsed.oversized, want, "{what}");
            assert_eq!(parsed.data.is_empty(), want, "{what}");
            assert_eq!(parsed.labels[MANAGED_BY.0], MANAGED_BY.1, "{what}");
        }
    }

    #[test]
    fn what_is_no_secret_is_refused_and_not_quoted() {
        for bytes in [
            "",
            "{}",
            r#"{"metadata":{},"data":{"a":"hskey"}}"#,
            r#"{"metadata":{},"immutable":"hskey"}"#,
            r#"{"metadata":{},"data":["hskey"]}"#,
        ] {
            let error = parse(bytes.as_bytes()).unwrap_err().to_string();
            assert!(!error.contains("hskey"), "{error}");
        }
    }
}
