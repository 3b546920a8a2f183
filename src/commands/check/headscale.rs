//! Reads Headscale's configuration if its pod runs in this cluster, and the cluster's domain. I/O.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{Api, ListParams};
use kube::{Client, Error};
use sidescale_webhook::profile::ControlPlaneSettings;

use super::dns::{self, Dns, TailnetNames};
use super::facts::Observed;
use crate::commands::view::release;

/// Maximum number of pods to read: a namespace of Headscale has few, a shared one may have many.
const PODS: u32 = 500;

/// Returns what is known about the names that this control plane assigns.
pub(super) async fn names(client: &Client, plane: &ControlPlaneSettings) -> Observed<TailnetNames> {
    let namespace = &plane.api_key_namespace;
    match found(client, namespace).await {
        Err(why) => Observed::Blind(why),
        Ok((_, 0)) => Observed::Saw(TailnetNames::Unseen(format!(
            "no pod of Headscale runs in namespace {namespace}"
        ))),
        Ok((settings, _)) => Observed::Saw(chosen(settings, plane).map_or_else(
            || {
                TailnetNames::Unseen(format!(
                    "Headscale's pod in namespace {namespace} does not take its configuration from a ConfigMap"
                ))
            },
            TailnetNames::Set,
        )),
    }
}

/// Returns the settings of the server that sidecars log in to, if there are several.
fn chosen(settings: Vec<Dns>, plane: &ControlPlaneSettings) -> Option<Dns> {
    let plain = |url: &str| url.trim_end_matches('/').to_owned();
    let is_it = |dns: &Dns| {
        let url = dns.server_url.as_deref();
        url.is_some_and(|url| plain(url) == plain(&plane.login_server))
    };
    let it = settings.iter().position(is_it).unwrap_or_default();
    settings.into_iter().nth(it)
}

/// Returns the settings of every Headscale in a namespace, and the number of Headscale pods.
async fn found(client: &Client, namespace: &str) -> Result<(Vec<Dns>, usize), String> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let listed = pods.list(&ListParams::default().limit(PODS)).await;
    let call = format!("list pods in namespace {namespace}");
    let listed = listed.map_err(|error| refused(error, &call))?;
    let all = listed.items.into_iter();
    let servers: Vec<Pod> = all.filter(|pod| dns::headscale(pod).is_some()).collect();
    let mut settings = Vec::new();
    for pod in &servers {
        let mut maps = Vec::new();
        for name in dns::config_maps(pod) {
            if let Some(data) = config_map(client, namespace, &name).await? {
                maps.push((name, data));
            }
        }
        settings.extend(dns::settings(pod, &maps));
    }
    Ok((settings, servers.len()))
}

/// Returns the cluster's domain, if CoreDNS is configured by a readable ConfigMap; most people have no right to read
/// it.
pub(super) async fn cluster_domain(client: &Client) -> Option<String> {
    let data = config_map(client, "kube-system", "coredns").await;
    dns::cluster_domain(data.ok()??.get("Corefile")?)
}

async fn config_map(
    client: &Client,
    namespace: &str,
    name: &str,
) -> Result<Option<BTreeMap<String, String>>, String> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let read = api.get_opt(name).await;
    let call = format!("get ConfigMap {namespace}/{name}");
    let read = read.map_err(|error| refused(error, &call))?;
    Ok(read.map(|map| map.data.unwrap_or_default()))
}

fn refused(error: Error, call: &str) -> String {
    format!("{:#}", release::refused(error, call))
}
