//! Additions -> JSON Patch: only `add`, parents before children, straight into one buffer. Pure.

use serde::Serialize;

use crate::annotations::Injection;
use crate::mutate::Fit;
use crate::pod::{Containers, Metadata, Spec};
use crate::sidecar::shapes::Mount;
use crate::sidecar::{Receipt, apikey_manager, tailscale};

/// Collects operations as JSON.
#[derive(Debug)]
pub(crate) struct Patch {
    json: Vec<u8>,
}

#[derive(Serialize)]
struct Add<'a, V> {
    op: &'static str,
    path: &'a str,
    value: &'a V,
}

impl Patch {
    pub(crate) fn new() -> Self {
        // One sidecar takes about 3 KB.
        let mut json = Vec::with_capacity(4096);
        json.push(b'[');
        Self { json }
    }

    /// Adds `value` at `path`, whose parent exists or was added before.
    pub(crate) fn add<V: Serialize>(&mut self, path: &str, value: &V) {
        if self.json.len() > 1 {
            self.json.push(b',');
        }
        write(
            &mut self.json,
            &Add {
                op: "add",
                path,
                value,
            },
        );
    }

    fn status(&mut self, metadata: &Metadata<'_>, text: &str) {
        match metadata.annotations {
            Some(_) => self.add("/metadata/annotations/sidescale.io~1status", &text),
            None => self.add("/metadata/annotations", &StatusMap { status: text }),
        }
    }

    /// Adds mounts to Headscale's container.
    fn mounts(&mut self, fit: &Fit<'_>) {
        let manager = fit.apikey_manager.as_ref();
        let manager = manager.and_then(|manager| manager.mount_of_headscale());
        let keys = fit.server_keys.as_ref();
        let keys = keys.map(|keys| keys.mounts_of_headscale());
        let found = manager.as_ref().map(|(headscale, _)| *headscale);
        let Some(headscale) = found.or(keys.as_ref().map(|(headscale, _)| *headscale)) else {
            return;
        };
        let mut mounts: Vec<Mount<'_>> = Vec::new();
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

    /// The finished array.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.json.push(b']');
        self.json
    }
}

#[derive(Serialize)]
struct StatusMap<'a> {
    #[serde(rename = "sidescale.io/status")]
    status: &'a str,
}

#[derive(Serialize)]
struct LabelMap<'a> {
    #[serde(rename = "sidescale.io/sidecar")]
    sidecar: &'a str,
}

/// Adds what fits, with its volumes, the label and the receipt.
pub(crate) fn injection(
    metadata: &Metadata<'_>,
    spec: &Spec<'_>,
    injection: &Injection<'_>,
    fit: &Fit<'_>,
    receipt: &Receipt<'_>,
    namespace: &str,
) -> Vec<u8> {
    let mut patch = Patch::new();
    let mut text = Vec::with_capacity(384);
    write(&mut text, receipt);
    let sidecar = injection.kinds().as_str();
    match metadata.labels {
        Some(_) => patch.add("/metadata/labels/sidescale.io~1sidecar", &sidecar),
        None => patch.add("/metadata/labels", &LabelMap { sidecar }),
    }
    patch.status(metadata, &String::from_utf8_lossy(&text));
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
            // First, so that the pod's own init containers find the tailnet.
            Some(Containers { .. }) => patch.add("/spec/initContainers/0", &container),
            None => patch.add("/spec/initContainers", &[container]),
        }
    }
    patch.mounts(fit);
    if let (Some(manager), Some(fit)) = (&injection.apikey_manager, &fit.apikey_manager) {
        let container = apikey_manager::container(manager, fit, namespace);
        patch.add("/spec/containers/-", &container);
    }
    patch.finish()
}

/// Adds the receipt alone.
pub(crate) fn receipt(metadata: &Metadata<'_>, text: &str) -> Vec<u8> {
    let mut patch = Patch::new();
    patch.status(metadata, text);
    patch.finish()
}

/// Appends `value` as JSON.
pub(crate) fn write<V: Serialize>(buffer: &mut Vec<u8>, value: &V) {
    #[expect(
        clippy::expect_used,
        reason = "a Vec takes every byte, and our own types have only text as keys"
    )]
    serde_json::to_writer(buffer, value).expect("our own types are JSON");
}
