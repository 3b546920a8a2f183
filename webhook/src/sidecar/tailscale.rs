//! Injection -> the Tailscale container and its volumes, as borrowed structs that serialise to what a pod holds. Pure.

use super::TOKEN_DIRECTORY;
use super::shapes::{
    Container, Env, HttpGet, Item, Joined, Mount, Needs, Probe, Resources, SecurityContext, Source,
    Value, Volume, VolumeSource,
};
use crate::annotations::{Key, Tailscale};
use crate::pod::CONTAINER;
use crate::profile::Delivery;

// Named so that nothing of a pod's meets them; pods whose volumes begin with this prefix are left alone.
const STATE: &str = "sidescale-state";
const RUN: &str = "sidescale-run";
const TMP: &str = "sidescale-tmp";
const NO_TOKEN: &str = "sidescale-no-token";
const AUTH_KEY: &str = "sidescale-auth-key";
const PRIVATE_CA: &str = "sidescale-private-ca";

const AUTH_KEY_DIRECTORY: &str = "/etc/sidescale/auth-key";
const PRIVATE_CA_DIRECTORY: &str = "/etc/sidescale/private-ca";

// Tailscale's image runs as root; Pod Security "restricted" and the kubelet want a number that is not 0.
const USER: i64 = 65_532;
// The pod's other containers do not mount the volume, and our user owns no file in it.
const READABLE: u32 = 0o444;

// containerboot gives up after 60 s (TS_BOOT_TIMEOUT) and says why; the kubelet must not be faster than that.
const STARTUP_SECONDS: u32 = 90;

/// What only the pod's spec decides about its sidecar.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fit {
    /// How the key reaches it.
    pub(crate) delivery: Delivery,
    /// Port of its health check, where the app waits for it.
    pub(crate) health_port: Option<u16>,
    /// What it requests.
    pub(crate) needs: Needs,
}

/// Builds the container.
pub(crate) fn container<'a>(
    sidecar: &'a Tailscale<'_>,
    fit: Fit,
    port_text: &'a str,
) -> Container<'a> {
    Container {
        name: CONTAINER,
        image: sidecar.image,
        // A native sidecar: it starts before the app, and does not keep a Job from finishing.
        args: Vec::new(),
        restart_policy: Some("Always"),
        env: env(sidecar, fit, port_text),
        resources: Resources::of(&sidecar.resources, fit.needs),
        startup_probe: fit.health_port.map(|port| Probe {
            http_get: HttpGet {
                path: "/healthz",
                port,
            },
            period_seconds: 1,
            failure_threshold: STARTUP_SECONDS,
        }),
        security_context: SecurityContext::of(Some(USER), Some(USER), true),
        volume_mounts: mounts(sidecar, fit),
    }
}

/// Appends the volumes.
pub(crate) fn volumes<'a>(sidecar: &'a Tailscale<'_>, fit: Fit, volumes: &mut Vec<Volume<'a>>) {
    let (secret, data_key) = secret(sidecar);
    let empty = |name, size_limit| Volume {
        name,
        source: VolumeSource::EmptyDir { size_limit },
    };
    let of_secret = |name, key, path| {
        let items = vec![Item { key, path }];
        Volume {
            name,
            source: VolumeSource::Secret {
                secret_name: secret,
                default_mode: READABLE,
                items,
            },
        }
    };
    volumes.extend([
        empty(STATE, "256Mi"),
        empty(RUN, "16Mi"),
        empty(TMP, "64Mi"),
        empty(NO_TOKEN, "1Mi"),
    ]);
    if fit.delivery == Delivery::File {
        volumes.push(of_secret(AUTH_KEY, data_key, "authkey"));
    }
    if sidecar.private_ca {
        volumes.push(of_secret(PRIVATE_CA, "ca.crt", "ca.crt"));
    }
}

fn secret<'a>(sidecar: &'a Tailscale<'_>) -> (&'a str, &'a str) {
    match &sidecar.key {
        Key::Managed(key) => (&key.secret, &key.data_key),
        Key::Given { secret, data_key } => (secret, data_key),
    }
}

fn env<'a>(sidecar: &'a Tailscale<'_>, fit: Fit, port_text: &'a str) -> Vec<Env<'a>> {
    let text = |name, value| Env {
        name,
        value: Value::Text(value),
    };
    let field = |name, field_path| Env {
        name,
        value: Value::From(Source::FieldRef { field_path }),
    };
    let (secret, data_key) = secret(sidecar);
    let hostname = &sidecar.hostname;
    let mut env = Vec::with_capacity(18);
    // Before TS_HOSTNAME, which refers to them.
    if hostname.needs_pod_name {
        env.push(field("POD_NAME", "metadata.name"));
    }
    if hostname.needs_node_name {
        env.push(field("NODE_NAME", "spec.nodeName"));
    }
    env.push(match fit.delivery {
        Delivery::Env => {
            let value = Value::From(Source::SecretKeyRef {
                name: secret,
                key: data_key,
            });
            Env {
                name: "TS_AUTHKEY",
                value,
            }
        }
        Delivery::File => text("TS_AUTHKEY", "file:/etc/sidescale/auth-key/authkey"),
    });
    env.extend([
        // Set and empty: unset it means a Secret named "tailscale", which the pod may not write.
        text("TS_KUBE_SECRET", ""),
        text("TS_HOSTNAME", &hostname.text),
        Env {
            name: "TS_EXTRA_ARGS",
            value: Value::Joined(Joined("--login-server=", sidecar.login_server)),
        },
        // Otherwise every start of the container would log in anew, with a key that may have expired.
        text("TS_AUTH_ONCE", "true"),
        text("TS_USERSPACE", "true"),
        text("TS_ACCEPT_DNS", "false"),
        // A subdirectory: tailscaled changes the mode of its directory, and the volume belongs to root.
        text("TS_STATE_DIR", "/var/lib/tailscale/state"),
        text("TS_SOCKET", "/var/run/tailscale/tailscaled.sock"),
        text("TS_LOGS_DIR", "/tmp"),
        // Nobody at Tailscale supports a node of Headscale, and nobody there should get its logs.
        text("TS_NO_LOGS_NO_SUPPORT", "true"),
    ]);
    if sidecar.private_ca {
        env.push(text("SSL_CERT_DIR", PRIVATE_CA_DIRECTORY));
    }
    if fit.health_port.is_some() {
        env.push(text("TS_ENABLE_HEALTH_CHECK", "true"));
        env.push(Env {
            name: "TS_LOCAL_ADDR_PORT",
            value: Value::Joined(Joined("[::]:", port_text)),
        });
    } else {
        // A control plane that is away restarts nothing.
        env.push(text("TS_BOOT_TIMEOUT", "8760h"));
    }
    env
}

fn mounts(sidecar: &Tailscale<'_>, fit: Fit) -> Vec<Mount<'static>> {
    let mut mounts = Vec::with_capacity(6);
    mounts.extend([
        Mount::writable(STATE, "/var/lib/tailscale"),
        Mount::writable(RUN, "/var/run/tailscale"),
        Mount::writable(TMP, "/tmp"),
        Mount::readable(NO_TOKEN, TOKEN_DIRECTORY),
    ]);
    if fit.delivery == Delivery::File {
        mounts.push(Mount::readable(AUTH_KEY, AUTH_KEY_DIRECTORY));
    }
    if sidecar.private_ca {
        mounts.push(Mount::readable(PRIVATE_CA, PRIVATE_CA_DIRECTORY));
    }
    mounts
}
