//! Applies a pod's spec to the decision: which kinds remain, and how each of them is placed. Pure.

use crate::annotations::{
    AuthKeyRef, DenyReason, Injection, Refusal, SkipReason, StateStorage, Tailscale,
};
use crate::keys::PREFIX;
use crate::pod::{self, Containers, Details, Keeps, MOST_CONTAINERS, Spec};
use crate::profile::Delivery;
use crate::sidecar::mode::FileMode;
use crate::sidecar::restricted::USER;
use crate::sidecar::shapes::Needs;
use crate::sidecar::{apikey_manager, proxy_env, server_keys, tailscale};

const HAND_MADE_MANAGER: &str = "no apikey-manager: the pod already has such a container; remove it, or remove this kind from annotation 'sidescale.io/inject'";
const HAND_MADE_TAILSCALE: &str = "no Tailscale sidecar: a container of the pod is named tailscale, ts-sidecar or tailscale-sidecar; remove it, or remove this kind from annotation 'sidescale.io/inject'";
const HAND_MADE_KEYS: &str = "no server keys: the pod already mounts each of these files; remove the mounts, or remove this kind from annotation 'sidescale.io/inject'";

/// Maximum number of volumes that a message names.
const MOST_NAMES: usize = 16;

/// Placement of the sidecars, as the pod's spec requires.
#[derive(Default)]
pub(crate) struct SidecarPlacement<'a> {
    pub(crate) tailscale: Option<tailscale::TailscalePlacement>,
    pub(crate) apikey_manager: Option<apikey_manager::ApiKeyManagerPlacement<'a>>,
    pub(crate) server_keys: Option<server_keys::ServerKeysPlacement<'a>>,
    /// Proxy variables that the app's containers get.
    pub(crate) proxy_env: Vec<proxy_env::Missing<'a>>,
    pub(crate) pull_secrets: PullSecrets<'a>,
    /// Warnings for the author.
    pub(crate) remarks: Vec<String>,
}

/// Secrets that our images are pulled with.
#[derive(Default)]
pub(crate) struct PullSecrets<'a> {
    /// Whether the pod has its own list.
    pub(crate) present: bool,
    /// Secrets missing from that list.
    pub(crate) missing: Vec<&'a str>,
}

/// Reason in a pod's spec against the injection that its metadata asks for.
pub(super) enum Obstacle {
    Deny(Refusal),
    Skip(SkipReason),
}

impl From<Refusal> for Obstacle {
    fn from(refusal: Refusal) -> Self {
        Self::Deny(refusal)
    }
}

/// Refuses a pod with more containers than any real one has, before reading more of them.
pub(super) fn refuse_what_is_too_large(spec: &Spec<'_>) -> Result<(), Refusal> {
    let containers = spec.containers();
    if containers <= MOST_CONTAINERS {
        return Ok(());
    }
    let message = format!(
        "the pod has {containers} containers: want at most {MOST_CONTAINERS}, including init containers"
    );
    Err(Refusal {
        reason: DenyReason::TooLarge,
        message,
    })
}

/// Removes from the injection what this pod does not support, with a remark each; if nothing remains, returns why.
pub(super) fn prune(
    injection: &mut Injection<'_>,
    spec: &Spec<'_>,
    details: Option<&Details<'_>>,
) -> Result<(), Obstacle> {
    let whole = if spec.is_windows() {
        Some(SkipReason::Windows)
    } else if spec.volumes.as_ref().is_some_and(|volumes| volumes.ours) {
        Some(SkipReason::NameTaken)
    } else {
        None
    };
    let lists = [spec.init_containers.as_ref(), spec.containers.as_ref()];
    let tailscale = if spec.host_network == Some(true) {
        Some(SkipReason::HostNetwork)
    } else if lists.iter().flatten().any(|list| list.tailscale) {
        whole.or(Some(SkipReason::HandMade))
    } else {
        whole
    };
    let manager = whole.or_else(|| {
        details
            .is_some_and(apikey_manager::is_made_by_hand)
            .then_some(SkipReason::HandMade)
    });
    let mut dropped = Vec::new();
    if let Some(reason) = tailscale
        && injection.tailscale.take().is_some()
    {
        dropped.push((reason, reason.remark().or(Some(HAND_MADE_TAILSCALE))));
    }
    if let Some(reason) = manager
        && injection.apikey_manager.take().is_some()
    {
        dropped.push((reason, reason.remark().or(Some(HAND_MADE_MANAGER))));
    }
    if let Some(reason) = whole
        && injection.server_keys.take().is_some()
    {
        dropped.push((reason, reason.remark()));
    }
    left(injection, dropped)
}

/// Keeps the remarks; fails if nothing remains to inject.
fn left(
    injection: &mut Injection<'_>,
    mut dropped: Vec<(SkipReason, Option<&str>)>,
) -> Result<(), Obstacle> {
    dropped.dedup();
    for (_, remark) in &dropped {
        injection.remarks.extend(remark.map(str::to_owned));
    }
    match dropped.first() {
        Some((reason, _)) if injection.kinds().is_empty() => Err(Obstacle::Skip(*reason)),
        _ => Ok(()),
    }
}

/// Places what remains in the pod.
pub(super) fn fit<'a>(
    injection: &mut Injection<'a>,
    spec: &Spec<'_>,
    details: Option<&'a Details<'_>>,
) -> Result<SidecarPlacement<'a>, Obstacle> {
    let lists = [spec.init_containers.as_ref(), spec.containers.as_ref()];
    let needs = if spec.resources.is_some() {
        Needs::OfThePod
    } else if lists.iter().flatten().all(|list| list.guaranteed) {
        Needs::Guaranteed
    } else {
        Needs::Configured
    };
    let mut fit = SidecarPlacement {
        pull_secrets: pull_secrets(injection, details),
        ..SidecarPlacement::default()
    };
    if let Some(sidecar) = &injection.tailscale {
        fit.tailscale = Some(fit_tailscale(sidecar, spec, details, needs)?);
        if let Some(details) = details {
            check_state(sidecar, details, &mut fit.remarks)?;
            check_proxy(sidecar, details)?;
            check_overlay(injection.profile, sidecar, details)?;
            let port = sidecar.proxy.filter(|_| sidecar.proxy_env);
            if let Some(port) = port {
                fit.proxy_env = proxy_env::missing(details, port, &mut fit.remarks)?;
            }
        }
    }
    if let (Some(manager), Some(details)) = (&injection.apikey_manager, details) {
        let manager = apikey_manager::fit(manager, details, needs)?;
        fit.remarks.extend(manager.remark());
        fit.apikey_manager = Some(manager);
    }
    if let (Some(keys), Some(details)) = (&injection.server_keys, details) {
        let keys = server_keys::fit(keys, details)?;
        if keys.is_made_by_hand() {
            injection.server_keys = None;
            left(
                injection,
                vec![(SkipReason::HandMade, Some(HAND_MADE_KEYS))],
            )?;
        } else {
            fit.remarks.extend(keys.remark());
            fit.server_keys = Some(keys);
        }
    }
    Ok(fit)
}

fn pull_secrets<'a>(injection: &Injection<'a>, details: Option<&Details<'_>>) -> PullSecrets<'a> {
    let Some(details) = details else {
        return PullSecrets::default();
    };
    PullSecrets {
        present: details.spec.image_pull_secrets.is_some(),
        missing: details.spec.lacks_pull_secrets(injection.pull_secrets),
    }
}

fn fit_tailscale(
    sidecar: &Tailscale<'_>,
    spec: &Spec<'_>,
    details: Option<&Details<'_>>,
    needs: Needs,
) -> Result<tailscale::TailscalePlacement, Refusal> {
    let delivery = if spec.share_process_namespace != Some(true) {
        sidecar.delivery
    } else if sidecar.delivery_asked && sidecar.delivery == Delivery::Env {
        let message = format!(
            "annotation \"{PREFIX}auth-key-delivery\" is \"env\": the pod has shareProcessNamespace, so every container could read the key there: want file, or remove the annotation"
        );
        return Err(Refusal {
            reason: DenyReason::NotAllowed,
            message,
        });
    } else {
        Delivery::File
    };
    let lists = [spec.init_containers.as_ref(), spec.containers.as_ref()];
    let health_port = if sidecar.wait {
        Some(free_port(lists, sidecar.proxy)?)
    } else {
        None
    };
    let security = details.and_then(|details| details.spec.security_context);
    let fs_group = security.unwrap_or_default().fs_group;
    Ok(tailscale::TailscalePlacement {
        delivery,
        key_mode: FileMode::of(Some(USER), fs_group),
        health_port,
        needs,
    })
}

/// Checks the volume: it has to exist, store the state as long as the node is to be known, and be writable by the sidecar.
fn check_state(
    sidecar: &Tailscale<'_>,
    details: &Details<'_>,
    remarks: &mut Vec<String>,
) -> Result<(), Refusal> {
    let StateStorage::Volume(volume) = sidecar.state else {
        return Ok(());
    };
    let stays = matches!(&sidecar.key, AuthKeyRef::Managed(key) if !key.ephemeral);
    let wrong = match details.spec.keeps(volume) {
        None => Some("the pod has no such volume".to_owned()),
        Some(Keeps::Nothing(kind)) => Some(format!("a volume of kind {kind} is not writable")),
        Some(Keeps::ForThePod(kind)) if stays => Some(format!(
            "a volume of kind {kind} is deleted with its pod, and with \"{PREFIX}ephemeral\" false each pod would leave a node behind"
        )),
        Some(Keeps::ForThePod(_) | Keeps::ForThoseAfter) => None,
    };
    if let Some(wrong) = wrong {
        let others = details.spec.volumes_that(MOST_NAMES, |keeps| match keeps {
            Keeps::Nothing(_) => false,
            Keeps::ForThePod(_) => !stays,
            Keeps::ForThoseAfter => true,
        });
        let names: Vec<&str> = others.iter().map(|name| &**name).collect();
        let want = match names[..] {
            [] if stays => "volume:<name> of a persistentVolumeClaim".to_owned(),
            [] => "emptydir, or volume:<name> of a writable volume".to_owned(),
            _ => format!("volume:<name> with one of {}", names.join(", ")),
        };
        let message =
            format!("annotation \"{PREFIX}state\" is \"volume:{volume}\": {wrong}, want {want}");
        return Err(Refusal {
            reason: DenyReason::BadValue,
            message,
        });
    }
    let security = details.spec.security_context.unwrap_or_default();
    if security.fs_group.is_none() {
        remarks.push(format!(
            "annotation '{PREFIX}state' is 'volume:{volume}': the sidecar runs as uid {} and can write there only if everyone can, so set the pod's securityContext.fsGroup",
            USER
        ));
    }
    Ok(())
}

/// Checks that no container running beside ours has the port of the proxy.
fn check_proxy(sidecar: &Tailscale<'_>, details: &Details<'_>) -> Result<(), Refusal> {
    let Some(port) = sidecar.proxy else {
        return Ok(());
    };
    let spec = &details.spec;
    let has = |container: &&pod::ContainerDetails<'_>| container.has_port(port);
    // Our native sidecar starts before every other init container.
    let init = spec.init_containers.iter().flatten();
    let mut init = init.filter(|_| sidecar.native);
    let mut running = spec.containers.iter().chain(spec.native_sidecars());
    let user = running.find(has).or_else(|| init.find(has));
    match user {
        Some(container) => {
            let message = format!(
                "annotation \"{PREFIX}proxy\" is \"{port}\": container {:?} uses that port, want another",
                &*container.name
            );
            Err(Refusal {
                reason: DenyReason::BadValue,
                message,
            })
        }
        None => Ok(()),
    }
}

/// Checks that the pod has the volumes that its profile mounts into the sidecar.
fn check_overlay(
    profile: &str,
    sidecar: &Tailscale<'_>,
    details: &Details<'_>,
) -> Result<(), Refusal> {
    let mut mounts = sidecar.overlay.mounts();
    let missing = mounts.find(|(volume, _)| details.spec.keeps(volume).is_none());
    let Some((volume, path)) = missing else {
        return Ok(());
    };
    let message = format!(
        "profile {profile:?} mounts volume {volume:?} at {path:?} of the sidecar with its containerOverride, and the pod has no such volume: add one of that name, or set annotation \"{PREFIX}profile\" to another profile"
    );
    Err(Refusal {
        reason: DenyReason::NotAllowed,
        message,
    })
}

fn free_port(lists: [Option<&Containers>; 2], proxy: Option<u16>) -> Result<u16, Refusal> {
    Containers::free_port(lists, proxy).ok_or_else(|| {
        let message = format!(
            "annotation \"{PREFIX}wait\" is \"true\": the health check needs a port from 9002 to 9065, and the pod's containers use all of them: free one, or remove the annotation"
        );
        Refusal { reason: DenyReason::NotAllowed, message }
    })
}
