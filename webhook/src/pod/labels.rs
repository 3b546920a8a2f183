//! Labels that an operator's selectors ask for: read only if there are such selectors, which is rare. Pure.

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::bounded::Bounded;
use crate::lookup::Lookup;
use crate::text::Text;

/// Labels of a pod that a selector asks for.
#[derive(Debug, Default)]
pub(crate) struct AllLabels<'a>(Vec<(&'a str, Text<'a>)>);

/// A pod whose labels are stored as raw JSON.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct Labelled<'a> {
    #[serde(borrow)]
    metadata: Option<Unread<'a>>,
}

/// Metadata whose labels are stored as raw JSON.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct Unread<'a> {
    #[serde(borrow)]
    pub(crate) labels: Option<&'a RawValue>,
}

impl<'a> Labelled<'a> {
    /// Returns its labels as raw JSON.
    pub(crate) fn labels(self) -> Option<&'a RawValue> {
        self.metadata?.labels
    }
}

impl<'a> AllLabels<'a> {
    /// Reads the `wanted` labels.
    ///
    /// # Errors
    /// If the labels are no map of strings.
    pub(crate) fn read(
        labels: Option<&'a RawValue>,
        wanted: &[&'a str],
    ) -> serde_json::Result<Self> {
        let Some(labels) = labels else {
            return Ok(Self::default());
        };
        let mut json = serde_json::Deserializer::from_str(labels.get());
        Bounded(&mut json).deserialize_map(WantedVisitor(wanted))
    }

    /// Sets one label.
    pub(crate) fn set(&mut self, key: &'a str, value: Text<'a>) {
        self.0.retain(|(known, _)| *known != key);
        self.0.push((key, value));
    }
}

impl Lookup for AllLabels<'_> {
    fn value(&self, key: &str) -> Option<&str> {
        let mut labels = self.0.iter();
        labels
            .find(|(known, _)| *known == key)
            .map(|(_, value)| &**value)
    }

    fn ours(&self) -> Box<dyn Iterator<Item = (&str, &str)> + '_> {
        Box::new(std::iter::empty())
    }
}

struct WantedVisitor<'w, 'de>(&'w [&'de str]);

impl<'de> Visitor<'de> for WantedVisitor<'_, 'de> {
    type Value = AllLabels<'de>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a map of strings")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<AllLabels<'de>, M::Error> {
        let mut labels = AllLabels::default();
        while let Some(key) = map.next_key::<Text<'de>>()? {
            let wanted = self.0.iter().find(|wanted| **wanted == &*key);
            match wanted {
                Some(key) => labels.set(key, map.next_value()?),
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(labels)
    }
}
