//! Parts of a pod that Sidescale writes, as borrowed structs that serialise to what Kubernetes reads. Pure.

use serde::Serialize;
use serde::ser::{SerializeSeq as _, SerializeStruct as _};

use super::rendered::{EmptyDirectory, Rendered};
use crate::profile;

/// Resource requests of a sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Needs {
    /// As configured.
    Configured,
    /// Requests equal limits, which keeps the pod Guaranteed.
    Guaranteed,
    /// Nothing: the pod has requests and limits as a whole.
    OfThePod,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SidecarContainer<'a> {
    pub(crate) name: &'static str,
    pub(crate) image: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) args: Vec<String>,
    /// `Always` on an init container makes it a native sidecar.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) restart_policy: Option<&'static str>,
    #[serde(skip_serializing_if = "Extended::is_empty")]
    pub(crate) env: Extended<'a, SidecarEnv<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) resources: Option<SidecarResources<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) startup_probe: Option<SidecarProbe>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) liveness_probe: Option<&'a serde_json::Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) readiness_probe: Option<&'a serde_json::Value>,
    pub(crate) security_context: Security<'a>,
    pub(crate) volume_mounts: Extended<'a, SidecarMount<'a>>,
}

/// The constant part, the part of this pod, and the operator's additions, in this order.
pub(crate) struct Extended<'a, T> {
    pub(crate) same: &'static [Rendered],
    pub(crate) ours: Vec<T>,
    pub(crate) more: &'a [serde_json::Value],
}

impl<T> Extended<'_, T> {
    fn is_empty(&self) -> bool {
        self.same.is_empty() && self.ours.is_empty() && self.more.is_empty()
    }
}

impl<T> From<Vec<T>> for Extended<'_, T> {
    fn from(ours: Vec<T>) -> Self {
        Self {
            same: &[],
            ours,
            more: &[],
        }
    }
}

impl<T: Serialize> Serialize for Extended<'_, T> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let length = self.same.len() + self.ours.len() + self.more.len();
        let mut list = serializer.serialize_seq(Some(length))?;
        for item in self.same {
            list.serialize_element(item)?;
        }
        for item in &self.ours {
            list.serialize_element(item)?;
        }
        for item in self.more {
            list.serialize_element(item)?;
        }
        list.end()
    }
}

/// Our own security context, or one with an operator's applied over it.
#[derive(Serialize)]
#[serde(untagged)]
pub(crate) enum Security<'a> {
    Ours(SidecarSecurityContext),
    Same(&'static Rendered),
    Given(&'a serde_json::Value),
}

pub(crate) struct SidecarEnv<'a> {
    pub(crate) name: &'static str,
    pub(crate) value: EnvValue<'a>,
}

pub(crate) enum EnvValue<'a> {
    Text(&'a str),
    Joined(JoinedText<'a>),
    Proxy(Proxy),
    From(EnvSource<'a>),
}

// Hand-written here and for `Volume`: serde's flatten goes through a map, which takes a tenth of a review's time.
impl Serialize for SidecarEnv<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut env = serializer.serialize_struct("Env", 2)?;
        env.serialize_field("name", self.name)?;
        match &self.value {
            EnvValue::Text(text) => env.serialize_field("value", text)?,
            EnvValue::Joined(joined) => env.serialize_field("value", joined)?,
            EnvValue::Proxy(proxy) => env.serialize_field("value", proxy)?,
            EnvValue::From(source) => env.serialize_field("valueFrom", source)?,
        }
        env.end()
    }
}

/// Text in parts, joined when it is written.
pub(crate) struct JoinedText<'a>(pub(crate) [&'a str; 5]);

impl Serialize for JoinedText<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let [a, b, c, d, e] = self.0;
        serializer.collect_str(&format_args!("{a}{b}{c}{d}{e}"))
    }
}

/// Address of the pod's own proxy, after a prefix.
pub(crate) struct Proxy(pub(crate) &'static str, pub(crate) u16);

impl Serialize for Proxy {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{}127.0.0.1:{}", self.0, self.1))
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum EnvSource<'a> {
    FieldRef {
        #[serde(rename = "fieldPath")]
        field_path: &'static str,
    },
    SecretKeyRef {
        name: &'a str,
        key: &'a str,
    },
}

#[derive(Serialize)]
pub(crate) struct SidecarResources<'a> {
    pub(crate) requests: SidecarAmounts<'a>,
    pub(crate) limits: SidecarAmounts<'a>,
}

#[derive(Serialize)]
pub(crate) struct SidecarAmounts<'a> {
    pub(crate) cpu: &'a str,
    pub(crate) memory: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SidecarProbe {
    pub(crate) http_get: HttpGet,
    pub(crate) period_seconds: u32,
    pub(crate) failure_threshold: u32,
}

#[derive(Serialize)]
pub(crate) struct HttpGet {
    pub(crate) path: &'static str,
    pub(crate) port: u16,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SidecarSecurityContext {
    pub(crate) allow_privilege_escalation: bool,
    pub(crate) capabilities: Capabilities,
    pub(crate) privileged: bool,
    pub(crate) read_only_root_filesystem: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) run_as_group: Option<i64>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) run_as_non_root: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) run_as_user: Option<i64>,
    pub(crate) seccomp_profile: Seccomp,
}

#[derive(Serialize)]
pub(crate) struct Capabilities {
    pub(crate) drop: [&'static str; 1],
}

#[derive(Serialize)]
pub(crate) struct Seccomp {
    pub(crate) r#type: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SidecarMount<'a> {
    pub(crate) name: &'a str,
    pub(crate) mount_path: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sub_path: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sub_path_expr: Option<&'static str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) read_only: bool,
}

pub(crate) struct SidecarVolume<'a> {
    pub(crate) name: &'static str,
    source: VolumeSource<'a>,
}

enum VolumeSource<'a> {
    EmptyDir(&'static Rendered),
    Projected(&'static Rendered),
    Secret(SecretVolume<'a>),
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SecretVolume<'a> {
    secret_name: &'a str,
    default_mode: u32,
    items: Vec<Item<'a>>,
}

/// A volume that the kubelet assembles from three sources.
#[derive(Serialize)]
pub(crate) struct Projected {
    pub(crate) sources: [Projection; 3],
}

impl<'a> SidecarVolume<'a> {
    /// Returns an empty directory.
    pub(crate) fn empty(directory: &'static EmptyDirectory) -> Self {
        let EmptyDirectory { name, rendered } = directory;
        let source = VolumeSource::EmptyDir(rendered);
        Self { name, source }
    }

    /// Returns data keys of a Secret as files.
    pub(crate) fn secret(
        name: &'static str,
        secret_name: &'a str,
        default_mode: u32,
        items: Vec<Item<'a>>,
    ) -> Self {
        let source = VolumeSource::Secret(SecretVolume {
            secret_name,
            default_mode,
            items,
        });
        Self { name, source }
    }

    /// Returns a projected volume.
    pub(crate) fn projected(name: &'static str, projected: &'static Rendered) -> Self {
        let source = VolumeSource::Projected(projected);
        Self { name, source }
    }

    /// Returns whether it is an empty directory.
    pub(crate) fn is_empty_dir(&self) -> bool {
        matches!(self.source, VolumeSource::EmptyDir(_))
    }
}

impl Serialize for SidecarVolume<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if let VolumeSource::EmptyDir(rendered) = &self.source {
            return rendered.serialize(serializer);
        }
        let mut volume = serializer.serialize_struct("Volume", 2)?;
        volume.serialize_field("name", self.name)?;
        match &self.source {
            VolumeSource::EmptyDir(_) => {}
            VolumeSource::Secret(secret) => volume.serialize_field("secret", secret)?,
            VolumeSource::Projected(projected) => volume.serialize_field("projected", projected)?,
        }
        volume.end()
    }
}

/// Sources of the kubelet's own token volume.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Projection {
    ServiceAccountToken {
        #[serde(rename = "expirationSeconds")]
        expiration_seconds: u32,
        path: &'static str,
    },
    ConfigMap {
        name: &'static str,
        items: [Item<'static>; 1],
    },
    #[serde(rename = "downwardAPI")]
    DownwardApi { items: [FieldItem; 1] },
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct FieldItem {
    pub(crate) path: &'static str,
    pub(crate) field_ref: FieldRef,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct FieldRef {
    pub(crate) field_path: &'static str,
}

#[derive(Serialize)]
pub(crate) struct Item<'a> {
    pub(crate) key: &'a str,
    pub(crate) path: &'a str,
}

impl SidecarSecurityContext {
    /// Returns what Pod Security's level *restricted* requires, except for the user.
    pub(crate) fn of(user: Option<i64>, group: Option<i64>, non_root: bool) -> Self {
        Self {
            allow_privilege_escalation: false,
            capabilities: Capabilities { drop: ["ALL"] },
            privileged: false,
            read_only_root_filesystem: true,
            run_as_group: group,
            run_as_non_root: non_root,
            run_as_user: user,
            seccomp_profile: Seccomp {
                r#type: "RuntimeDefault",
            },
        }
    }
}

impl<'a> SidecarResources<'a> {
    /// Returns the requests of a container that keep the pod's class of service.
    pub(crate) fn of(asked: &'a profile::Resources<'_>, needs: Needs) -> Option<Self> {
        let limits = || SidecarAmounts {
            cpu: &asked.cpu_limit,
            memory: &asked.memory_limit,
        };
        let requests = match needs {
            Needs::OfThePod => return None,
            Needs::Guaranteed => limits(),
            Needs::Configured => SidecarAmounts {
                cpu: &asked.cpu_request,
                memory: &asked.memory_request,
            },
        };
        Some(Self {
            requests,
            limits: limits(),
        })
    }
}

impl<'a> SidecarMount<'a> {
    /// Returns a writable mount.
    pub(crate) fn writable(name: &'a str, mount_path: &'a str) -> Self {
        Self {
            name,
            mount_path,
            sub_path: None,
            sub_path_expr: None,
            read_only: false,
        }
    }

    /// Returns a read-only mount.
    pub(crate) fn readable(name: &'a str, mount_path: &'a str) -> Self {
        Self {
            read_only: true,
            ..Self::writable(name, mount_path)
        }
    }
}
