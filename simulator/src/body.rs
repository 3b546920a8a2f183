//! A request's JSON: the gateway drops unknown fields, 0.30 refuses them. Pure.

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::Flavour;

/// The kind of a field.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum FieldKind {
    Bool,
    /// A number, written as a string.
    Id,
    Text,
    Texts,
    Time,
}

/// A body with known fields of the right kinds.
pub(super) struct BodyFields(Map<String, Value>);

/// Why a body is refused.
pub(super) enum BodyRefusal {
    /// Not JSON, or, for the gateway, a value of another kind.
    Malformed(String),
    /// 0.30: does not match its description.
    Invalid {
        message: &'static str,
        location: String,
        value: Value,
    },
}

impl BodyFields {
    pub(super) fn read(
        body: &[u8],
        flavour: Flavour,
        known: &[(&str, FieldKind)],
    ) -> Result<Self, BodyRefusal> {
        let fields: Map<String, Value> = serde_json::from_slice(body)
            .map_err(|error| BodyRefusal::Malformed(format!("invalid body: {error}")))?;
        let strict = flavour == Flavour::Main;
        for (name, value) in &fields {
            let location = format!("body.{name}");
            let Some((_, kind)) = known.iter().find(|(known, _)| known == name) else {
                if strict {
                    let (message, value) = ("unexpected property", Value::Object(fields.clone()));
                    return Err(BodyRefusal::Invalid {
                        message,
                        location,
                        value,
                    });
                }
                continue;
            };
            if let Some(message) = kind.objection(value, strict) {
                return Err(if strict {
                    BodyRefusal::Invalid {
                        message,
                        location,
                        value: value.clone(),
                    }
                } else {
                    BodyRefusal::Malformed(format!("invalid value for {name}: {value}"))
                });
            }
        }
        Ok(Self(fields))
    }

    pub(super) fn text(&self, name: &str) -> &str {
        self.0.get(name).and_then(Value::as_str).unwrap_or_default()
    }

    pub(super) fn flag(&self, name: &str) -> bool {
        self.0
            .get(name)
            .and_then(Value::as_bool)
            .unwrap_or_default()
    }

    pub(super) fn time(&self, name: &str) -> Option<Timestamp> {
        self.text(name).parse().ok()
    }

    pub(super) fn texts(&self, name: &str) -> Vec<String> {
        let list = self.0.get(name).and_then(Value::as_array);
        list.into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect()
    }

    /// Returns an id; `None` where it is absent, empty or zero, an error where it is not a number.
    pub(super) fn id(&self, name: &str) -> Result<Option<u64>, BodyRefusal> {
        let id = match self.0.get(name) {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::Number(number)) => number.as_u64(),
            Some(Value::String(text)) if text.is_empty() => return Ok(None),
            Some(Value::String(text)) => text.parse().ok(),
            Some(_) => None,
        };
        match id {
            Some(0) => Ok(None),
            Some(id) => Ok(Some(id)),
            None => Err(BodyRefusal::Malformed(format!("invalid {name} id"))),
        }
    }
}

impl FieldKind {
    /// Returns what is wrong with a value. The digits of an id are checked later: that refusal has another status.
    fn objection(self, value: &Value, strict: bool) -> Option<&'static str> {
        let fits = match (self, value) {
            (_, Value::Null) => !strict,
            (Self::Id, Value::Number(_)) => !strict,
            (Self::Id | Self::Text, Value::String(_)) | (Self::Bool, Value::Bool(_)) => true,
            (Self::Time, Value::String(text)) if text.parse::<Timestamp>().is_err() => {
                return Some("expected string to be RFC 3339 date-time");
            }
            (Self::Time, Value::String(_)) => true,
            (Self::Texts, Value::Array(items)) => items.iter().all(Value::is_string),
            _ => false,
        };
        (!fits).then_some(match self {
            Self::Bool => "expected boolean",
            Self::Id | Self::Text | Self::Time => "expected string",
            Self::Texts => "expected array",
        })
    }
}
