//! Facts about one pod, its key and its node, and what could not be read. Pure.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::api::ObjectMeta;
use serde::Serialize;
use sidescale_core::secret::StoredSecret;
use sidescale_webhook::annotations::NamespaceMetadata;
use sidescale_webhook::hostnames::ClaimedHostnames;
use sidescale_webhook::identity::POD_SECRET;
use sidescale_webhook::keys::{CONTAINER, STATUS};
use sidescale_webhook::profile::Policy;
use sidescale_webhook::sidecar::{Injected, Receipt};

use super::dns::TailnetNames;
use super::words::Refused;
use crate::commands::view::held::PlaneView;
use crate::commands::view::inventory::RotationWarning;
use crate::pods::start;

/// The result of reading something.
#[derive(Clone, Debug)]
pub(super) enum Observed<T> {
    /// It was read.
    Saw(T),
    /// It could not be read: the call and why.
    Blind(String),
    /// It was not needed.
    NotAsked,
}

impl<T> Observed<T> {
    pub(super) fn seen(&self) -> Option<&T> {
        match self {
            Self::Saw(seen) => Some(seen),
            Self::Blind(_) | Self::NotAsked => None,
        }
    }
}

/// All facts.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub(super) now: Timestamp,
    pub(super) pod: Pod,
    pub(super) namespace: Observed<NamespaceMetadata>,
    /// The injected pods of its namespace.
    pub(super) injected: Observed<Vec<ObjectMeta>>,
    pub(super) policy: Observed<Policy>,
    /// The Secret that the pod refers to.
    pub(super) secret: Observed<Option<StoredSecret>>,
    /// Rotation's warnings about that Secret; the newest first.
    pub(super) notes: Vec<RotationWarning>,
    /// The content of the control plane.
    pub(super) plane: Observed<PlaneView>,
    /// Policies around Sidescale's own account that its process reported as not in force; the newest first.
    pub(super) fences: Vec<RotationWarning>,
    /// The names that the control plane assigns.
    pub(super) names: Observed<TailnetNames>,
    /// Rotation's record of the owners of names; empty without the right to read it.
    pub(super) hostnames: ClaimedHostnames,
    /// The cluster's domain, if it can be read.
    pub(super) cluster_domain: Option<String>,
    /// Why the control server refused the sidecar, from its log.
    pub(super) log: Observed<Option<Refused>>,
    /// The flags that our own commands need.
    pub(super) flags: String,
    /// The command that shows Sidescale's log.
    pub(super) logs: String,
}

/// Level of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Level {
    Ok,
    /// Unknown, or perhaps wrong.
    Warn,
    Fail,
}

/// Result of one check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct CheckFinding {
    pub(super) result: Level,
    /// Name of the check.
    pub(super) check: &'static str,
    /// What was seen.
    pub(super) text: String,
    /// What to type, or to do, next.
    pub(super) next: Option<String>,
}

impl CheckFinding {
    pub(super) fn ok(check: &'static str, text: String) -> Self {
        Self {
            result: Level::Ok,
            check,
            text,
            next: None,
        }
    }

    pub(super) fn warn(check: &'static str, text: String) -> Self {
        Self {
            result: Level::Warn,
            ..Self::ok(check, text)
        }
    }

    pub(super) fn fail(check: &'static str, text: String, next: String) -> Self {
        Self {
            result: Level::Fail,
            next: Some(next),
            ..Self::ok(check, text)
        }
    }

    /// Returns a finding about something that could not be read.
    pub(super) fn blind(check: &'static str, why: &str) -> Self {
        Self::warn(check, format!("not checked: {why}"))
    }

    pub(super) fn then(self, next: String) -> Self {
        Self {
            next: Some(next),
            ..self
        }
    }
}

impl Facts {
    pub(super) fn namespace_name(&self) -> &str {
        self.pod.metadata.namespace.as_deref().unwrap_or_default()
    }

    pub(super) fn name(&self) -> &str {
        self.pod.metadata.name.as_deref().unwrap_or_default()
    }

    pub(super) fn annotation(&self, key: &str) -> Option<&str> {
        annotation(&self.pod.metadata, key)
    }

    /// Returns the key that the pod refers to, from its receipt.
    pub(super) fn reference(&self) -> Option<Injected<'_>> {
        Receipt::parse(self.annotation(STATUS)?).ok()?.injected
    }

    /// Returns the status of the sidecar.
    pub(super) fn sidecar(&self) -> Option<&ContainerStatus> {
        start::status(&self.pod, CONTAINER)
    }

    /// Returns the value of the sidecar's variable of that name.
    pub(super) fn variable(&self, name: &str) -> Option<&str> {
        let spec = self.pod.spec.as_ref()?;
        let init = spec.init_containers.iter().flatten();
        let mut all = init.chain(&spec.containers);
        let container = all.find(|container| container.name == CONTAINER)?;
        let mut variables = container.env.iter().flatten();
        variables
            .find(|variable| variable.name == name)?
            .value
            .as_deref()
    }

    /// Returns the age of the pod.
    pub(super) fn age(&self) -> jiff::SignedDuration {
        let created = self.pod.metadata.creation_timestamp.as_ref();
        created.map_or(jiff::SignedDuration::ZERO, |at| {
            self.now.duration_since(at.0)
        })
    }

    /// Returns the command that shows the sidecar's log.
    pub(super) fn sidecar_log(&self) -> String {
        format!(
            "kubectl logs --namespace {} {} --container {CONTAINER}",
            self.namespace_name(),
            self.name()
        )
    }

    /// Returns the command that shows the pod's history.
    pub(super) fn describe(&self) -> String {
        format!(
            "kubectl describe pod --namespace {} {}",
            self.namespace_name(),
            self.name()
        )
    }

    /// Returns the command that lets the pod join again: restarts its sidecar, or replaces the pod, whose own key works
    /// once.
    pub(super) fn restart(&self, reference: &Injected<'_>) -> String {
        if reference.secret == POD_SECRET {
            return self.delete();
        }
        // By name: with a shared process namespace, process 1 is another container's.
        format!(
            "kubectl exec --namespace {} {} --container {CONTAINER} -- killall containerboot",
            self.namespace_name(),
            self.name()
        )
    }

    /// Returns the command that renews the pod's key; a pod's own key comes with the next pod.
    pub(super) fn rotate(&self, reference: &Injected<'_>) -> String {
        if reference.secret == POD_SECRET {
            return self.delete();
        }
        format!(
            "sidescale rotate --now {}/{}{}",
            self.namespace_name(),
            reference.service,
            self.flags
        )
    }

    fn delete(&self) -> String {
        format!(
            "kubectl delete pod --namespace {} {}",
            self.namespace_name(),
            self.name()
        )
    }
}

/// Returns an annotation of an object.
pub(super) fn annotation<'a>(metadata: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    Some(metadata.annotations.as_ref()?.get(key)?.as_str())
}

/// Whether that server is Tailscale's own service.
pub(super) fn is_tailscales(login_server: &str) -> bool {
    login_server
        .trim_end_matches('/')
        .ends_with(".tailscale.com")
}
