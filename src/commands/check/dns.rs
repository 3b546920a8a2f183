//! The names that Headscale assigns, from its configuration, and the cluster's domain, from CoreDNS's. Pure.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Container, Pod};
use serde_json::Value;
use sidescale_webhook::keys::HEADSCALE_CONTAINER;

/// The domain of nearly every cluster.
pub(super) const USUAL: &str = "cluster.local";

/// Name of Headscale's container, unless the pod's annotation names another.
const CONTAINER: &str = "headscale";

/// What is known about the names of a tailnet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum TailnetNames {
    /// Headscale's settings.
    Set(Dns),
    /// Why this cluster does not have the settings.
    Unseen(String),
}

/// Headscale's DNS settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Dns {
    /// Where they are stored, such as `ConfigMap headscale/headscale`.
    pub(super) place: String,
    /// Headscale's own URL.
    pub(super) server_url: Option<String>,
    /// Whether nodes get names at all.
    pub(super) magic: bool,
    /// The domain of these names.
    pub(super) base_domain: String,
}

/// Relation of two domains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lies {
    Apart,
    Same,
    Within,
    Around,
}

/// Returns Headscale's container, if the pod has one.
pub(super) fn headscale(pod: &Pod) -> Option<&Container> {
    let containers = &pod.spec.as_ref()?.containers;
    let annotations = pod.metadata.annotations.as_ref();
    if let Some(named) = annotations.and_then(|all| all.get(HEADSCALE_CONTAINER)) {
        return containers.iter().find(|container| container.name == *named);
    }
    let is_image = |container: &&Container| {
        let image = container.image.as_deref().unwrap_or_default();
        let last = image.rsplit('/').next().unwrap_or_default();
        last.split([':', '@']).next() == Some(CONTAINER)
    };
    let named = containers
        .iter()
        .find(|container| container.name == CONTAINER);
    named.or_else(|| containers.iter().find(is_image))
}

/// Returns the ConfigMaps that the pod mounts, or takes variables from.
pub(super) fn config_maps(pod: &Pod) -> Vec<String> {
    let Some(spec) = &pod.spec else {
        return Vec::new();
    };
    let mut names = Vec::new();
    for volume in spec.volumes.iter().flatten() {
        names.extend(volume.config_map.iter().map(|map| map.name.clone()));
        let projected = volume.projected.iter().flat_map(|all| &all.sources);
        let maps = projected
            .flatten()
            .filter_map(|source| source.config_map.as_ref());
        names.extend(maps.map(|map| map.name.clone()));
    }
    let from = headscale(pod).and_then(|container| container.env_from.as_ref());
    let from = from.into_iter().flatten();
    names.extend(from.filter_map(|source| Some(source.config_map_ref.as_ref()?.name.clone())));
    let mut known = BTreeSet::new();
    names.retain(|name| !name.is_empty() && known.insert(name.clone()));
    names
}

/// Returns Headscale's settings from the ConfigMaps of its pod: the file with its URL, and variables, which take
/// precedence.
pub(super) fn settings(pod: &Pod, maps: &[(String, BTreeMap<String, String>)]) -> Option<Dns> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let variable = |name: &str| {
        let own = headscale(pod)?.env.iter().flatten();
        let own = own.filter(|variable| variable.name == name);
        let own = own.filter_map(|variable| variable.value.clone()).next();
        own.or_else(|| maps.iter().find_map(|(_, data)| data.get(name).cloned()))
    };
    let file = maps.iter().find_map(|(name, data)| {
        let file = data.values().find_map(|text| parsed(text))?;
        Some((format!("ConfigMap {namespace}/{name}"), file))
    });
    let server_url = variable("HEADSCALE_SERVER_URL");
    let (place, file) = match file {
        Some(found) => found,
        None => {
            server_url.as_ref()?;
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            (format!("variables of pod {namespace}/{name}"), Value::Null)
        }
    };
    let dns = &file["dns"];
    let magic = variable("HEADSCALE_DNS_MAGIC_DNS").or_else(|| text(&dns["magic_dns"]));
    let base = variable("HEADSCALE_DNS_BASE_DOMAIN").or_else(|| text(&dns["base_domain"]));
    Some(Dns {
        place,
        server_url: server_url.or_else(|| text(&file["server_url"])),
        // On by default.
        magic: magic.is_none_or(|magic| !["false", "0", "f"].contains(&&*magic.to_lowercase())),
        base_domain: base.unwrap_or_default(),
    })
}

/// Parses a configuration file of Headscale: other content of its ConfigMaps, such as a policy, has no such URL.
fn parsed(text: &str) -> Option<Value> {
    let file: Value = serde_saphyr::from_str(text).ok()?;
    file.get("server_url")?;
    Some(file)
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Null | Value::Number(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

/// Returns the cluster's domain from CoreDNS's configuration: the first zone of its plugin `kubernetes` that is not for
/// addresses.
pub(super) fn cluster_domain(corefile: &str) -> Option<String> {
    let lines = corefile.lines().map(str::trim);
    let mut zones = lines.filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("kubernetes")).then_some(words)
    });
    let mut zones = zones.next()?.take_while(|word| *word != "{");
    let zone = zones.find(|zone| !zone.trim_end_matches('.').ends_with(".arpa"))?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "-.".contains(c);
    zone.chars().all(plain).then(|| normal(zone))
}

/// Returns the relation of the tailnet's domain to the cluster's.
pub(super) fn lies(tailnet: &str, cluster: &str) -> Lies {
    let (tailnet, cluster) = (normal(tailnet), normal(cluster));
    let within = |inner: &str, outer: &str| {
        let rest = inner.strip_suffix(outer);
        rest.is_some_and(|rest| rest.ends_with('.'))
    };
    if tailnet.is_empty() || cluster.is_empty() {
        Lies::Apart
    } else if tailnet == cluster {
        Lies::Same
    } else if within(&tailnet, &cluster) {
        Lies::Within
    } else if within(&cluster, &tailnet) {
        Lies::Around
    } else {
        Lies::Apart
    }
}

fn normal(domain: &str) -> String {
    domain.trim_end_matches('.').to_ascii_lowercase()
}
