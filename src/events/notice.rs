//! A notice to people, and its object. Pure.

use std::hash::{DefaultHasher, Hash, Hasher};

use k8s_openapi::api::core::v1::ObjectReference;

/// The object of a notice, in a namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum About {
    ConfigMap(String),
    Secret(String),
    Pod {
        name: String,
        /// Its uid, by which `kubectl describe` finds the notice.
        uid: u128,
    },
    /// A workload.
    Workload {
        api_version: &'static str,
        kind: &'static str,
        name: String,
        /// Its uid; without it `kubectl events --for` finds the notice, and `kubectl describe` does not.
        uid: Option<u128>,
    },
}

/// A notice to the owner of a Secret or pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Namespace of the object.
    pub namespace: String,
    pub about: About,
    /// Whether it needs action.
    pub warning: bool,
    /// One word, from an enum's `as_str`.
    pub reason: &'static str,
    /// What happened and what to do, never a key's value.
    pub note: String,
}

/// A problem of an object: two notices with one topic are a repetition.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Topic {
    pub(super) namespace: String,
    pub(super) object: String,
    pub(super) reason: &'static str,
}

impl Topic {
    /// Returns a problem of a part of an object, or of the whole.
    #[must_use]
    pub fn new(namespace: &str, about: &About, part: &str, reason: &'static str) -> Self {
        let object = match about {
            About::ConfigMap(name) => format!("ConfigMap/{name}/{part}"),
            About::Secret(name) => format!("Secret/{name}/{part}"),
            About::Pod { name, uid } => format!("Pod/{name}/{uid:x}/{part}"),
            About::Workload { kind, name, .. } => format!("{kind}/{name}/{part}"),
        };
        Self {
            namespace: namespace.to_owned(),
            object,
            reason,
        }
    }

    /// Returns a problem of something that is not an object of the cluster.
    #[must_use]
    pub fn other(object: &str, reason: &'static str) -> Self {
        Self {
            namespace: String::new(),
            object: object.to_owned(),
            reason,
        }
    }

    /// Returns the topic of a notice: each mistake in a ConfigMap is its own; other notices with one reason differ only
    /// in numbers.
    #[must_use]
    pub fn of(notice: &Notice) -> Self {
        let part = match &notice.about {
            About::ConfigMap(_) => {
                let mut hasher = DefaultHasher::new();
                notice.note.hash(&mut hasher);
                format!("{:x}", hasher.finish())
            }
            About::Secret(_) | About::Pod { .. } | About::Workload { .. } => String::new(),
        };
        Self::new(&notice.namespace, &notice.about, &part, notice.reason)
    }
}

impl About {
    /// Refers to a Secret.
    #[must_use]
    pub fn secret(name: &str) -> Self {
        Self::Secret(name.to_owned())
    }

    /// Refers to a pod.
    #[must_use]
    pub fn pod(name: &str, uid: u128) -> Self {
        Self::Pod {
            name: name.to_owned(),
            uid,
        }
    }

    pub(super) fn name(&self) -> &str {
        match self {
            Self::ConfigMap(name)
            | Self::Secret(name)
            | Self::Pod { name, uid: _ }
            | Self::Workload { name, .. } => name,
        }
    }

    /// Returns the action during which it was noticed.
    pub(super) fn action(&self) -> &'static str {
        match self {
            Self::ConfigMap(_) => "Reload",
            Self::Secret(_) | Self::Workload { .. } => "Rotate",
            Self::Pod { .. } => "Join",
        }
    }

    pub(super) fn reference(&self, namespace: &str) -> ObjectReference {
        let (api_version, kind, uid) = match self {
            Self::ConfigMap(_) => ("v1", "ConfigMap", None),
            Self::Secret(_) => ("v1", "Secret", None),
            Self::Pod { name: _, uid } => ("v1", "Pod", Some(*uid)),
            Self::Workload {
                api_version,
                kind,
                name: _,
                uid,
            } => (*api_version, *kind, *uid),
        };
        ObjectReference {
            api_version: Some(api_version.to_owned()),
            kind: Some(kind.to_owned()),
            namespace: Some(namespace.to_owned()),
            name: Some(self.name().to_owned()),
            uid: uid.map(|uid| uuid::Uuid::from_u128(uid).to_string()),
            ..ObjectReference::default()
        }
    }
}
