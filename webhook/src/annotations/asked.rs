//! Values by key: the pod's take precedence over the namespace's, those over the profile's; also finds unknown keys. Pure.

use super::known::{Defaults, KNOWN, Support, is_known};
use super::reason::{DenyReason, Refusal};
use super::subject::Subject;
use crate::keys::{KEY_WRITTEN, PREFIX};
use crate::lookup::{Lookup, NamespaceMetadata};
use crate::{forms, quote};

/// A key that is read; the number is its index in [`KNOWN`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Annotation {
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
    HeadscaleContainer,
    SocketPath,
    ApiKeySecret,
    ApiKeyExpiration,
    ApiKeyBuffer,
    KeysSecret,
    KeysFiles,
    KeysPath,
    Ephemeral,
    AcceptDns,
    AcceptRoutes,
    ExtraArgs,
    Proxy,
    ProxyEnv,
    Image,
    Profile,
    Mode,
}

const KEYS: usize = Annotation::Mode as usize + 1;

/// Longest value, far above any that makes sense: the annotations of a pod may have 256 KiB together, and the output made
/// from a value is several times as long.
const LONGEST_VALUE: usize = 4096;

/// Maximum number of unknown keys that get a remark each.
const MOST_REMARKS: usize = 8;

/// Longest annotation name that Kubernetes accepts after the prefix.
const LONGEST_NAME: usize = 63;

/// A value and its source.
#[derive(Clone, Copy, Debug)]
pub(super) struct AnnotationValue<'a> {
    pub(super) text: &'a str,
    pub(super) place: ValuePlace,
}

/// Source of a value; a later one gives way to an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ValuePlace {
    Pod,
    Namespace,
    Profile,
}

/// What a message lists as allowed by a profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Allowed {
    /// Nothing at all.
    Nothing,
    /// These, separated by commas.
    These(String),
    /// Not shown to this caller.
    Withheld,
}

/// What pod, namespace and profile ask for.
#[derive(Debug)]
pub(super) struct Asked<'a> {
    namespace: &'a str,
    profile: &'a str,
    /// Whether messages omit what the profile allows.
    discreet: bool,
    values: [Option<AnnotationValue<'a>>; KEYS],
    not_built: Option<(&'static str, AnnotationValue<'a>)>,
}

impl Annotation {
    pub(super) fn name(self) -> &'static str {
        KNOWN[self as usize].0
    }
}

impl AnnotationValue<'_> {
    /// Returns the value in quotes; of a long one, its beginning and its length.
    fn shown(&self) -> String {
        let Self { text, place: _ } = self;
        quote::shown(text)
    }

    pub(super) fn on_pod(&self) -> bool {
        self.place == ValuePlace::Pod
    }
}

impl<'a> Asked<'a> {
    pub(super) fn of(subject: &Subject<'a>) -> Self {
        let mut asked = Self {
            namespace: subject.namespace,
            profile: "",
            discreet: false,
            values: [None; KEYS],
            not_built: None,
        };
        if let Some(metadata) = subject.namespace_metadata {
            let place = ValuePlace::Namespace;
            for (key, text) in &metadata.annotations {
                // A namespace opts in by its label; `unknown` remarks on this one.
                if key.strip_prefix(PREFIX) != Some("inject") {
                    asked.take(key, AnnotationValue { text, place });
                }
            }
        }
        let place = ValuePlace::Pod;
        for (key, text) in subject.annotations.ours() {
            asked.take(key, AnnotationValue { text, place });
        }
        asked
    }

    /// Fills the gaps with the profile's defaults.
    pub(super) fn fill(&mut self, profile: &'a str, defaults: &'a Defaults) {
        self.profile = profile;
        for (place, text) in &defaults.0 {
            if let Some(slot @ None) = self.values.get_mut(*place) {
                let place = ValuePlace::Profile;
                *slot = Some(AnnotationValue { text, place });
            }
        }
    }

    /// Keeps what the profile allows out of messages.
    pub(super) fn withhold(&mut self) {
        self.discreet = true;
    }

    /// Returns what a message may list as allowed by the profile.
    pub(super) fn allowed<'l>(&self, list: impl Iterator<Item = &'l str>) -> Allowed {
        let list: Vec<&str> = list.collect();
        match list[..] {
            _ if self.discreet => Allowed::Withheld,
            [] => Allowed::Nothing,
            _ => Allowed::These(list.join(", ")),
        }
    }

    /// Returns the profile's name.
    pub(super) fn profile(&self) -> &'a str {
        self.profile
    }

    pub(super) fn get(&self, key: Annotation) -> Option<AnnotationValue<'a>> {
        self.values[key as usize]
    }

    /// Reads `true` or `false`.
    pub(super) fn switch(&self, key: Annotation) -> Result<Option<bool>, Refusal> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        forms::switch(value.text)
            .map(Some)
            .ok_or_else(|| self.bad(key, forms::SWITCH))
    }

    /// Refuses the value of `key` and says what is accepted.
    pub(super) fn bad(&self, key: Annotation, want: &str) -> Refusal {
        self.refuse(DenyReason::BadValue, key, want)
    }

    pub(super) fn refuse(&self, reason: DenyReason, key: Annotation, want: &str) -> Refusal {
        let name = key.name();
        let message = match self.get(key) {
            Some(value) => format!(
                "{} is {}: {want}",
                self.place(name, value.place),
                value.shown()
            ),
            None => format!("annotation \"{PREFIX}{name}\" is missing: {want}"),
        };
        Refusal { reason, message }
    }

    /// Refuses a value that is longer than any that makes sense.
    pub(super) fn refuse_what_is_too_long(&self) -> Result<(), Refusal> {
        let read = self.values.iter().zip(KNOWN);
        let mut all = read.filter_map(|(value, (name, _))| Some((name, (*value)?)));
        let Some((name, value)) = all.find(|(_, value)| value.text.len() > LONGEST_VALUE) else {
            return Ok(());
        };
        let message = format!(
            "{} is {}: want at most {LONGEST_VALUE} bytes",
            self.place(name, value.place),
            value.shown()
        );
        Err(Refusal {
            reason: DenyReason::BadValue,
            message,
        })
    }

    pub(super) fn refuse_what_is_not_built(&self) -> Result<(), Refusal> {
        let Some((name, value)) = self.not_built else {
            return Ok(());
        };
        let message = format!(
            "{} is {}: not supported yet, remove it",
            self.place(name, value.place),
            value.shown()
        );
        Err(Refusal {
            reason: DenyReason::NotSupported,
            message,
        })
    }

    /// Returns where to correct the value of a key.
    fn place(&self, name: &str, place: ValuePlace) -> String {
        let Self {
            namespace, profile, ..
        } = self;
        match place {
            ValuePlace::Pod => format!("annotation \"{PREFIX}{name}\""),
            ValuePlace::Namespace => {
                format!("annotation \"{PREFIX}{name}\" of namespace {namespace:?}")
            }
            ValuePlace::Profile => format!("profiles.{profile}.annotations.{name}"),
        }
    }

    fn take(&mut self, key: &str, value: AnnotationValue<'a>) {
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

/// Returns the part of an annotation that can affect a decision: nothing if the key is not read, and just enough of a value
/// that is too long for it to be refused still. Callers that store annotations of others store no more than this.
#[must_use]
pub fn deciding<'v>(key: &str, value: &'v str) -> Option<&'v str> {
    let decides = is_known(key) && key != KEY_WRITTEN;
    decides.then(|| &value[..value.ceil_char_boundary(LONGEST_VALUE + 1)])
}

/// Returns a remark for each key under our prefix that has no effect, with the nearest known key: the pod's, then its namespace's.
pub fn unknown(pod: &dyn Lookup, namespace: Option<&NamespaceMetadata>) -> Vec<String> {
    let of_pod = pod.ours().map(|(key, _)| (key, ""));
    let of_namespace = namespace
        .into_iter()
        .flat_map(|metadata| metadata.annotations.keys())
        .map(|key| (key.as_str(), " of the namespace"));
    let vain = |(key, place): &(&str, &str)| {
        !is_known(key) || (!place.is_empty() && key.strip_prefix(PREFIX) == Some("inject"))
    };
    let (mut remarks, mut more) = (Vec::new(), 0_usize);
    for (key, place) in of_pod.chain(of_namespace).filter(vain) {
        if remarks.len() < MOST_REMARKS {
            remarks.extend(remark(key, place));
        } else {
            more += 1;
        }
    }
    if more > 0 {
        remarks.push(format!(
            "{more} more annotations under '{PREFIX}' are unknown and have no effect: remove them"
        ));
    }
    remarks
}

fn remark(key: &str, place: &str) -> Option<String> {
    let name = key.strip_prefix(PREFIX)?;
    if is_known(key) {
        return Some(format!(
            "annotation '{key}'{place} has no effect: label the namespace '{PREFIX}inject: tailscale'"
        ));
    }
    let readable = KNOWN
        .iter()
        .filter(|(_, support)| *support != Support::Ours)
        .map(|(known, _)| *known);
    // The webhook sees keys before they are validated.
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    let shown = name.chars().take(LONGEST_NAME);
    let shown: String = shown.map(|c| if fits(c) { c } else { '?' }).collect();
    let shown = quote::redacted(&shown);
    let near = (name.len() <= LONGEST_NAME).then(|| forms::nearest(name, readable));
    Some(match near.flatten() {
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
        assert_eq!(
            KNOWN[Annotation::Expiration as usize].0,
            "auth-key-expiration"
        );
        assert_eq!(KNOWN[Annotation::Secret as usize].0, "auth-key-secret");
        assert_eq!(
            KNOWN[Annotation::NativeSidecar as usize].0,
            "native-sidecar"
        );
        assert_eq!(KNOWN[Annotation::MemoryLimit as usize].0, "memory-limit");
        assert_eq!(KNOWN[Annotation::SocketPath as usize].0, "socket-path");
        assert_eq!(
            KNOWN[Annotation::ApiKeyBuffer as usize].0,
            "api-key-rotation-buffer"
        );
        assert_eq!(KNOWN[Annotation::KeysPath as usize].0, "server-keys-path");
        assert_eq!(KNOWN[Annotation::ProxyEnv as usize].0, "proxy-env");
        assert_eq!(KNOWN[Annotation::Profile as usize].0, "profile");
        assert_eq!(KNOWN[Annotation::Mode as usize].0, "key-mode");
    }
}
