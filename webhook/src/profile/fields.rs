//! Kubernetes' own fields, as far as an override may set them. Pure.
//!
//! The API server drops an unknown field, and refuses each pod for a value of the wrong kind: both are found
//! when the configuration is read. Kubernetes adds fields now and then; `webhook/tests/overlay.rs` stops compiling at new ones.

use serde_json::{Map, Value};

use super::error::PolicyError;
use crate::forms;

/// Accepted form of a value.
#[derive(Clone, Copy, Debug)]
pub(super) enum FieldForm {
    /// Anything: the level *restricted* decides.
    Any,
    /// `true` or `false`.
    Switch,
    /// A text.
    Text,
    /// A number of 32 bits that is not negative.
    Number,
    /// A port's number.
    PortNumber,
    /// A port's number or name.
    Port,
    /// A quantity, which may be written as a number.
    Quantity,
    /// A list.
    List(&'static FieldForm),
    /// A map with these fields.
    Fields(&'static [Field]),
}

/// Whether a field is required.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    May,
    Must,
    /// Exactly one of all fields with this need.
    One,
}

/// One field of a map.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field(&'static str, Need, FieldForm);

use FieldForm::{Any, Fields, List, Number, Port, PortNumber, Quantity, Switch, Text};
use Need::{May, Must, One};

/// Fields of a variable; `overlay` checks the required ones, and names the variable in the error.
pub(super) const VARIABLE: FieldForm = Fields(&[
    Field("name", May, Text),
    Field("value", May, Text),
    Field(
        "valueFrom",
        May,
        Fields(&[
            Field("configMapKeyRef", One, KEY),
            Field("fieldRef", One, FIELD),
            // Since 1.34.
            Field("fileKeyRef", One, KEY_OF_FILE),
            Field("resourceFieldRef", One, RESOURCE),
            Field("secretKeyRef", One, KEY),
        ]),
    ),
]);

const KEY: FieldForm = Fields(&[
    Field("name", Must, Text),
    Field("key", Must, Text),
    Field("optional", May, Switch),
]);

const FIELD: FieldForm = Fields(&[
    Field("apiVersion", May, Text),
    Field("fieldPath", Must, Text),
]);

const KEY_OF_FILE: FieldForm = Fields(&[
    Field("volumeName", Must, Text),
    Field("path", Must, Text),
    Field("key", Must, Text),
    Field("optional", May, Switch),
]);

const RESOURCE: FieldForm = Fields(&[
    Field("containerName", May, Text),
    Field("resource", Must, Text),
    Field("divisor", May, Quantity),
]);

/// Fields of a mount; `overlay` checks the required ones, and names the volume or path in the error.
pub(super) const MOUNT: FieldForm = Fields(&[
    Field("name", May, Text),
    Field("mountPath", May, Text),
    Field("subPath", May, Text),
    Field("subPathExpr", May, Text),
    Field("readOnly", May, Switch),
    Field("recursiveReadOnly", May, Text),
    Field("mountPropagation", May, Text),
]);

/// Fields of a probe.
pub(super) const PROBE: FieldForm = Fields(&[
    Field("exec", One, Fields(&[Field("command", Must, List(&Text))])),
    Field(
        "grpc",
        One,
        Fields(&[Field("port", Must, PortNumber), Field("service", May, Text)]),
    ),
    Field(
        "httpGet",
        One,
        Fields(&[
            Field("port", Must, Port),
            Field("path", May, Text),
            Field("scheme", May, Text),
            Field("host", May, Text),
            Field("httpHeaders", May, List(&HEADER)),
        ]),
    ),
    Field(
        "tcpSocket",
        One,
        Fields(&[Field("port", Must, Port), Field("host", May, Text)]),
    ),
    Field("initialDelaySeconds", May, Number),
    Field("periodSeconds", May, Number),
    Field("timeoutSeconds", May, Number),
    Field("successThreshold", May, Number),
    Field("failureThreshold", May, Number),
    Field("terminationGracePeriodSeconds", May, Number),
]);

const HEADER: FieldForm = Fields(&[Field("name", Must, Text), Field("value", Must, Text)]);

/// Fields of a container's security context.
pub(super) const CONTEXT: FieldForm = Fields(&[
    Field("allowPrivilegeEscalation", May, Switch),
    Field("appArmorProfile", May, Any),
    Field(
        "capabilities",
        May,
        Fields(&[
            Field("add", May, List(&Text)),
            Field("drop", May, List(&Text)),
        ]),
    ),
    Field("privileged", May, Switch),
    Field("procMount", May, Any),
    Field("readOnlyRootFilesystem", May, Switch),
    Field("runAsGroup", May, Number),
    Field("runAsNonRoot", May, Switch),
    Field("runAsUser", May, Number),
    Field("seLinuxOptions", May, Any),
    Field(
        "seccompProfile",
        May,
        Fields(&[
            Field("type", Must, Text),
            Field("localhostProfile", May, Text),
        ]),
    ),
    Field("windowsOptions", May, Any),
]);

impl FieldForm {
    /// Checks a value; removes nulls, which have no effect, and writes quantities as texts.
    pub(super) fn check(&self, path: &str, given: &mut Value) -> Result<(), PolicyError> {
        let fits = match (self, &mut *given) {
            (Fields(fields), Value::Object(given)) => return map(fields, path, given),
            (List(each), Value::Array(given)) => {
                let mut items = given.iter_mut().enumerate();
                return items.try_for_each(|(n, item)| each.check(&format!("{path}[{n}]"), item));
            }
            (Any, _) | (Switch, Value::Bool(_)) | (Text | Port, Value::String(_)) => true,
            (Number, Value::Number(number)) => {
                let number = number.as_u64();
                number.is_some_and(|number| i32::try_from(number).is_ok())
            }
            (Port | PortNumber, Value::Number(number)) => {
                let port = number.as_u64();
                port.is_some_and(|port| port > 0 && u16::try_from(port).is_ok())
            }
            (Quantity, Value::Number(number)) => {
                *given = Value::String(number.to_string());
                return self.check(path, given);
            }
            (Quantity, Value::String(text)) => forms::quantity(text).is_some(),
            _ => false,
        };
        if fits {
            return Ok(());
        }
        Err(PolicyError::Value {
            path: path.to_owned(),
            value: given
                .as_str()
                .map_or_else(|| given.to_string(), str::to_owned),
            want: format!("want {}", self.want()),
        })
    }

    const fn want(self) -> &'static str {
        match self {
            Any => "any value",
            Switch => "true or false",
            Text => "a string, in quotes if YAML reads it as something else",
            Number => "a whole number from 0 to 2147483647",
            PortNumber => "a port from 1 to 65535",
            Port => "a port from 1 to 65535, or the name of one",
            Quantity => "a quantity such as 1Mi",
            List(_) => "a list",
            Fields(_) => "a map",
        }
    }
}

fn map(fields: &[Field], path: &str, given: &mut Map<String, Value>) -> Result<(), PolicyError> {
    let names = || fields.iter().map(|Field(name, ..)| *name);
    if let Some(unknown) = given.keys().find(|key| names().all(|name| name != *key)) {
        let path = format!("{path}.{unknown}");
        return Err(PolicyError::unknown(path, unknown, names()));
    }
    given.retain(|_, value| !value.is_null());
    for Field(name, need, form) in fields {
        match given.get_mut(*name) {
            Some(value) => form.check(&format!("{path}.{name}"), value)?,
            None if *need == Must => {
                return Err(PolicyError::Missing {
                    path: format!("{path}.{name}"),
                    want: form.want(),
                });
            }
            None => {}
        }
    }
    let one = fields.iter().filter(|Field(_, need, _)| *need == One);
    let one: Vec<&str> = one.map(|Field(name, ..)| *name).collect();
    let there: Vec<&str> = one
        .iter()
        .copied()
        .filter(|name| given.contains_key(*name))
        .collect();
    if one.is_empty() || there.len() == 1 {
        return Ok(());
    }
    Err(PolicyError::Value {
        path: path.to_owned(),
        value: there.join(", "),
        want: format!("want exactly one of {}", one.join(", ")),
    })
}
