//! Limits of a record, enforced while it is decoded: anybody who may edit the Secret may have written it. Pure.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::key::{KeyRecord, Previous};

/// Maximum number of keys of one Secret: 2,000 pods with their own keys, and as many of deleted pods that have not expired yet.
pub(super) const MOST_KEYS: usize = 4_096;

/// Maximum number of replaced keys that wait for their expiry, per key; a dropped one is found at the control plane, as one that
/// no Secret names.
pub(super) const MOST_PREVIOUS: usize = 128;

/// Decodes the keys; more than [`MOST_KEYS`] are an error.
pub(super) fn keys<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, KeyRecord>, D::Error> {
    deserializer.deserialize_map(BoundedKeys)
}

/// Decodes the last [`MOST_PREVIOUS`] replaced keys. Drops a key without an exact expiry: it cannot be told from another key that
/// got its id later.
pub(super) fn previous<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<Previous>, D::Error> {
    let last: Vec<MaybePrevious> = last::<_, _, MOST_PREVIOUS>(deserializer)?;
    Ok(last.into_iter().filter_map(|one| one.0).collect())
}

/// Decodes the last `MOST` items of a list.
pub(super) fn last<'de, D: Deserializer<'de>, T: Deserialize<'de>, const MOST: usize>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    let last: LastItems<T, MOST> = LastItems::deserialize(deserializer)?;
    Ok(last.0.into())
}

struct BoundedKeys;

impl<'de> Visitor<'de> for BoundedKeys {
    type Value = BTreeMap<String, KeyRecord>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object with at most {MOST_KEYS} keys")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut keys = BTreeMap::new();
        while let Some(data_key) = map.next_key::<String>()? {
            if keys.len() >= MOST_KEYS && !keys.contains_key(&data_key) {
                return Err(A::Error::custom(format_args!("more than {MOST_KEYS} keys")));
            }
            keys.insert(data_key, map.next_value()?);
        }
        Ok(keys)
    }
}

/// The last items of a list of any length.
struct LastItems<T, const MOST: usize>(std::collections::VecDeque<T>);

impl<'de, T: Deserialize<'de>, const MOST: usize> Deserialize<'de> for LastItems<T, MOST> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(LastOf(PhantomData))
    }
}

struct LastOf<T, const MOST: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const MOST: usize> Visitor<'de> for LastOf<T, MOST> {
    type Value = LastItems<T, MOST>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut last = std::collections::VecDeque::new();
        while let Some(item) = seq.next_element()? {
            if last.len() == MOST {
                last.pop_front();
            }
            last.push_back(item);
        }
        Ok(LastItems(last))
    }
}

/// A replaced key; none if it has no exact expiry.
struct MaybePrevious(Option<Previous>);

impl<'de> Deserialize<'de> for MaybePrevious {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct BoundedForm {
            id: sidescale_core::id::KeyId,
            expire_at: jiff::Timestamp,
            expires: Option<jiff::Timestamp>,
            #[serde(default)]
            revoked: bool,
        }
        let BoundedForm {
            id,
            expire_at,
            expires,
            revoked,
        } = BoundedForm::deserialize(deserializer)?;
        Ok(Self(expires.map(|expires| Previous {
            id,
            expire_at,
            expires,
            revoked,
        })))
    }
}
