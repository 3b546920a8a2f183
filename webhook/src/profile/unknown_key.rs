//! Finds a key that the configuration file does not have, and names those it has instead: its JSON Schema lists them. Pure.

use serde::{Deserialize, Deserializer};
use serde_ignored::Path;
use serde_json::{Map, Value};

use super::{Config, PolicyError};

impl<'de> Deserialize<'de> for Config {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut unknown_key = None;
        let mut note = |path: Path<'_>| {
            unknown_key.get_or_insert_with(|| unknown(keys(&path)));
        };
        let config = Self::deserialize(serde_ignored::Deserializer::new(deserializer, &mut note))?;
        Ok(Self {
            unknown_key,
            ..config
        })
    }
}

/// Returns the error of an unknown key, by the keys that lead to it and itself.
fn unknown(mut keys: Vec<String>) -> PolicyError {
    let path = keys.join(".");
    let key = keys.pop().unwrap_or_default();
    if key == "allowKernelMode" && matches!(&*keys, [top, _] if top == "profiles") {
        return PolicyError::NotSupported { path };
    }
    let schema = Config::schema();
    let accepted = properties(&schema, &keys).into_iter().flat_map(Map::keys);
    PolicyError::unknown(path, &key, accepted.map(String::as_str))
}

/// Returns the keys that lead to a place; the numbers of items are left out.
fn keys(path: &Path<'_>) -> Vec<String> {
    match path {
        Path::Root => Vec::new(),
        Path::Map { parent, key } => {
            let mut keys = keys(parent);
            keys.push(key.clone());
            keys
        }
        Path::Seq { parent, .. }
        | Path::Some { parent }
        | Path::NewtypeStruct { parent }
        | Path::NewtypeVariant { parent } => keys(parent),
    }
}

/// Returns the properties that a schema lists for the map at a path.
fn properties<'a>(schema: &'a Value, path: &[String]) -> Option<&'a Map<String, Value>> {
    let here = schema.get("properties").and_then(Value::as_object);
    let found = match path {
        [] => here,
        [key, below @ ..] => here
            .and_then(|here| here.get(key))
            .or(schema.get("additionalProperties"))
            .and_then(|schema| properties(schema, below)),
    };
    let choices = schema.get("anyOf").and_then(Value::as_array);
    let mut others = choices.into_iter().flatten().chain(schema.get("items"));
    found.or_else(|| others.find_map(|schema| properties(schema, path)))
}
