//! A notice to people, and its object. Pure.

use std::hash::{DefaultHasher, Hash, Hasher};

/// The object of a notice, in a namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum About {
    /// The ConfigMap of that name.
    ConfigMap(String),
    /// The Secret of that name.
    Secret(String),
    /// A pod.
    Pod {
        /// Name of the pod.
        name: String,
        /// Its uid, by which `kubectl describe` finds the notice.
        uid: u128,
    },
    /// A workload.
    Workload {
        /// Group and version, such as `apps/v1`.
        api_version: &'static str,
        /// Kind, such as `StatefulSet`.
        kind: &'static str,
        /// Name of the workload.
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
    /// Its object.
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
    /// Namespace of the object; empty if it is not one of the cluster.
    pub namespace: String,
    /// Kind and name of the object, and what distinguishes two problems of it.
    pub object: String,
    /// One word, from an enum's `as_str`.
    pub reason: &'static str,
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

    /// Returns the name of the object.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::ConfigMap(name)
            | Self::Secret(name)
            | Self::Pod { name, uid: _ }
            | Self::Workload { name, .. } => name,
        }
    }
}
