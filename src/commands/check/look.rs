//! Reads the facts about a pod; records the reason for whatever cannot be read. I/O.

use std::collections::BTreeSet;
use std::fmt::Display;

use anyhow::{Result, bail};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, Namespace, Pod};
use kube::api::{Api, ListParams, LogParams};
use kube::{Client, Error};
use sidescale_core::secret::SecretRef;
use sidescale_webhook::annotations::NamespaceMetadata;
use sidescale_webhook::hostnames::ClaimedHostnames;
use sidescale_webhook::keys::CONTAINER;
use sidescale_webhook::sidecar::Injected;

use super::facts::{Facts, Observed, is_tailscales};
use super::headscale;
use super::words::{Refused, refused};
use crate::cluster;
use crate::commands::view::held::PlaneView;
use crate::commands::view::inventory::{Inventory, RotationWarning, injected, note};
use crate::commands::view::progress::Progress;
use crate::commands::view::release::{self, Release, ReleaseArgs};
use crate::commands::view::verify;
use crate::fences::FENCE_OPEN;
use crate::pods::start;
use crate::store::{SecretStore, Store, StoreError};
use crate::watch::Namespaces;

/// Number of log lines to read.
const LINES: i64 = 200;

/// Reads all readable facts.
///
/// # Errors
/// The pod does not exist or cannot be read.
pub(super) async fn look(
    client: &Client,
    args: &ReleaseArgs,
    namespace: &str,
    name: &str,
    progress: &Progress,
) -> Result<Facts> {
    progress.doing("Reading the pod");
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let call = format!("get pod {namespace}/{name}");
    let pod = pods.get_opt(name).await;
    let Some(pod) = pod.map_err(|error| release::refused(error, &call))? else {
        bail!(
            "namespace {namespace} has no pod {name}: kubectl get pods --namespace {namespace} shows its pods"
        );
    };
    let namespace_seen = namespace_of(client, namespace).await;
    progress.doing("Reading the configuration");
    let release = Release::of(client.clone(), args).await;
    let mut facts = Facts {
        now: Timestamp::now(),
        pod,
        namespace: namespace_seen,
        injected: Observed::NotAsked,
        policy: match &release {
            Ok(release) => Observed::Saw(release.policy.clone()),
            Err(error) => Observed::Blind(format!("{error:#}")),
        },
        secret: Observed::NotAsked,
        notes: Vec::new(),
        fences: open_fences(client, &args.namespace).await,
        plane: Observed::NotAsked,
        names: Observed::NotAsked,
        hostnames: ClaimedHostnames::default(),
        cluster_domain: None,
        log: Observed::NotAsked,
        flags: cluster::flags(&args.namespace, &args.access.release_name),
        logs: logs_command(args),
    };
    let Some(reference) = facts.reference() else {
        return Ok(facts);
    };
    let secret = SecretRef {
        namespace: namespace.to_owned(),
        name: reference.secret.clone().into_owned(),
    };
    let own_key = reference.own_key;
    progress.doing("Reading its Secret");
    let store = Store::of(SecretStore::new(client.clone()));
    let read = store.read(namespace, &secret.name).await;
    let plane = match &release {
        Ok(release) => {
            progress.doing("Asking the control plane");
            plane(release, &reference).await
        }
        // The failed read of the configuration is already a finding.
        Err(_) => Observed::NotAsked,
    };
    if let Ok(release) = &release {
        let plane = release.policy.control_planes.get(&*reference.control_plane);
        if let Some(plane) = plane.filter(|plane| !is_tailscales(&plane.login_server)) {
            progress.doing("Looking for Headscale's settings");
            facts.names = headscale::names(client, plane).await;
            facts.cluster_domain = headscale::cluster_domain(client).await;
        }
    }
    facts.hostnames = release::hostnames(client, args).await;
    progress.doing("Reading the sidecar's log");
    let log = log(&pods, &facts.pod).await;
    let siblings = injected(client, Some(namespace)).await;
    if !own_key {
        facts.notes = notes_of(client, &secret).await;
    }
    facts.secret = looked(read.map_err(|error| cluster::chain(&error)));
    facts.injected = looked(siblings.map_err(|error| format!("{error:#}")));
    (facts.plane, facts.log) = (plane, log);
    Ok(facts)
}

/// Returns the command that shows the process's own log.
fn logs_command(args: &ReleaseArgs) -> String {
    format!(
        "kubectl logs --namespace {} --selector app.kubernetes.io/instance={} --tail 100",
        args.namespace, args.access.release_name
    )
}

/// Reads what the process reported about a Secret.
async fn notes_of(client: &Client, secret: &SecretRef) -> Vec<RotationWarning> {
    let mut inventory = Inventory::default();
    let namespaces = BTreeSet::from([secret.namespace.clone()]);
    inventory.read_notes(client, &namespaces).await;
    inventory.notes.remove(secret).unwrap_or_default()
}

/// Reads the fences that the process reported; without the right to read Events there, none.
async fn open_fences(client: &Client, namespace: &str) -> Vec<RotationWarning> {
    let api: Api<Event> = Api::namespaced(client.clone(), namespace);
    let selector = format!("involvedObject.kind=ConfigMap,reason={FENCE_OPEN}");
    let Ok(events) = api.list(&ListParams::default().fields(&selector)).await else {
        return Vec::new();
    };
    let notes = events
        .items
        .into_iter()
        .filter_map(|event| note(namespace, event));
    let mut notes: Vec<RotationWarning> = notes.map(|(_, note)| note).collect();
    notes.sort_by_key(|note| std::cmp::Reverse(note.at));
    notes
}

fn looked<T>(read: Result<T, impl Display>) -> Observed<T> {
    match read {
        Ok(seen) => Observed::Saw(seen),
        Err(why) => Observed::Blind(why.to_string()),
    }
}

async fn namespace_of(client: &Client, name: &str) -> Observed<NamespaceMetadata> {
    let api: Api<Namespace> = Api::all(client.clone());
    match api.get_metadata(name).await {
        Ok(read) => {
            let namespaces = Namespaces::default();
            namespaces.take_listed(std::iter::once(read.metadata));
            let seen = namespaces.get(name);
            Observed::Saw(seen.map(|seen| (*seen).clone()).unwrap_or_default())
        }
        Err(error) => {
            let call = format!("get namespace {name}");
            Observed::Blind(format!("{:#}", release::refused(error, &call)))
        }
    }
}

/// Reads the content of the control plane, if its API key can be read here.
async fn plane(release: &Release, reference: &Injected<'_>) -> Observed<PlaneView> {
    let name = &*reference.control_plane;
    let Some(config) = release.policy.control_planes.get(name) else {
        return Observed::Blind(format!(
            "control plane {name:?} is not in the configuration"
        ));
    };
    let (namespace, secret) = (&config.api_key_namespace, &config.api_key_secret);
    match release.store.read(namespace, secret).await {
        Err(error @ StoreError::Forbidden { .. }) => Observed::Blind(cluster::chain(&error)),
        Ok(_) | Err(_) => Observed::Saw(verify::view(release, name, config).await),
    }
}

/// Returns why the control server refused the sidecar, from its log; for an exited one, from its previous log.
async fn log(pods: &Api<Pod>, pod: &Pod) -> Observed<Option<Refused>> {
    let Some(status) = start::status(pod, CONTAINER) else {
        return Observed::NotAsked;
    };
    let running = status
        .state
        .as_ref()
        .is_some_and(|state| state.running.is_some());
    if !running && status.restart_count == 0 {
        return Observed::NotAsked;
    }
    let params = |previous| LogParams {
        container: Some(CONTAINER.to_owned()),
        tail_lines: Some(LINES),
        previous,
        ..LogParams::default()
    };
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let mut found = None;
    for previous in [false, true] {
        if found.is_some() || previous && status.restart_count == 0 {
            continue;
        }
        match pods.logs(name, &params(previous)).await {
            Ok(text) => found = refused(&text),
            // A log that the machine has deleted says nothing.
            Err(_) if previous => {}
            Err(Error::Api(status)) if status.code != 403 => {}
            Err(error) => {
                let call = format!("get pods/log of {name}");
                return Observed::Blind(format!("{:#}", release::refused(error, &call)));
            }
        }
    }
    Observed::Saw(found)
}
