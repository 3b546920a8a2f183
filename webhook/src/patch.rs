//! Additions -> JSON Patch: only `add`, parents before children, straight into one buffer. Pure.

use serde::Serialize;

use crate::annotations::Injection;
use crate::json::write;
use crate::mutate::{PullSecrets, SidecarPlacement};
use crate::pod::{Containers, Metadata, Spec};
use crate::sidecar::shapes::{SidecarMount, SidecarVolume};
use crate::sidecar::{Receipt, apikey_manager, tailscale};

/// Operations, as JSON.
#[derive(Debug)]
pub(crate) struct Patch {
    json: Vec<u8>,
}

impl Patch {
    pub(crate) fn new() -> Self {
        // One sidecar takes about 3 KB.
        let mut json = Vec::with_capacity(4096);
        json.push(b'[');
        Self { json }
    }

    /// Adds `value` at `path`, whose parent exists or was added before. Our paths contain nothing that JSON escapes.
    pub(crate) fn add<V: Serialize>(&mut self, path: &str, value: &V) {
        if self.json.len() > 1 {
            self.json.push(b',');
        }
        self.json.extend_from_slice(br#"{"op":"add","path":""#);
        self.json.extend_from_slice(path.as_bytes());
        self.json.extend_from_slice(br#"","value":"#);
        write(&mut self.json, value);
        self.json.push(b'}');
    }

    fn annotations(&mut self, metadata: &Metadata<'_>, status: &str, evictable: Option<&str>) {
        if metadata.annotations.is_none() {
            return self.add(
                "/metadata/annotations",
                &AnnotationMap { evictable, status },
            );
        }
        self.add("/metadata/annotations/sidescale.io~1status", &status);
        if let Some(evictable) = evictable {
            self.add(
                "/metadata/annotations/cluster-autoscaler.kubernetes.io~1safe-to-evict-local-volumes",
                &evictable,
            );
        }
    }

    /// Adds mounts to Headscale's container.
    fn mounts(&mut self, fit: &SidecarPlacement<'_>) {
        let manager = fit.apikey_manager.as_ref();
        let manager = manager.and_then(|manager| manager.mount_of_headscale());
        let keys = fit.server_keys.as_ref();
        let keys = keys.map(|keys| keys.mounts_of_headscale());
        let found = manager.as_ref().map(|(headscale, _)| *headscale);
        let Some(headscale) = found.or(keys.as_ref().map(|(headscale, _)| *headscale)) else {
            return;
        };
        let mut mounts: Vec<SidecarMount<'_>> = Vec::new();
        mounts.extend(manager.map(|(_, mount)| mount));
        mounts.extend(keys.into_iter().flat_map(|(_, mounts)| mounts));
        let path = format!("/spec/containers/{}/volumeMounts", headscale.place);
        match headscale.container.volume_mounts {
            Some(_) => mounts
                .iter()
                .for_each(|mount| self.add(&format!("{path}/-"), mount)),
            None => self.add(&path, &mounts),
        }
    }

    /// Adds the Secrets that our images are pulled with and that the pod lacks.
    fn pull_secrets(&mut self, fit: &SidecarPlacement<'_>) {
        let PullSecrets { present, missing } = &fit.pull_secrets;
        let missing: Vec<_> = missing.iter().map(|name| Reference { name }).collect();
        if missing.is_empty() {
            return;
        }
        if *present {
            missing
                .iter()
                .for_each(|secret| self.add("/spec/imagePullSecrets/-", secret));
        } else {
            self.add("/spec/imagePullSecrets", &missing);
        }
    }

    /// Returns the finished array.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.json.push(b']');
        self.json
    }
}

#[derive(Serialize)]
struct AnnotationMap<'a> {
    #[serde(
        rename = "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes",
        skip_serializing_if = "Option::is_none"
    )]
    evictable: Option<&'a str>,
    #[serde(rename = "sidescale.io/status")]
    status: &'a str,
}

#[derive(Serialize)]
struct LabelMap<'a> {
    #[serde(rename = "sidescale.io/sidecar")]
    sidecar: &'a str,
}

#[derive(Serialize)]
struct Reference<'a> {
    name: &'a str,
}

/// Returns the patch that adds the sidecars, with their volumes, the label and the receipt.
pub(crate) fn injection(
    metadata: &Metadata<'_>,
    spec: &Spec<'_>,
    injection: &Injection<'_>,
    fit: &SidecarPlacement<'_>,
    receipt: &Receipt<'_>,
    namespace: &str,
) -> Vec<u8> {
    let mut patch = Patch::new();
    // A receipt takes some 300 bytes.
    let mut text = Vec::with_capacity(384);
    write(&mut text, receipt);
    let text = String::from_utf8(text).unwrap_or_default();
    let sidecar = injection.kinds().as_str();
    match metadata.labels {
        Some(_) => patch.add("/metadata/labels/sidescale.io~1sidecar", &sidecar),
        None => patch.add("/metadata/labels", &LabelMap { sidecar }),
    }
    let mut volumes = Vec::with_capacity(8);
    if let (Some(sidecar), Some(fit)) = (&injection.tailscale, fit.tailscale) {
        tailscale::volumes(sidecar, fit, &mut volumes);
    }
    if let Some(fit) = &fit.apikey_manager {
        fit.volumes(&mut volumes);
    }
    if let (Some(keys), Some(fit)) = (&injection.server_keys, &fit.server_keys) {
        fit.volumes(keys, &mut volumes);
    }
    let evictable = evictable(metadata, &volumes);
    patch.annotations(metadata, &text, evictable.as_deref());
    match spec.volumes {
        Some(_) => volumes
            .iter()
            .for_each(|volume| patch.add("/spec/volumes/-", volume)),
        None if volumes.is_empty() => {}
        None => patch.add("/spec/volumes", &volumes),
    }
    if let (Some(sidecar), Some(fit)) = (&injection.tailscale, fit.tailscale) {
        let port = fit
            .health_port
            .map(|port| port.to_string())
            .unwrap_or_default();
        let container = tailscale::container(sidecar, fit, &port);
        match &spec.init_containers {
            _ if !sidecar.native => patch.add("/spec/containers/-", &container),
            // First: the pod's own init containers can then reach the tailnet.
            Some(Containers { .. }) => patch.add("/spec/initContainers/0", &container),
            None => patch.add("/spec/initContainers", &[container]),
        }
    }
    patch.pull_secrets(fit);
    patch.mounts(fit);
    for missing in &fit.proxy_env {
        let path = format!("/spec/containers/{}/env", missing.place);
        match missing.container.env {
            Some(_) => missing
                .env()
                .for_each(|env| patch.add(&format!("{path}/-"), &env)),
            None => patch.add(&path, &missing.env().collect::<Vec<_>>()),
        }
    }
    if let (Some(manager), Some(fit)) = (&injection.apikey_manager, &fit.apikey_manager) {
        let container = apikey_manager::container(manager, fit, namespace);
        patch.add("/spec/containers/-", &container);
    }
    patch.finish()
}

/// Lists our empty volumes after those that the pod lists: otherwise they would keep the autoscaler from moving it.
fn evictable(metadata: &Metadata<'_>, volumes: &[SidecarVolume<'_>]) -> Option<String> {
    let mut names = String::with_capacity(128);
    let annotations = metadata.annotations.as_ref();
    let theirs = annotations.and_then(|annotations| annotations.safe_to_evict.as_deref());
    names.push_str(theirs.unwrap_or_default());
    let mut any = false;
    for volume in volumes {
        if volume.is_empty_dir() {
            if !names.is_empty() {
                names.push(',');
            }
            names.push_str(volume.name);
            any = true;
        }
    }
    any.then_some(names)
}

/// Returns the patch that adds only the receipt.
pub(crate) fn receipt(metadata: &Metadata<'_>, text: &str) -> Vec<u8> {
    let mut patch = Patch::new();
    patch.annotations(metadata, text, None);
    patch.finish()
}
