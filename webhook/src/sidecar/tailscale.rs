//! Injection -> the Tailscale container and its volumes, as borrowed structs that serialise to what a pod holds. Pure.

use std::sync::LazyLock;

use super::TOKEN_DIRECTORY;
use super::mode::FileMode;
use super::rendered::{EmptyDirectory, Rendered};
use super::restricted::security_context;
use super::shapes::{
    EnvSource, EnvValue, Extended, HttpGet, Item, JoinedText, Needs, Proxy, Security,
    SidecarContainer, SidecarEnv, SidecarMount, SidecarProbe, SidecarResources, SidecarVolume,
};
use crate::annotations::{AuthKeyRef, StateStorage, Tailscale};
use crate::keys::CONTAINER;
use crate::profile::Delivery;

// Names that no volume of a pod has: pods with volumes under this prefix are skipped.
const STATE: &str = "sidescale-state";
const RUN: &str = "sidescale-run";
const TMP: &str = "sidescale-tmp";
const NO_TOKEN: &str = "sidescale-no-token";
const AUTH_KEY: &str = "sidescale-auth-key";
const PRIVATE_CA: &str = "sidescale-private-ca";

const LOCAL_ADDR_PORT: &str = "TS_LOCAL_ADDR_PORT";

const STATE_DIRECTORY: &str = "/var/lib/tailscale";
const AUTH_KEY_DIRECTORY: &str = "/etc/sidescale/auth-key";
const PRIVATE_CA_DIRECTORY: &str = "/etc/sidescale/private-ca";

// For a certificate, which is not secret.
const READABLE: u32 = 0o444;

// containerboot gives up after 60 s (TS_BOOT_TIMEOUT) and logs the reason; the kubelet must not act before that.
const STARTUP_SECONDS: u32 = 90;

static SAME: LazyLock<Same> = LazyLock::new(Same::render);

/// Parts equal in every sidecar, for any pod.
struct Same {
    env: [Rendered; 9],
    security_context: Rendered,
    mounts: [Rendered; 3],
    /// After the directory of the state, which not all have.
    directories: [EmptyDirectory; 3],
    state: EmptyDirectory,
}

impl Same {
    fn render() -> Self {
        let env = |name, value| Rendered::of(&text(name, value));
        Self {
            env: [
                // Set and empty: unset means a Secret named "tailscale", which the pod may not write.
                env("TS_KUBE_SECRET", ""),
                // Otherwise every start of the container would log in again, with a key that may have expired.
                env("TS_AUTH_ONCE", "true"),
                env("TS_USERSPACE", "true"),
                env("TS_SOCKET", "/var/run/tailscale/tailscaled.sock"),
                env("TS_LOGS_DIR", "/tmp"),
                // Tailscale does not support nodes of Headscale, and should not get their logs.
                env("TS_NO_LOGS_NO_SUPPORT", "true"),
                // Set and empty: a Service named ts-debug-addr would set it to tcp://…, and the sidecar would stop at that. See
                // "service links" in https://kubernetes.io/docs/concepts/services-networking/service; these are all that
                // containerboot and tailscaled of 1.102 read of such names, with TS_LOCAL_ADDR_PORT.
                env("TS_DEBUG_ADDR_PORT", ""),
                env("TS_DEBUG_NETSTACK_LOOPBACK_PORT", ""),
                env("TS_HEALTHCHECK_ADDR_PORT", ""),
            ],
            security_context: Rendered::of(&security_context()),
            mounts: [
                Rendered::of(&SidecarMount::writable(RUN, "/var/run/tailscale")),
                Rendered::of(&SidecarMount::writable(TMP, "/tmp")),
                Rendered::of(&SidecarMount::readable(NO_TOKEN, TOKEN_DIRECTORY)),
            ],
            directories: [
                EmptyDirectory::new(RUN, "16Mi"),
                EmptyDirectory::new(TMP, "64Mi"),
                EmptyDirectory::new(NO_TOKEN, "1Mi"),
            ],
            state: EmptyDirectory::new(STATE, "256Mi"),
        }
    }
}

/// Placement of the sidecar, as the pod's spec requires.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TailscalePlacement {
    /// How the key reaches the sidecar.
    pub(crate) delivery: Delivery,
    /// Who may read the key's file; no other container mounts it.
    pub(crate) key_mode: FileMode,
    /// Port of its health check, if the app waits for it; no container of the pod uses it.
    pub(crate) health_port: Option<u16>,
    /// Its resource requests.
    pub(crate) needs: Needs,
}

/// Builds the container.
pub(crate) fn container<'a>(
    sidecar: &'a Tailscale<'_>,
    fit: TailscalePlacement,
    port_text: &'a str,
) -> SidecarContainer<'a> {
    let overlay = sidecar.overlay;
    SidecarContainer {
        name: CONTAINER,
        image: sidecar.image,
        args: Vec::new(),
        // A native sidecar starts before the app, and does not keep a Job from finishing.
        restart_policy: sidecar.native.then_some("Always"),
        env: Extended {
            same: &SAME.env,
            ours: env(sidecar, fit, port_text),
            more: &overlay.env,
        },
        resources: SidecarResources::of(&sidecar.resources, fit.needs),
        startup_probe: fit.health_port.map(|port| SidecarProbe {
            http_get: HttpGet {
                path: "/healthz",
                port,
            },
            period_seconds: 1,
            failure_threshold: STARTUP_SECONDS,
        }),
        liveness_probe: overlay.liveness_probe.as_ref(),
        readiness_probe: overlay.readiness_probe.as_ref(),
        security_context: match &overlay.security_context {
            Some(given) => Security::Given(given),
            None => Security::Same(&SAME.security_context),
        },
        volume_mounts: Extended {
            same: &SAME.mounts,
            ours: mounts(sidecar, fit),
            more: &overlay.volume_mounts,
        },
    }
}

/// Appends the volumes.
pub(crate) fn volumes<'a>(
    sidecar: &'a Tailscale<'_>,
    fit: TailscalePlacement,
    volumes: &mut Vec<SidecarVolume<'a>>,
) {
    let (secret, data_key) = secret(sidecar);
    let of_secret =
        |name, mode, key, path| SidecarVolume::secret(name, secret, mode, vec![Item { key, path }]);
    if sidecar.state == StateStorage::EmptyDir {
        volumes.push(SidecarVolume::empty(&SAME.state));
    }
    volumes.extend(SAME.directories.iter().map(SidecarVolume::empty));
    if fit.delivery == Delivery::File {
        volumes.push(of_secret(
            AUTH_KEY,
            fit.key_mode as u32,
            data_key,
            "authkey",
        ));
    }
    if sidecar.private_ca {
        volumes.push(of_secret(PRIVATE_CA, READABLE, "ca.crt", "ca.crt"));
    }
}

fn secret<'a>(sidecar: &'a Tailscale<'_>) -> (&'a str, &'a str) {
    match &sidecar.key {
        AuthKeyRef::Managed(key) => (&key.secret, &key.data_key),
        AuthKeyRef::Given { secret, data_key } => (secret, data_key),
    }
}

fn text<'a>(name: &'static str, value: &'a str) -> SidecarEnv<'a> {
    SidecarEnv {
        name,
        value: EnvValue::Text(value),
    }
}

fn env<'a>(
    sidecar: &'a Tailscale<'_>,
    fit: TailscalePlacement,
    port_text: &'a str,
) -> Vec<SidecarEnv<'a>> {
    let field = |name, field_path| SidecarEnv {
        name,
        value: EnvValue::From(EnvSource::FieldRef { field_path }),
    };
    let (secret, data_key) = secret(sidecar);
    let hostname = &sidecar.hostname;
    let mut env = Vec::with_capacity(14);
    // Before TS_HOSTNAME, which refers to them; the volume's path does too.
    if hostname.needs_pod_name || matches!(sidecar.state, StateStorage::Volume(_)) {
        env.push(field("POD_NAME", "metadata.name"));
    }
    if hostname.needs_node_name {
        env.push(field("NODE_NAME", "spec.nodeName"));
    }
    env.push(match fit.delivery {
        Delivery::Env => {
            let value = EnvValue::From(EnvSource::SecretKeyRef {
                name: secret,
                key: data_key,
            });
            SidecarEnv {
                name: "TS_AUTHKEY",
                value,
            }
        }
        Delivery::File => text("TS_AUTHKEY", "file:/etc/sidescale/auth-key/authkey"),
    });
    env.extend([
        text("TS_HOSTNAME", &hostname.text),
        SidecarEnv {
            name: "TS_EXTRA_ARGS",
            value: EnvValue::Joined(JoinedText([
                "--login-server=",
                sidecar.login_server,
                if sidecar.accept_routes {
                    " --accept-routes"
                } else {
                    ""
                },
                if sidecar.extra_args.is_empty() {
                    ""
                } else {
                    " "
                },
                sidecar.extra_args,
            ])),
        },
        text(
            "TS_ACCEPT_DNS",
            if sidecar.accept_dns { "true" } else { "false" },
        ),
    ]);
    asked_for(sidecar, fit, port_text, &mut env);
    env
}

/// Appends what only some sidecars have.
fn asked_for<'a>(
    sidecar: &Tailscale<'_>,
    fit: TailscalePlacement,
    port_text: &'a str,
    env: &mut Vec<SidecarEnv<'a>>,
) {
    if sidecar.state != StateStorage::Memory {
        // A subdirectory: tailscaled changes the mode of its directory, and root owns the volume.
        env.push(text("TS_STATE_DIR", "/var/lib/tailscale/state"));
    }
    if let Some(port) = sidecar.proxy {
        // One port serves both; listening on the pod's address would open the tailnet to the cluster.
        for name in ["TS_SOCKS5_SERVER", "TS_OUTBOUND_HTTP_PROXY_LISTEN"] {
            let value = EnvValue::Proxy(Proxy("", port));
            env.push(SidecarEnv { name, value });
        }
    }
    if sidecar.private_ca {
        env.push(text("SSL_CERT_DIR", PRIVATE_CA_DIRECTORY));
    }
    if fit.health_port.is_some() {
        env.push(text("TS_ENABLE_HEALTH_CHECK", "true"));
        env.push(SidecarEnv {
            name: LOCAL_ADDR_PORT,
            value: EnvValue::Joined(JoinedText(["[::]:", port_text, "", "", ""])),
        });
    } else {
        // Empty: otherwise a Service named ts-local-addr sets it.
        env.push(text(LOCAL_ADDR_PORT, ""));
        // An unreachable control plane must not cause restarts.
        env.push(text("TS_BOOT_TIMEOUT", "8760h"));
    }
}

fn mounts<'a>(sidecar: &'a Tailscale<'_>, fit: TailscalePlacement) -> Vec<SidecarMount<'a>> {
    let mut mounts = Vec::with_capacity(3);
    match sidecar.state {
        StateStorage::EmptyDir => mounts.push(SidecarMount::writable(STATE, STATE_DIRECTORY)),
        StateStorage::Memory => {}
        // Each pod has its own directory, even if others use the volume.
        StateStorage::Volume(name) => mounts.push(SidecarMount {
            sub_path_expr: Some("tailscale/$(POD_NAME)"),
            ..SidecarMount::writable(name, STATE_DIRECTORY)
        }),
    }
    if fit.delivery == Delivery::File {
        mounts.push(SidecarMount::readable(AUTH_KEY, AUTH_KEY_DIRECTORY));
    }
    if sidecar.private_ca {
        mounts.push(SidecarMount::readable(PRIVATE_CA, PRIVATE_CA_DIRECTORY));
    }
    mounts
}
