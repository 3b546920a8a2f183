//! JSON: lists read item by item without storing them, and output. Pure.

use std::fmt;
use std::marker::PhantomData;

use serde::Serialize;
use serde::de::{Deserialize, Deserializer, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::bounded::Bounded;

/// Reads a list item by item.
pub(crate) fn each_item<'de, D, T>(deserializer: D, take: impl FnMut(T)) -> Result<(), D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    deserializer.deserialize_seq(ItemVisitor(take, PhantomData))
}

/// Reads a list stored as raw JSON, item by item; stops at the first item of another form.
///
/// In requests of an API server every list has its form.
pub(crate) fn each_of<'a, T>(list: Option<&'a RawValue>, take: impl FnMut(T))
where
    T: Deserialize<'a>,
{
    if let Some(list) = list {
        let mut json = serde_json::Deserializer::from_str(list.get());
        let _ = each_item(Bounded(&mut json), take);
    }
}

struct ItemVisitor<F, T>(F, PhantomData<T>);

impl<'de, T: Deserialize<'de>, F: FnMut(T)> Visitor<'de> for ItemVisitor<F, T> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<S: SeqAccess<'de>>(mut self, mut items: S) -> Result<(), S::Error> {
        while let Some(item) = items.next_element()? {
            (self.0)(item);
        }
        Ok(())
    }
}

/// Appends `value` as JSON.
pub(crate) fn write<V: Serialize>(buffer: &mut Vec<u8>, value: &V) {
    #[expect(
        clippy::expect_used,
        reason = "a Vec takes every byte, and our own types have only text as keys"
    )]
    serde_json::to_writer(buffer, value).expect("our own types are JSON");
}
