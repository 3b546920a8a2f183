//! The fields of an object's metadata as bytes, read one part at a time. Pure.

use std::borrow::Cow;
use std::fmt;

use jiff::Timestamp;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// The fields of metadata that Sidescale uses; those that may be long stay unparsed.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct MetadataFields<'a> {
    #[serde(borrow, default)]
    pub(crate) name: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(crate) namespace: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(crate) resource_version: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(crate) uid: Option<Cow<'a, str>>,
    pub(crate) creation_timestamp: Option<Timestamp>,
    pub(crate) deletion_timestamp: Option<IgnoredAny>,
    #[serde(borrow)]
    pub(crate) labels: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(crate) annotations: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(crate) owner_references: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(crate) finalizers: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(crate) managed_fields: Option<&'a RawValue>,
}

/// Passes the wanted pairs of an object of strings. Unwanted keys are not copied, and each value is unescaped only at
/// its turn.
pub(crate) fn each_pair(
    object: Option<&RawValue>,
    wanted: impl Fn(&str) -> bool,
    take: impl FnMut(&str, &str),
) -> serde_json::Result<()> {
    struct Seed<W, T>(W, T);
    struct FieldKey<'a>(Cow<'a, str>);
    struct FieldValue<'k, T>(&'k str, &'k mut T);

    impl<'de> Deserialize<'de> for FieldKey<'de> {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            struct AnyField;
            impl<'de> Visitor<'de> for AnyField {
                type Value = FieldKey<'de>;

                fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.write_str("a string")
                }

                fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<FieldKey<'de>, E> {
                    Ok(FieldKey(Cow::Borrowed(text)))
                }

                fn visit_str<E: Error>(self, text: &str) -> Result<FieldKey<'de>, E> {
                    Ok(FieldKey(Cow::Owned(text.to_owned())))
                }
            }
            deserializer.deserialize_str(AnyField)
        }
    }

    impl<'de, T: FnMut(&str, &str)> DeserializeSeed<'de> for FieldValue<'_, T> {
        type Value = ();

        fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
            deserializer.deserialize_str(self)
        }
    }

    impl<'de, T: FnMut(&str, &str)> Visitor<'de> for FieldValue<'_, T> {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a string")
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
            (self.1)(self.0, text);
            Ok(())
        }
    }

    impl<'de, W: Fn(&str) -> bool, T: FnMut(&str, &str)> Visitor<'de> for Seed<W, T> {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
            while let Some(FieldKey(key)) = map.next_key::<FieldKey<'de>>()? {
                if (self.0)(&key) {
                    map.next_value_seed(FieldValue(&key, &mut self.1))?;
                } else {
                    map.next_value::<IgnoredAny>()?;
                }
            }
            Ok(())
        }
    }

    let Some(object) = object else { return Ok(()) };
    serde_json::Deserializer::from_str(object.get()).deserialize_map(Seed(wanted, take))
}

/// Passes the elements of an array, one at a time.
pub(super) fn each_element<'a, T: Deserialize<'a>>(
    array: Option<&'a RawValue>,
    take: impl FnMut(T),
) -> serde_json::Result<()> {
    struct Seed<F, T>(F, std::marker::PhantomData<T>);

    impl<'de, F: FnMut(T), T: Deserialize<'de>> Visitor<'de> for Seed<F, T> {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an array")
        }

        fn visit_seq<A: SeqAccess<'de>>(mut self, mut array: A) -> Result<(), A::Error> {
            while let Some(element) = array.next_element()? {
                (self.0)(element);
            }
            Ok(())
        }
    }

    let Some(array) = array else { return Ok(()) };
    let seed = Seed(take, std::marker::PhantomData);
    serde_json::Deserializer::from_str(array.get()).deserialize_seq(seed)
}
