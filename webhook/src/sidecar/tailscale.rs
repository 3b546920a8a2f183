//! Injection -> the Tailscale container and its volumes, as borrowed structs that serialise to what a pod holds. Pure.

use serde::Serialize;

use crate::annotations::{Injection, Key};
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
// To the byte: with a slash at the end the token is mounted all the same.
const TOKEN_DIRECTORY: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

// Tailscale's image runs as root; Pod Security "restricted" and the kubelet want a number that is not 0.
const USER: u32 = 65_532;
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

/// What the sidecar requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Needs {
    /// As configured.
    Configured,
    /// Requests are limits, so that the pod stays Guaranteed.
    Guaranteed,
    /// Nothing: the pod has requests and limits as a whole.
    OfThePod,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Container<'a> {
    name: &'static str,
    image: &'a str,
    restart_policy: &'static str,
    env: Vec<Env<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resources: Option<Resources<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    startup_probe: Option<Probe>,
    security_context: SecurityContext,
    volume_mounts: Vec<Mount>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Env<'a> {
    name: &'static str,
    #[serde(flatten)]
    value: Value<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
enum Value<'a> {
    #[serde(rename = "value")]
    Text(&'a str),
    #[serde(rename = "value")]
    Joined(Joined<'a>),
    #[serde(rename = "valueFrom")]
    From(Source<'a>),
}

/// Text in two parts, joined as it is written.
struct Joined<'a>(&'a str, &'a str);

impl Serialize for Joined<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{}{}", self.0, self.1))
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
enum Source<'a> {
    FieldRef {
        #[serde(rename = "fieldPath")]
        field_path: &'static str,
    },
    SecretKeyRef {
        name: &'a str,
        key: &'a str,
    },
}

#[derive(Serialize)]
struct Resources<'a> {
    requests: Amounts<'a>,
    limits: Amounts<'a>,
}

#[derive(Serialize)]
struct Amounts<'a> {
    cpu: &'a str,
    memory: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Probe {
    http_get: HttpGet,
    period_seconds: u32,
    failure_threshold: u32,
}

#[derive(Serialize)]
struct HttpGet {
    path: &'static str,
    port: u16,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SecurityContext {
    allow_privilege_escalation: bool,
    capabilities: Capabilities,
    privileged: bool,
    read_only_root_filesystem: bool,
    run_as_group: u32,
    run_as_non_root: bool,
    run_as_user: u32,
    seccomp_profile: Seccomp,
}

#[derive(Serialize)]
struct Capabilities {
    drop: [&'static str; 1],
}

#[derive(Serialize)]
struct Seccomp {
    r#type: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Mount {
    name: &'static str,
    mount_path: &'static str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    read_only: bool,
}

#[derive(Serialize)]
pub(crate) struct Volume<'a> {
    name: &'static str,
    #[serde(flatten)]
    source: VolumeSource<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
enum VolumeSource<'a> {
    EmptyDir {
        #[serde(rename = "sizeLimit")]
        size_limit: &'static str,
    },
    Secret {
        #[serde(rename = "secretName")]
        secret_name: &'a str,
        #[serde(rename = "defaultMode")]
        default_mode: u32,
        items: [Item<'a>; 1],
    },
}

#[derive(Serialize)]
struct Item<'a> {
    key: &'a str,
    path: &'static str,
}

/// Builds the container.
pub(crate) fn container<'a>(
    injection: &'a Injection<'_>,
    fit: Fit,
    port_text: &'a str,
) -> Container<'a> {
    Container {
        name: CONTAINER,
        image: injection.image,
        // A native sidecar: it starts before the app, and does not keep a Job from finishing.
        restart_policy: "Always",
        env: env(injection, fit, port_text),
        resources: resources(injection, fit.needs),
        startup_probe: fit.health_port.map(|port| Probe {
            http_get: HttpGet {
                path: "/healthz",
                port,
            },
            period_seconds: 1,
            failure_threshold: STARTUP_SECONDS,
        }),
        security_context: SecurityContext {
            allow_privilege_escalation: false,
            capabilities: Capabilities { drop: ["ALL"] },
            privileged: false,
            read_only_root_filesystem: true,
            run_as_group: USER,
            run_as_non_root: true,
            run_as_user: USER,
            seccomp_profile: Seccomp {
                r#type: "RuntimeDefault",
            },
        },
        volume_mounts: mounts(injection, fit),
    }
}

/// Builds the volumes.
pub(crate) fn volumes<'a>(injection: &'a Injection<'_>, fit: Fit) -> Vec<Volume<'a>> {
    let (secret, data_key) = secret(injection);
    let empty = |name, size_limit| Volume {
        name,
        source: VolumeSource::EmptyDir { size_limit },
    };
    let of_secret = |name, key, path| {
        let items = [Item { key, path }];
        Volume {
            name,
            source: VolumeSource::Secret {
                secret_name: secret,
                default_mode: READABLE,
                items,
            },
        }
    };
    let mut volumes = Vec::with_capacity(6);
    volumes.extend([
        empty(STATE, "256Mi"),
        empty(RUN, "16Mi"),
        empty(TMP, "64Mi"),
        empty(NO_TOKEN, "1Mi"),
    ]);
    if fit.delivery == Delivery::File {
        volumes.push(of_secret(AUTH_KEY, data_key, "authkey"));
    }
    if injection.private_ca {
        volumes.push(of_secret(PRIVATE_CA, "ca.crt", "ca.crt"));
    }
    volumes
}

fn secret<'a>(injection: &'a Injection<'_>) -> (&'a str, &'a str) {
    match &injection.key {
        Key::Managed(key) => (&key.secret, &key.data_key),
        Key::Given { secret, data_key } => (secret, data_key),
    }
}

fn env<'a>(injection: &'a Injection<'_>, fit: Fit, port_text: &'a str) -> Vec<Env<'a>> {
    let text = |name, value| Env {
        name,
        value: Value::Text(value),
    };
    let field = |name, field_path| Env {
        name,
        value: Value::From(Source::FieldRef { field_path }),
    };
    let (secret, data_key) = secret(injection);
    let hostname = &injection.hostname;
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
            value: Value::Joined(Joined("--login-server=", injection.login_server)),
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
    if injection.private_ca {
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

fn resources<'a>(injection: &'a Injection<'_>, needs: Needs) -> Option<Resources<'a>> {
    let resources = &injection.resources;
    let limits = || Amounts {
        cpu: &resources.cpu_limit,
        memory: &resources.memory_limit,
    };
    match needs {
        Needs::Configured => {
            let requests = Amounts {
                cpu: &resources.cpu_request,
                memory: &resources.memory_request,
            };
            Some(Resources {
                requests,
                limits: limits(),
            })
        }
        Needs::Guaranteed => Some(Resources {
            requests: limits(),
            limits: limits(),
        }),
        Needs::OfThePod => None,
    }
}

fn mounts(injection: &Injection<'_>, fit: Fit) -> Vec<Mount> {
    let writable = |name, mount_path| Mount {
        name,
        mount_path,
        read_only: false,
    };
    let readable = |name, mount_path| Mount {
        name,
        mount_path,
        read_only: true,
    };
    let mut mounts = Vec::with_capacity(6);
    mounts.extend([
        writable(STATE, "/var/lib/tailscale"),
        writable(RUN, "/var/run/tailscale"),
        writable(TMP, "/tmp"),
        readable(NO_TOKEN, TOKEN_DIRECTORY),
    ]);
    if fit.delivery == Delivery::File {
        mounts.push(readable(AUTH_KEY, AUTH_KEY_DIRECTORY));
    }
    if injection.private_ca {
        mounts.push(readable(PRIVATE_CA, PRIVATE_CA_DIRECTORY));
    }
    mounts
}
