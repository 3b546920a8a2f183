//! The manager of Headscale's API key: its container, the socket's directory that both share, its token. Pure.

use std::sync::LazyLock;

use super::TOKEN_DIRECTORY;
use super::rendered::{EmptyDirectory, Rendered};
use super::shapes::{
    FieldItem, FieldRef, Item, Needs, Projected, Projection, Security, SidecarContainer,
    SidecarMount, SidecarResources, SidecarSecurityContext, SidecarVolume,
};
use crate::annotations::{ApikeyManager, DenyReason, Refusal};
use crate::forms;
use crate::headscale::Headscale;
use crate::keys::{MANAGER, PREFIX};
use crate::pod::{self, Details};

const SOCKET: &str = "sidescale-headscale-socket";
const TOKEN: &str = "sidescale-token";

/// Longest path that Linux accepts.
const LONGEST: usize = 4096;

static SOCKET_DIRECTORY: LazyLock<EmptyDirectory> =
    LazyLock::new(|| EmptyDirectory::new(SOCKET, "1Mi"));
static TOKEN_SOURCES: LazyLock<Rendered> = LazyLock::new(token);

// As in the kubelet's own token volume: an hour, and a little for clocks that differ.
const TOKEN_SECONDS: u32 = 3607;

/// Placement of the manager, as the pod's spec requires.
#[derive(Debug)]
pub(crate) struct ApiKeyManagerPlacement<'a> {
    headscale: Headscale<'a>,
    /// The socket's location for the manager: a mount of Headscale, or one of ours.
    socket: Socket<'a>,
    /// Whether the manager needs its own token.
    token: bool,
    needs: Needs,
}

#[derive(Debug)]
enum Socket<'a> {
    /// Headscale mounts this volume there, or above it.
    Existing(pod::Mount<'a>),
    /// Both get an empty volume there.
    New { directory: &'a str },
}

/// Returns whether a container, of any name, already does the manager's work, or has its name, which is unique in a pod.
pub(crate) fn is_made_by_hand(details: &Details<'_>) -> bool {
    let spec = &details.spec;
    let mut init = spec.init_containers.iter().flatten();
    let mut running = spec.containers.iter().chain(spec.native_sidecars());
    init.any(|container| &*container.name == MANAGER)
        || running.any(|container| &*container.name == MANAGER || container.manages())
}

/// Finds Headscale, and what the manager has to share with it.
pub(crate) fn fit<'a>(
    manager: &ApikeyManager<'a>,
    details: &'a Details<'_>,
    needs: Needs,
) -> Result<ApiKeyManagerPlacement<'a>, Refusal> {
    let headscale = Headscale::find(details, manager.container)?;
    let directory = manager
        .socket_path
        .rsplit_once('/')
        .map_or("", |(directory, _)| directory);
    // The innermost mount is the one that will contain the socket.
    let mut around: Option<pod::Mount<'a>> = None;
    headscale.container.each_mount(|mount| {
        let length = around.as_ref().map_or(0, |around| around.path().len());
        if is_in(directory, mount.path()) && mount.path().len() >= length {
            around = Some(mount);
        }
    });
    let socket = match around {
        None => Socket::New { directory },
        Some(mount) if mount.sub_path_expr.is_some() => {
            let message = format!(
                "container {:?} mounts {:?} by subPathExpr, which the apikey-manager cannot share: mount an emptyDir at {directory:?}, or set annotation \"{PREFIX}socket-path\" to another directory",
                &*headscale.container.name,
                mount.path()
            );
            return Err(Refusal {
                reason: DenyReason::NoHeadscale,
                message,
            });
        }
        Some(mount) if is_too_long(&mount) => {
            let message = format!(
                "container {:?} mounts {:?} by a name or subPath of more than {LONGEST} bytes, which the apikey-manager cannot share: mount an emptyDir at {directory:?}, or set annotation \"{PREFIX}socket-path\" to another directory",
                &*headscale.container.name,
                mount.path()
            );
            return Err(Refusal {
                reason: DenyReason::NoHeadscale,
                message,
            });
        }
        Some(mount) => Socket::Existing(mount),
    };
    Ok(ApiKeyManagerPlacement {
        token: lacks_token(details, &headscale),
        headscale,
        socket,
        needs,
    })
}

/// Returns whether a mount is longer than Linux lets a path be: we would write it a second time.
fn is_too_long(mount: &pod::Mount<'_>) -> bool {
    let sub_path = mount.sub_path.as_deref().unwrap_or_default();
    mount.name.len().max(sub_path.len()) > LONGEST
}

/// Returns whether `directory` is `mount` or below it.
fn is_in(directory: &str, mount: &str) -> bool {
    directory
        .strip_prefix(mount)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Returns whether the pod or its account turned the token off.
///
/// The API server mounts it before it calls webhooks: if it named an account and mounted nothing, the token is off.
fn lacks_token(details: &Details<'_>, headscale: &Headscale<'_>) -> bool {
    let spec = &details.spec;
    let mut mounted = false;
    headscale
        .container
        .each_mount(|mount| mounted |= mount.path() == TOKEN_DIRECTORY);
    match spec.automount_service_account_token {
        Some(automount) => !automount,
        None => spec.service_account_name.is_some() && !mounted,
    }
}

impl<'a> ApiKeyManagerPlacement<'a> {
    /// Returns a remark if it is unknown which user Headscale runs as.
    pub(crate) fn remark(&self) -> Option<String> {
        let unknown = self.headscale.user.same().0.is_none();
        unknown.then(|| format!(
            "container '{}' runs as its image's own user: the apikey-manager can use the socket only if that is 65532, so set securityContext.runAsUser",
            &*self.headscale.container.name
        ))
    }

    /// Returns the mount that Headscale's container needs, and that container.
    pub(crate) fn mount_of_headscale(&self) -> Option<(&Headscale<'a>, SidecarMount<'a>)> {
        match self.socket {
            Socket::Existing(_) => None,
            Socket::New { directory } => {
                Some((&self.headscale, SidecarMount::writable(SOCKET, directory)))
            }
        }
    }

    /// Appends the volumes.
    pub(crate) fn volumes(&self, volumes: &mut Vec<SidecarVolume<'a>>) {
        if let Socket::New { .. } = self.socket {
            volumes.push(SidecarVolume::empty(&SOCKET_DIRECTORY));
        }
        if self.token {
            volumes.push(SidecarVolume::projected(TOKEN, &TOKEN_SOURCES));
        }
    }
}

/// Builds the container.
pub(crate) fn container<'a>(
    manager: &'a ApikeyManager<'_>,
    fit: &'a ApiKeyManagerPlacement<'_>,
    namespace: &str,
) -> SidecarContainer<'a> {
    let mut mounts = Vec::with_capacity(2);
    mounts.push(match &fit.socket {
        Socket::Existing(mount) => SidecarMount {
            sub_path: mount.sub_path.as_deref(),
            // Connecting to a socket writes to no file.
            ..SidecarMount::readable(&mount.name, mount.path())
        },
        Socket::New { directory } => SidecarMount::readable(SOCKET, directory),
    });
    if fit.token {
        mounts.push(SidecarMount::readable(TOKEN, TOKEN_DIRECTORY));
    }
    let user = fit.headscale.user;
    let (uid, gid) = user.same();
    SidecarContainer {
        name: MANAGER,
        image: manager.image,
        args: vec![
            MANAGER.to_owned(),
            format!("--socket-path={}", manager.socket_path),
            format!("--namespace={namespace}"),
            format!("--secret-name={}", manager.secret),
            format!("--expiration={}", forms::show(manager.expiration)),
            format!("--rotation-buffer={}", forms::show(manager.buffer)),
        ],
        restart_policy: None,
        env: Vec::new().into(),
        resources: SidecarResources::of(&manager.resources, fit.needs),
        // Headscale starts regardless of the manager.
        startup_probe: None,
        liveness_probe: None,
        readiness_probe: None,
        security_context: Security::Ours(SidecarSecurityContext::of(
            uid,
            gid,
            user.non_root || uid.is_some_and(|uid| uid > 0),
        )),
        volume_mounts: mounts.into(),
    }
}

fn token() -> Rendered {
    let ca = Item {
        key: "ca.crt",
        path: "ca.crt",
    };
    let namespace = FieldItem {
        path: "namespace",
        field_ref: FieldRef {
            field_path: "metadata.namespace",
        },
    };
    let sources = [
        Projection::ServiceAccountToken {
            expiration_seconds: TOKEN_SECONDS,
            path: "token",
        },
        Projection::ConfigMap {
            name: "kube-root-ca.crt",
            items: [ca],
        },
        Projection::DownwardApi { items: [namespace] },
    ];
    Rendered::of(&Projected { sources })
}
