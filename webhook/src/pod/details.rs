//! The fuller view of a pod: read only if its containers are changed, which is rare. Lists are stored as raw JSON and
//! parsed when needed; nothing of them is kept. Pure.

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny};
use serde_json::value::RawValue;

use crate::json::{each_item, each_of};
use crate::keys::MANAGER;
use crate::text::{Name, Text};

/// Details of a pod whose own containers are changed; it has at most [`super::MOST_CONTAINERS`].
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Details<'a> {
    #[serde(borrow)]
    pub(crate) spec: PodDetails<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct PodDetails<'a> {
    pub(crate) service_account_name: Option<IgnoredAny>,
    pub(crate) automount_service_account_token: Option<bool>,
    pub(crate) security_context: Option<SecurityContext>,
    #[serde(borrow)]
    pub(crate) init_containers: Option<Vec<ContainerDetails<'a>>>,
    #[serde(borrow)]
    pub(crate) containers: Vec<ContainerDetails<'a>>,
    #[serde(borrow)]
    pub(crate) image_pull_secrets: Option<&'a RawValue>,
    #[serde(borrow)]
    volumes: Option<&'a RawValue>,
    /// Claims of a StatefulSet, each of which is a volume of its pods.
    #[serde(skip)]
    pub(crate) claims: Option<&'a RawValue>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct ContainerDetails<'a> {
    #[serde(borrow)]
    pub(crate) name: Name<'a>,
    image: Option<Image>,
    command: Option<Words>,
    args: Option<Words>,
    restart_policy: Option<RestartPolicy>,
    pub(crate) security_context: Option<SecurityContext>,
    pub(crate) env: Option<ProxyVariables>,
    env_from: Option<Sources>,
    #[serde(borrow)]
    ports: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(crate) volume_mounts: Option<&'a RawValue>,
}

/// Whether an image is the manager's.
#[derive(Debug)]
struct Image(bool);

/// Whether one of the words is the manager's subcommand.
#[derive(Debug)]
struct Words(bool);

/// Whether the container is always restarted.
#[derive(Debug)]
struct RestartPolicy(bool);

/// Whether there are any sources.
#[derive(Debug)]
struct Sources(bool);

/// The proxy variables that a container has.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ProxyVariables([bool; Self::PROXY.len()]);

#[derive(Default, Deserialize)]
#[serde(default)]
struct NamedEntry<'a> {
    #[serde(borrow)]
    name: Name<'a>,
}

/// A claim of a StatefulSet.
#[derive(Default, Deserialize)]
#[serde(default)]
struct VolumeClaim<'a> {
    #[serde(borrow)]
    metadata: Option<NamedEntry<'a>>,
}

/// A volume, as far as its type determines how long a file in it is kept.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct PodVolume<'a> {
    #[serde(borrow)]
    name: Name<'a>,
    config_map: Option<IgnoredAny>,
    #[serde(rename = "downwardAPI")]
    downward_api: Option<IgnoredAny>,
    empty_dir: Option<IgnoredAny>,
    ephemeral: Option<IgnoredAny>,
    image: Option<IgnoredAny>,
    projected: Option<IgnoredAny>,
    secret: Option<IgnoredAny>,
}

/// How long a volume keeps a file, with the type of the volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keeps {
    /// The volume is not writable.
    Nothing(&'static str),
    /// Until the pod is deleted.
    ForThePod(&'static str),
    /// For later pods too.
    ForThoseAfter,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct PortDetails {
    container_port: Option<u64>,
}

/// User and group of a pod or a container.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct SecurityContext {
    pub(crate) run_as_user: Option<i64>,
    pub(crate) run_as_group: Option<i64>,
    pub(crate) run_as_non_root: Option<bool>,
    /// Only set on a pod.
    pub(crate) fs_group: Option<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Mount<'a> {
    #[serde(borrow)]
    pub(crate) name: Text<'a>,
    #[serde(borrow)]
    mount_path: Text<'a>,
    #[serde(borrow)]
    pub(crate) sub_path: Option<Text<'a>>,
    #[serde(borrow)]
    pub(crate) sub_path_expr: Option<Text<'a>>,
}

impl<'a> PodDetails<'a> {
    /// Returns the containers that run beside the app's: native sidecars. Other init containers have finished by then.
    pub(crate) fn native_sidecars(&self) -> impl Iterator<Item = &ContainerDetails<'a>> {
        let init = self.init_containers.iter().flatten();
        init.filter(|container| matches!(container.restart_policy, Some(RestartPolicy(true))))
    }

    /// Returns how long the volume with this name keeps a file; `None` if there is no such volume.
    pub(crate) fn keeps(&self, name: &str) -> Option<Keeps> {
        if self.is_claim(name) {
            return Some(Keeps::ForThoseAfter);
        }
        let mut found = None;
        each_of(self.volumes, |volume: PodVolume<'a>| {
            if found.is_none() && &*volume.name == name {
                found = Some(volume.keeps());
            }
        });
        found
    }

    /// Returns the names of the first few volumes that keep a file for as long as `fits` requires.
    pub(crate) fn volumes_that(&self, most: usize, fits: impl Fn(Keeps) -> bool) -> Vec<Name<'a>> {
        let mut names: Vec<Name<'a>> = Vec::new();
        each_of(self.volumes, |volume: PodVolume<'a>| {
            let fits = !volume.name.is_empty() && fits(volume.keeps());
            if fits && names.len() < most {
                names.push(volume.name);
            }
        });
        names.retain(|name| !self.is_claim(name));
        self.each_claim(|name| {
            if names.len() < most && fits(Keeps::ForThoseAfter) {
                names.push(name);
            }
        });
        names
    }

    fn is_claim(&self, name: &str) -> bool {
        let mut is = false;
        self.each_claim(|claim| is |= &*claim == name);
        is
    }

    fn each_claim(&self, take: impl FnMut(Name<'a>)) {
        each_claim(self.claims, take);
    }

    /// Returns those of these Secrets that the pod does not pull images with.
    pub(crate) fn lacks_pull_secrets<'n>(&self, names: &'n [String]) -> Vec<&'n str> {
        let mut missing: Vec<&str> = names.iter().map(String::as_str).collect();
        if !missing.is_empty() {
            each_of(self.image_pull_secrets, |secret: NamedEntry<'a>| {
                missing.retain(|name| **name != *secret.name);
            });
        }
        missing
    }
}

/// Reads the names of claims.
pub(crate) fn each_claim<'a>(claims: Option<&'a RawValue>, mut take: impl FnMut(Name<'a>)) {
    each_of(claims, |claim: VolumeClaim<'a>| {
        let name = claim.metadata.unwrap_or_default().name;
        if !name.is_empty() {
            take(name);
        }
    });
}

impl<'a> ContainerDetails<'a> {
    /// Returns whether a ConfigMap or Secret, whose names are unknown here, may set any of its variables.
    pub(crate) fn has_env_from(&self) -> bool {
        matches!(self.env_from, Some(Sources(true)))
    }

    /// Returns whether its image or its command is the manager's.
    pub(crate) fn manages(&self) -> bool {
        matches!(self.image, Some(Image(true)))
            || matches!(self.command, Some(Words(true)))
            || matches!(self.args, Some(Words(true)))
    }

    /// Returns whether it has this port.
    pub(crate) fn has_port(&self, port: u16) -> bool {
        let mut has = false;
        each_of(self.ports, |used: PortDetails| {
            has |= used.container_port == Some(u64::from(port));
        });
        has
    }

    /// Reads its mounts one by one.
    pub(crate) fn each_mount(&self, take: impl FnMut(Mount<'a>)) {
        each_of(self.volume_mounts, take);
    }
}

impl ProxyVariables {
    /// Variables of a proxy.
    pub(crate) const PROXY: [&'static str; 4] =
        ["ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"];

    /// Returns whether it has each of them, in capitals or not.
    pub(crate) fn has(self) -> [bool; Self::PROXY.len()] {
        self.0
    }
}

impl PodVolume<'_> {
    fn keeps(&self) -> Keeps {
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

impl Mount<'_> {
    /// Returns its path, without a slash at the end.
    pub(crate) fn path(&self) -> &str {
        match self.mount_path.trim_end_matches('/') {
            "" => "/",
            path => path,
        }
    }
}

impl<'de> Deserialize<'de> for Image {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let image = Text::deserialize(deserializer)?;
        let last = image.rsplit('/').next().unwrap_or_default();
        Ok(Self(last.starts_with(MANAGER)))
    }
}

impl<'de> Deserialize<'de> for Words {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut manages = false;
        each_item(deserializer, |word: Text<'de>| {
            manages |= word.rsplit('/').next() == Some(MANAGER);
        })?;
        Ok(Self(manages))
    }
}

impl<'de> Deserialize<'de> for RestartPolicy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let policy = Text::deserialize(deserializer)?;
        Ok(Self(&*policy == "Always"))
    }
}

impl<'de> Deserialize<'de> for Sources {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut any = false;
        each_item(deserializer, |_: IgnoredAny| any = true)?;
        Ok(Self(any))
    }
}

impl<'de> Deserialize<'de> for ProxyVariables {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut env = Self::default();
        each_item(deserializer, |set: NamedEntry<'de>| {
            for (has, name) in env.0.iter_mut().zip(Self::PROXY) {
                *has |= set.name.eq_ignore_ascii_case(name);
            }
        })?;
        Ok(env)
    }
}
