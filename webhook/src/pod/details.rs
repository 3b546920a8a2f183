//! The fuller view of a pod: read only where something is done to its containers, which is rare. Pure.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::annotations::Lookup;
use crate::text::Text;

/// Holds every label of a pod.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct AllLabels<'a> {
    #[serde(borrow)]
    metadata: Labelled<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Labelled<'a> {
    #[serde(borrow)]
    labels: Option<BTreeMap<Text<'a>, Text<'a>>>,
}

impl Lookup for AllLabels<'_> {
    fn value(&self, key: &str) -> Option<&str> {
        let labels = self.metadata.labels.as_ref()?;
        labels.get(key).map(|value| &**value)
    }

    fn ours(&self) -> Box<dyn Iterator<Item = (&str, &str)> + '_> {
        Box::new(std::iter::empty())
    }
}

/// Holds what is to be known of a pod whose own containers are touched.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Details<'a> {
    #[serde(borrow)]
    pub(crate) spec: Spec<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Spec<'a> {
    pub(crate) service_account_name: Option<IgnoredAny>,
    pub(crate) automount_service_account_token: Option<bool>,
    pub(crate) security_context: Option<SecurityContext>,
    #[serde(borrow)]
    pub(crate) init_containers: Option<Vec<Container<'a>>>,
    #[serde(borrow)]
    pub(crate) containers: Vec<Container<'a>>,
    #[serde(borrow)]
    pub(crate) image_pull_secrets: Option<Vec<Named<'a>>>,
    #[serde(borrow)]
    pub(crate) volumes: Option<Vec<Volume<'a>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Container<'a> {
    #[serde(borrow)]
    pub(crate) name: Text<'a>,
    #[serde(borrow)]
    pub(crate) image: Option<Text<'a>>,
    #[serde(borrow)]
    pub(crate) command: Option<Vec<Text<'a>>>,
    #[serde(borrow)]
    pub(crate) args: Option<Vec<Text<'a>>>,
    #[serde(borrow)]
    restart_policy: Option<Text<'a>>,
    pub(crate) security_context: Option<SecurityContext>,
    #[serde(borrow)]
    pub(crate) env: Option<Vec<Named<'a>>>,
    env_from: Option<Vec<IgnoredAny>>,
    pub(crate) ports: Option<Vec<ContainerPort>>,
    #[serde(borrow)]
    pub(crate) volume_mounts: Option<Vec<VolumeMount<'a>>>,
}

/// Something with a name: a variable, a Secret.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Named<'a> {
    #[serde(borrow)]
    pub(crate) name: Text<'a>,
}

/// A volume, as far as what it is says what becomes of a file in it.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Volume<'a> {
    #[serde(borrow)]
    pub(crate) name: Text<'a>,
    config_map: Option<IgnoredAny>,
    #[serde(rename = "downwardAPI")]
    downward_api: Option<IgnoredAny>,
    empty_dir: Option<IgnoredAny>,
    ephemeral: Option<IgnoredAny>,
    image: Option<IgnoredAny>,
    projected: Option<IgnoredAny>,
    secret: Option<IgnoredAny>,
}

/// How long a file stays in a volume, with what the volume is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keeps {
    /// It cannot be written.
    Nothing(&'static str),
    /// As long as the pod is there.
    ForThePod(&'static str),
    /// For the pods that follow.
    ForThoseAfter,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct ContainerPort {
    pub(crate) container_port: Option<u16>,
}

/// Who a pod or a container runs as.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct SecurityContext {
    pub(crate) run_as_user: Option<i64>,
    pub(crate) run_as_group: Option<i64>,
    pub(crate) run_as_non_root: Option<bool>,
    /// Only a pod has it.
    pub(crate) fs_group: Option<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct VolumeMount<'a> {
    #[serde(borrow)]
    pub(crate) name: Text<'a>,
    #[serde(borrow)]
    pub(crate) mount_path: Text<'a>,
    #[serde(borrow)]
    pub(crate) sub_path: Option<Text<'a>>,
    #[serde(borrow)]
    pub(crate) sub_path_expr: Option<Text<'a>>,
}

impl<'a> Spec<'a> {
    /// The containers that run beside the app's: native sidecars. Other init containers are over by then.
    pub(crate) fn native_sidecars(&self) -> impl Iterator<Item = &Container<'a>> {
        let init = self.init_containers.iter().flatten();
        init.filter(|container| container.restart_policy.as_deref() == Some("Always"))
    }
}

impl<'a> Container<'a> {
    /// Whether a ConfigMap or Secret, whose names are not known here, may set any variable of it.
    pub(crate) fn has_env_from(&self) -> bool {
        self.env_from.as_ref().is_some_and(|from| !from.is_empty())
    }

    pub(crate) fn mounts(&self) -> &[VolumeMount<'a>] {
        self.volume_mounts.as_deref().unwrap_or_default()
    }
}

impl Volume<'_> {
    /// How long a file stays in it.
    pub(crate) fn keeps(&self) -> Keeps {
        let kinds = [
            (&self.config_map, Keeps::Nothing("configMap")),
            (&self.downward_api, Keeps::Nothing("downwardAPI")),
            (&self.image, Keeps::Nothing("image")),
            (&self.projected, Keeps::Nothing("projected")),
            (&self.secret, Keeps::Nothing("secret")),
            (&self.empty_dir, Keeps::ForThePod("emptyDir")),
            (&self.ephemeral, Keeps::ForThePod("ephemeral")),
        ];
        let kind = kinds.into_iter().find(|(source, _)| source.is_some());
        kind.map_or(Keeps::ForThoseAfter, |(_, keeps)| keeps)
    }
}

impl VolumeMount<'_> {
    /// Where it is, without a slash at the end.
    pub(crate) fn path(&self) -> &str {
        match self.mount_path.trim_end_matches('/') {
            "" => "/",
            path => path,
        }
    }
}
