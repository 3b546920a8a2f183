//! The objects, their readers, and the memory that reading may take.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use sidescale::store::{SecretStore, Store};
use sidescale::watch::{Namespaces, pods};
use sidescale::{cluster, config};
use sidescale_control_plane::{Client, Endpoint};
use sidescale_core::key_value::KeyValue;
use sidescale_rotation::demand::Demands;
use sidescale_webhook::profile::Policy;
use tokio::sync::watch;

use crate::server::{Sends, start};

const MIB: usize = 1 << 20;

/// Client, connection, runtime and policy, before any object: measured at 0.6 MiB with a read buffer of 400 KiB.
const AT_REST: usize = MIB;

/// Reads, which is counted, and returns the result.
type Reading = Box<dyn FnOnce() -> String>;

pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) most: usize,
    /// Part of the answer.
    pub(crate) want: &'static str,
    pub(crate) prepare: Box<dyn Fn() -> Reading + Send>,
}

/// Maximum live bytes for one object of this size.
const fn one(object: usize) -> usize {
    AT_REST + 4 * object + 256 * 1024
}

fn case(
    name: &'static str,
    most: usize,
    want: &'static str,
    prepare: impl Fn() -> Reading + Send + 'static,
) -> Case {
    let prepare = Box::new(prepare);
    Case {
        name,
        most,
        want,
        prepare,
    }
}

pub(crate) fn all() -> Vec<Case> {
    vec![
        case(
            "pod_with_60000_annotations",
            one(720_000),
            "synced, 1 refused",
            || pods_of(watched(&[pod(1, &annotations(60_000), "{}")])),
        ),
        case(
            "pod_with_1_mib_of_labels",
            one(430_000),
            "synced, 1 refused",
            || {
                let labels = annotations(36_000);
                pods_of(watched(&[pod(1, "{}", &labels)]))
            },
        ),
        case(
            "page_of_300_pods_with_managed_fields",
            2 * MIB,
            "synced, 300 refused",
            || {
                let fields = format!(r#"{{"f:metadata":{}}}"#, annotations(8_000));
                pods_of(listed(
                    (0..300).map(|n| with_fields(&pod(n, "{}", "{}"), &fields)),
                ))
            },
        ),
        case(
            "list_of_300_pods_with_deciding_annotations",
            14 * MIB,
            "synced, 300 refused",
            || pods_of(listed((0..300).map(|n| pod(n, &deciding(n), "{}")))),
        ),
        case(
            "namespace_with_256_kib_of_annotations",
            one(190_000),
            "synced",
            || {
                let namespace = format!(
                    r#"{{"metadata":{{"name":"shop","resourceVersion":"5","annotations":{},"labels":{}}}}}"#,
                    annotations(16_000),
                    annotations(1_000)
                );
                namespaces_of(listed([namespace].into_iter()))
            },
        ),
        case(
            "20_secrets_of_1_mib",
            one(1_400_000),
            "20 Secrets, 20971520 bytes",
            || secrets_of(listed((0..20).map(secret))),
        ),
        case(
            "secret_of_100000_empty_keys",
            one(1_200_000),
            "1 Secrets, 0 bytes, 1 oversized",
            || {
                let data = annotations(100_000);
                let secret =
                    format!(r#"{{"metadata":{{"name":"keys","namespace":"shop"}},"data":{data}}}"#);
                secrets_of(listed([secret].into_iter()))
            },
        ),
        case("480000_nodes_in_16_mib", 34 * MIB, "too_many_rows", || {
            nodes_of(&r#"{"id":"1","name":"","online":true}"#.repeat_with_commas(480_000))
        }),
        case("10000_nodes", 4 * MIB, "10000 nodes", || {
            let node = format!(
                r#"{{"id":"1","name":"web","givenName":"web-1","online":true,"user":{{"id":"1","name":"{0}"}},"discoKey":"{0}{0}{0}{0}"}}"#,
                "x".repeat(256)
            );
            nodes_of(&node.repeat_with_commas(10_000))
        }),
    ]
}

trait Repeat {
    fn repeat_with_commas(&self, count: usize) -> String;
}

impl Repeat for str {
    fn repeat_with_commas(&self, count: usize) -> String {
        vec![self; count].join(",")
    }
}

/// Returns an object of this many short strings, none under our prefix.
fn annotations(count: usize) -> String {
    let mut text = String::from("{");
    for n in 0..count {
        let comma = if n == 0 { "" } else { "," };
        write!(text, r#"{comma}"a{n:05}":"""#).unwrap();
    }
    text + "}"
}

/// Returns all deciding annotations, each of maximum length, and different on each pod.
fn deciding(n: usize) -> String {
    let keys = [
        "service",
        "hostname",
        "control-plane",
        "tags",
        "reusable",
        "auth-key-expiration",
        "state",
        "userspace",
        "wait",
        "auth-key-rotation-buffer",
        "auth-key-delivery",
        "auth-key-secret",
        "native-sidecar",
        "cpu-request",
        "cpu-limit",
        "memory-request",
        "memory-limit",
        "headscale-container",
        "socket-path",
        "api-key-secret",
        "extra-args",
        "proxy",
        "server-keys-secret",
        "server-keys-files",
        "server-keys-path",
        "ephemeral",
        "accept-dns",
        "accept-routes",
        "image",
    ];
    let value = format!("{n:03}{}", "x".repeat(6_000));
    let all: BTreeMap<_, _> = keys
        .iter()
        .map(|key| (format!("sidescale.io/{key}"), value.as_str()))
        .collect();
    serde_json::to_string(&all).unwrap()
}

fn pod(n: usize, annotations: &str, labels: &str) -> String {
    format!(
        r#"{{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/v1","metadata":{{"name":"p{n}","namespace":"ns{}","uid":"6f1c2f0e-7a38-4a8e-9a53-2d9d0a8f3c11","resourceVersion":"5","creationTimestamp":"2026-01-01T00:00:00Z","labels":{labels},"annotations":{annotations},"managedFields":[]}}}}"#,
        n % 10
    )
}

fn with_fields(pod: &str, fields: &str) -> String {
    let entry = format!(
        r#"{{"manager":"kubectl","operation":"Update","apiVersion":"v1","time":"2026-01-01T00:00:00Z","fieldsType":"FieldsV1","fieldsV1":{fields}}}"#
    );
    pod.replace(
        r#""managedFields":[]"#,
        &format!(r#""managedFields":[{entry},{entry}]"#),
    )
}

fn secret(n: usize) -> String {
    // 1 MiB as base64.
    let value = "AAAA".repeat((1 << 20) / 3) + "AA==";
    format!(
        r#"{{"metadata":{{"name":"headscale-auth-keys","namespace":"ns{n}","resourceVersion":"5"}},"data":{{"sidescale.json":"{value}"}}}}"#
    )
}

fn watched(objects: &[String]) -> Sends {
    let added = objects
        .iter()
        .map(|object| format!("{{\"type\":\"ADDED\",\"object\":{object}}}\n"));
    let end = r#"{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"9","annotations":{"k8s.io/initial-events-end":"true"}}}}"#;
    let lines: Vec<_> = added.chain([format!("{end}\n")]).collect();
    Sends::Lines(lines.leak())
}

fn listed(objects: impl Iterator<Item = String>) -> Sends {
    let mut text = String::from(r#"{"kind":"List","metadata":{"resourceVersion":"9"},"items":["#);
    for (n, object) in objects.enumerate() {
        text.push_str(if n == 0 { "" } else { "," });
        text.push_str(&object);
    }
    text.push_str("]}");
    Sends::List(text.leak())
}

fn run<F: Future<Output = String>>(reading: impl FnOnce() -> F + 'static) -> Reading {
    Box::new(move || {
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_all().build().unwrap();
        runtime.block_on(reading())
    })
}

fn client(url: &str) -> kube::Client {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    cluster::client(kube::Config::new(url.parse().unwrap())).unwrap()
}

fn pods_of(sends: Sends) -> Reading {
    let url = start(sends);
    run(async move || {
        let namespaces = Namespaces::default();
        namespaces.set_synced();
        let policy = Policy::for_login_server("https://hs.example.com").unwrap();
        let (sender, mut demands) = watch::channel(Demands::default());
        let synced = async {
            let demands = demands.wait_for(|demands| demands.synced).await.unwrap();
            let refused: usize = demands
                .namespaces
                .values()
                .map(|demand| demand.refused)
                .sum();
            format!("synced, {refused} refused")
        };
        tokio::select! {
            () = pods::run(client(&url), &namespaces, &policy, &sender) => "ended".to_owned(),
            answer = synced => answer,
        }
    })
}

fn namespaces_of(sends: Sends) -> Reading {
    let url = start(sends);
    run(async move || {
        let namespaces = Namespaces::default();
        let policy = Policy::for_login_server("https://hs.example.com").unwrap();
        let mut changes = namespaces.changes();
        tokio::select! {
            () = namespaces.run(client(&url), config::fixed(Arc::new(policy))) => "ended".to_owned(),
            _ = changes.wait_for(Option::is_some) => "synced".to_owned(),
        }
    })
}

fn secrets_of(sends: Sends) -> Reading {
    let url = start(sends);
    run(async move || {
        let store = Store::of(SecretStore::new(client(&url)));
        let (mut count, mut bytes, mut oversized) = (0, 0, 0);
        let each = |secret: sidescale_core::secret::StoredSecret| {
            count += 1;
            bytes += secret.data.values().map(|value| value.len()).sum::<usize>();
            oversized += usize::from(secret.oversized);
        };
        store.fold("keys", each).await.unwrap();
        format!("{count} Secrets, {bytes} bytes, {oversized} oversized")
    })
}

fn nodes_of(nodes: &str) -> Reading {
    let body = format!(r#"{{"nodes":[{nodes}]}}"#);
    let api_url = start(Sends::List(body.leak()));
    run(async move || {
        let endpoint = Endpoint {
            name: "lab".to_owned(),
            api_url,
            api_key: KeyValue::new("hskey-api-x".to_owned()),
            ca_bundle: None,
            allow_insecure: true,
        };
        match Client::new(endpoint).unwrap().list_nodes().await {
            Ok(nodes) => format!("{} nodes", nodes.len()),
            Err(error) => error.as_str().to_owned(),
        }
    })
}
