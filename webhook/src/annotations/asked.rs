//! The annotations of pod and namespace by key, the pod's above the namespace's; and what is no key at all. Pure.

use super::{DenyReason, Lookup, NamespaceMetadata, PREFIX, Refusal, Subject};
use crate::forms;

/// Says how far a key of the table is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Support {
    /// Read.
    Now,
    /// Known, and refused.
    NotYet,
    /// Written by us.
    Ours,
}

/// Every key, without the prefix. Those that are read come first, in the order of [`Key`].
pub(crate) const KNOWN: [(&str, Support); 39] = [
    ("inject", Support::Now),
    ("service", Support::Now),
    ("hostname", Support::Now),
    ("control-plane", Support::Now),
    ("tags", Support::Now),
    ("reusable", Support::Now),
    ("auth-key-expiration", Support::Now),
    ("auth-key-rotation-buffer", Support::Now),
    ("auth-key-delivery", Support::Now),
    ("auth-key-secret", Support::Now),
    ("state", Support::Now),
    ("userspace", Support::Now),
    ("wait", Support::Now),
    ("native-sidecar", Support::Now),
    ("cpu-request", Support::Now),
    ("cpu-limit", Support::Now),
    ("memory-request", Support::Now),
    ("memory-limit", Support::Now),
    ("profile", Support::NotYet),
    ("ephemeral", Support::NotYet),
    ("key-mode", Support::NotYet),
    ("accept-dns", Support::NotYet),
    ("accept-routes", Support::NotYet),
    ("advertise-routes", Support::NotYet),
    ("exit-node", Support::NotYet),
    ("extra-args", Support::NotYet),
    ("proxy", Support::NotYet),
    ("proxy-env", Support::NotYet),
    ("serve-config", Support::NotYet),
    ("image", Support::NotYet),
    ("headscale-container", Support::NotYet),
    ("socket-path", Support::NotYet),
    ("api-key-secret", Support::NotYet),
    ("api-key-expiration", Support::NotYet),
    ("api-key-rotation-buffer", Support::NotYet),
    ("server-keys-secret", Support::NotYet),
    ("server-keys-files", Support::NotYet),
    ("server-keys-path", Support::NotYet),
    ("status", Support::Ours),
];

/// A key that is read; the number is its place in [`KNOWN`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Inject,
    Service,
    Hostname,
    ControlPlane,
    Tags,
    Reusable,
    Expiration,
    Buffer,
    Delivery,
    Secret,
    State,
    Userspace,
    Wait,
    NativeSidecar,
    CpuRequest,
    CpuLimit,
    MemoryRequest,
    MemoryLimit,
}

const KEYS: usize = Key::MemoryLimit as usize + 1;

/// A value, and whether the pod itself says it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Value<'a> {
    pub(super) text: &'a str,
    pub(super) on_pod: bool,
}

/// What pod and namespace ask for.
#[derive(Debug)]
pub(super) struct Asked<'a> {
    namespace: &'a str,
    values: [Option<Value<'a>>; KEYS],
    not_built: Option<(&'static str, Value<'a>)>,
}

impl<'a> Asked<'a> {
    pub(super) fn of(subject: &Subject<'a>) -> Self {
        let mut asked = Self {
            namespace: subject.namespace,
            values: [None; KEYS],
            not_built: None,
        };
        if let Some(metadata) = subject.namespace_metadata {
            for (key, text) in &metadata.annotations {
                // A namespace opts in by its label; `unknown` remarks on this one.
                if key.strip_prefix(PREFIX) != Some("inject") {
                    asked.take(
                        key,
                        Value {
                            text,
                            on_pod: false,
                        },
                    );
                }
            }
        }
        for (key, text) in subject.annotations.ours() {
            asked.take(key, Value { text, on_pod: true });
        }
        asked
    }

    pub(super) fn get(&self, key: Key) -> Option<Value<'a>> {
        self.values[key as usize]
    }

    /// Reads `true` or `false`.
    pub(super) fn switch(&self, key: Key) -> Result<Option<bool>, Refusal> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        forms::switch(value.text)
            .map(Some)
            .ok_or_else(|| self.bad(key, forms::SWITCH))
    }

    /// Refuses the value of `key`, saying what is wanted.
    pub(super) fn bad(&self, key: Key, want: &str) -> Refusal {
        self.refuse(DenyReason::BadValue, key, want)
    }

    pub(super) fn refuse(&self, reason: DenyReason, key: Key, want: &str) -> Refusal {
        let name = KNOWN[key as usize].0;
        let value = self.get(key);
        let place = self.place(value.is_none_or(|value| value.on_pod));
        let text = value.map_or("", |value| value.text);
        Refusal {
            reason,
            message: format!("annotation \"{PREFIX}{name}\"{place} is {text:?}: {want}"),
        }
    }

    pub(super) fn refuse_what_is_not_built(&self) -> Result<(), Refusal> {
        let Some((name, value)) = self.not_built else {
            return Ok(());
        };
        let place = self.place(value.on_pod);
        let message = format!(
            "annotation \"{PREFIX}{name}\"{place} is {:?}: not supported yet, remove it",
            value.text
        );
        Err(Refusal {
            reason: DenyReason::NotSupported,
            message,
        })
    }

    fn place(&self, on_pod: bool) -> String {
        if on_pod {
            String::new()
        } else {
            format!(" of namespace {:?}", self.namespace)
        }
    }

    fn take(&mut self, key: &str, value: Value<'a>) {
        let Some(name) = key.strip_prefix(PREFIX) else {
            return;
        };
        let Some(place) = KNOWN.iter().position(|(known, _)| *known == name) else {
            return;
        };
        match KNOWN[place].1 {
            Support::Now => self.values[place] = Some(value),
            Support::NotYet => self.not_built = Some((KNOWN[place].0, value)),
            Support::Ours => {}
        }
    }
}

/// Remarks on every key under our prefix that nothing reads, with the nearest that something does.
pub fn unknown(pod: &dyn Lookup, namespace: Option<&NamespaceMetadata>) -> Vec<String> {
    let mut remarks: Vec<String> = pod.ours().filter_map(|(key, _)| remark(key, "")).collect();
    for key in namespace
        .into_iter()
        .flat_map(|metadata| metadata.annotations.keys())
    {
        if key.strip_prefix(PREFIX) == Some("inject") {
            remarks.push(format!(
                "annotation '{key}' of the namespace has no effect: label the namespace '{PREFIX}inject: tailscale'"
            ));
        }
        remarks.extend(remark(key, " of the namespace"));
    }
    remarks
}

fn remark(key: &str, place: &str) -> Option<String> {
    let name = key.strip_prefix(PREFIX)?;
    if KNOWN.iter().any(|(known, _)| *known == name) {
        return None;
    }
    let readable = KNOWN
        .iter()
        .filter(|(_, support)| *support != Support::Ours)
        .map(|(known, _)| *known);
    let shown: String = name.chars().take(63).collect();
    Some(match forms::nearest(name, readable) {
        Some(meant) => {
            format!(
                "annotation '{PREFIX}{shown}'{place} is unknown and has no effect: did you mean '{PREFIX}{meant}'?"
            )
        }
        None => {
            format!("annotation '{PREFIX}{shown}'{place} is unknown and has no effect: remove it")
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_the_keys_as_the_table_does() {
        let read = KNOWN
            .iter()
            .filter(|(_, support)| *support == Support::Now)
            .count();
        assert_eq!(read, KEYS);
        assert_eq!(KNOWN[Key::Expiration as usize].0, "auth-key-expiration");
        assert_eq!(KNOWN[Key::Secret as usize].0, "auth-key-secret");
        assert_eq!(KNOWN[Key::NativeSidecar as usize].0, "native-sidecar");
        assert_eq!(KNOWN[Key::MemoryLimit as usize].0, "memory-limit");
    }
}
