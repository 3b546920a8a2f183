//! The lean view of a pod: borrowed from the body; a part read only once is stored as a count or a flag. Pure.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};

mod containers;
mod details;
mod labels;

pub(crate) use containers::Containers;
pub(crate) use details::{ContainerDetails, Details, Keeps, Mount, ProxyVariables, each_claim};
pub(crate) use labels::{AllLabels, Labelled, Unread};

use crate::annotations::is_known;
use crate::identity::WorkloadOwner;
use crate::json::each_item;
use crate::keys::{
    KEY_WRITTEN, PREFIX, SAFE_TO_EVICT, SERVER_KEYS, SIDECAR_LABEL, STATUS, VOLUME_PREFIX,
};
use crate::lookup::Lookup;
use crate::text::{Name, Text};

/// Maximum number of containers of an injected pod, including init containers.
pub(crate) const MOST_CONTAINERS: usize = 512;
/// Maximum number of unknown annotations under our prefix stored for a pod: more than get a remark each.
const MOST_UNKNOWN: usize = 16;

/// Inputs of an injection decision; `null` and absent are equal.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Pod<'a> {
    #[serde(borrow)]
    pub(crate) metadata: Option<Metadata<'a>>,
    #[serde(borrow)]
    pub(crate) spec: Option<Spec<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Metadata<'a> {
    #[serde(borrow)]
    pub(crate) name: Option<Name<'a>>,
    #[serde(borrow)]
    pub(crate) generate_name: Option<Name<'a>>,
    #[serde(borrow)]
    pub(crate) labels: Option<ServiceLabels<'a>>,
    #[serde(borrow)]
    pub(crate) annotations: Option<Annotations<'a>>,
    #[serde(borrow)]
    pub(crate) owner_references: Option<Controller<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Spec<'a> {
    pub(crate) host_network: Option<bool>,
    pub(crate) share_process_namespace: Option<bool>,
    #[serde(borrow)]
    pub(crate) os: Option<Os<'a>>,
    #[serde(borrow)]
    pub(crate) node_selector: Option<NodeSelector<'a>>,
    pub(crate) init_containers: Option<Containers>,
    pub(crate) containers: Option<Containers>,
    pub(crate) volumes: Option<Volumes>,
    /// Requests and limits of the pod as a whole; its containers then need none.
    pub(crate) resources: Option<IgnoredAny>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Os<'a> {
    #[serde(borrow)]
    name: Option<Text<'a>>,
}

/// Labels that a service is derived from, and ours.
#[derive(Debug, Default)]
pub(crate) struct ServiceLabels<'a> {
    pub(crate) template_hash: Option<Text<'a>>,
    rollouts_hash: Option<Text<'a>>,
    pub(crate) sidecar: Option<Text<'a>>,
}

/// Annotations under our prefix, whether the kubelet created the pod from a file, and the autoscaler's list of volumes.
#[derive(Debug, Default)]
pub(crate) struct Annotations<'a> {
    ours: Vec<(Name<'a>, Text<'a>)>,
    /// Number of unknown ones stored, and of those only counted.
    unknown: usize,
    more: usize,
    pub(crate) mirror: bool,
    pub(crate) safe_to_evict: Option<Text<'a>>,
}

/// The owner that is the controller.
#[derive(Debug, Default)]
pub(crate) struct Controller<'a>(Option<OwnerReference<'a>>);

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct OwnerReference<'a> {
    #[serde(borrow)]
    kind: Option<Name<'a>>,
    #[serde(borrow)]
    name: Option<Name<'a>>,
    controller: Option<bool>,
}

/// Operating system that the pod asks for.
#[derive(Debug, Default)]
pub(crate) struct NodeSelector<'a>(Option<Text<'a>>);

/// Whether a volume has a name that Sidescale uses, and which.
#[derive(Debug, Default)]
pub(crate) struct Volumes {
    pub(crate) ours: bool,
    pub(crate) server_keys: bool,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct VolumeName<'a> {
    #[serde(borrow)]
    name: Option<Name<'a>>,
}

impl<'a> Controller<'a> {
    /// Returns an owner that does not exist yet.
    pub(crate) fn of(kind: &'static str, name: String) -> Self {
        Self(Some(OwnerReference {
            kind: Some(Cow::Borrowed(kind).into()),
            name: Some(Cow::<'a, str>::Owned(name).into()),
            controller: Some(true),
        }))
    }
}

impl Volumes {
    /// Adds one.
    pub(crate) fn add(&mut self, name: &str) {
        self.ours |= name.starts_with(VOLUME_PREFIX);
        self.server_keys |= name == SERVER_KEYS;
    }
}

impl Metadata<'_> {
    /// Returns the controller.
    pub(crate) fn owner(&self) -> Option<WorkloadOwner<'_>> {
        let OwnerReference {
            kind,
            name,
            controller: _,
        } = self.owner_references.as_ref()?.0.as_ref()?;
        Some(WorkloadOwner {
            kind: kind.as_deref()?,
            name: name.as_deref()?,
        })
    }
}

impl Annotations<'_> {
    /// Returns the receipt, if there is one.
    pub(crate) fn status(&self) -> Option<&str> {
        self.value(STATUS)
    }

    /// Returns whether the author wrote an annotation under our prefix.
    pub(crate) fn asks(&self) -> bool {
        let written_by_us = [STATUS, KEY_WRITTEN];
        self.ours
            .iter()
            .any(|(key, _)| !written_by_us.contains(&&**key))
    }
}

impl<'de> Annotations<'de> {
    /// Stores known keys, the last of each that comes twice, and some of the others.
    fn of_ours<M: MapAccess<'de>>(
        &mut self,
        key: &Text<'de>,
        map: &mut M,
    ) -> Result<Kept, M::Error> {
        if !is_known(key) {
            if self.unknown < MOST_UNKNOWN {
                self.unknown += 1;
                self.ours.push((key.0.clone().into(), Text::default()));
            } else {
                self.more += 1;
            }
            return Ok(Kept::No);
        }
        let value = map.next_value::<Option<Text<'de>>>()?.unwrap_or_default();
        match self.ours.iter_mut().find(|(known, _)| **known == **key) {
            Some((_, kept)) => *kept = value,
            None => self.ours.push((key.0.clone().into(), value)),
        }
        Ok(Kept::Yes)
    }
}

impl Spec<'_> {
    /// Returns the number of the pod's containers, including init containers.
    pub(crate) fn containers(&self) -> usize {
        let lists = [&self.init_containers, &self.containers];
        lists.into_iter().flatten().map(|list| list.count).sum()
    }

    /// Returns whether the pod runs on Windows nodes.
    pub(crate) fn is_windows(&self) -> bool {
        let os = self.os.as_ref().and_then(|os| os.name.as_deref());
        let selected = self
            .node_selector
            .as_ref()
            .and_then(|selector| selector.0.as_deref());
        os == Some("windows") || selected == Some("windows")
    }
}

impl Lookup for Annotations<'_> {
    fn value(&self, key: &str) -> Option<&str> {
        self.ours
            .iter()
            .find(|(name, _)| &**name == key)
            .map(|(_, value)| &**value)
    }

    fn ours(&self) -> Box<dyn Iterator<Item = (&str, &str)> + '_> {
        let kept = self.ours.iter().map(|(key, value)| (&**key, &**value));
        // Those only counted have lost their name, which was no known one.
        Box::new(kept.chain(std::iter::repeat_n((PREFIX, ""), self.more)))
    }
}

impl Lookup for ServiceLabels<'_> {
    fn value(&self, key: &str) -> Option<&str> {
        match key {
            "pod-template-hash" => self.template_hash.as_deref(),
            "rollouts-pod-template-hash" => self.rollouts_hash.as_deref(),
            _ => None,
        }
    }

    fn ours(&self) -> Box<dyn Iterator<Item = (&str, &str)> + '_> {
        Box::new(std::iter::empty())
    }
}

/// A map that is read entry by entry, and of which little is stored.
trait Entries<'de>: Default {
    fn entry<M: MapAccess<'de>>(&mut self, key: &Text<'de>, map: &mut M) -> Result<Kept, M::Error>;
}

/// Whether an entry's value was read.
enum Kept {
    Yes,
    No,
}

struct EntriesVisitor<T>(PhantomData<T>);

impl<'de, T: Entries<'de>> Visitor<'de> for EntriesVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of strings")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<T, M::Error> {
        let mut entries = T::default();
        while let Some(key) = map.next_key::<Text<'de>>()? {
            if let Kept::No = entries.entry(&key, &mut map)? {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(entries)
    }
}

impl<'de> Entries<'de> for ServiceLabels<'de> {
    fn entry<M: MapAccess<'de>>(&mut self, key: &Text<'de>, map: &mut M) -> Result<Kept, M::Error> {
        match &**key {
            "pod-template-hash" => self.template_hash = map.next_value()?,
            "rollouts-pod-template-hash" => self.rollouts_hash = map.next_value()?,
            SIDECAR_LABEL => self.sidecar = map.next_value()?,
            _ => return Ok(Kept::No),
        }
        Ok(Kept::Yes)
    }
}

impl<'de> Entries<'de> for Annotations<'de> {
    fn entry<M: MapAccess<'de>>(&mut self, key: &Text<'de>, map: &mut M) -> Result<Kept, M::Error> {
        if key.starts_with(PREFIX) {
            return self.of_ours(key, map);
        }
        if &**key == SAFE_TO_EVICT {
            self.safe_to_evict = map.next_value()?;
            return Ok(Kept::Yes);
        }
        self.mirror |= &**key == "kubernetes.io/config.mirror";
        Ok(Kept::No)
    }
}

impl<'de> Entries<'de> for NodeSelector<'de> {
    fn entry<M: MapAccess<'de>>(&mut self, key: &Text<'de>, map: &mut M) -> Result<Kept, M::Error> {
        if &**key != "kubernetes.io/os" {
            return Ok(Kept::No);
        }
        self.0 = map.next_value()?;
        Ok(Kept::Yes)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for ServiceLabels<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EntriesVisitor::<ServiceLabels<'de>>(PhantomData))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Annotations<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EntriesVisitor::<Annotations<'de>>(PhantomData))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for NodeSelector<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EntriesVisitor::<NodeSelector<'de>>(PhantomData))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Controller<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut controller = None;
        each_item(deserializer, |owner: OwnerReference<'de>| {
            if owner.controller == Some(true) {
                controller = Some(owner);
            }
        })?;
        Ok(Controller(controller))
    }
}

impl<'de> Deserialize<'de> for Volumes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut volumes = Volumes::default();
        each_item(deserializer, |volume: VolumeName<'de>| {
            volumes.add(&volume.name.unwrap_or_default());
        })?;
        Ok(volumes)
    }
}
