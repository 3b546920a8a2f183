//! `sidescale check` as typed, beside our own API server that answers a few reads, and the embedded Headscale.

use std::collections::BTreeMap;
use std::process::Output;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Value, json};
use sidescale_control_plane::{Client, Endpoint};
use sidescale_core::objects::NewPreAuthKey;
use sidescale_core::time::after;
use sidescale_rotation::record::{DATA_KEY, IssuedKey, KeyRecord, KeySpec, Origin, Record};
use sidescale_simulator::{Embedded, Flavour};
use tokio::net::TcpListener;
use tokio::process::Command;

const POD: &str = "/api/v1/namespaces/shop/pods/web-1";
const PODS: &str = "/api/v1/namespaces/shop/pods";
const LOG: &str = "/api/v1/namespaces/shop/pods/web-1/log";
const NAMESPACE: &str = "/api/v1/namespaces/shop";
const SECRET: &str = "/api/v1/namespaces/shop/secrets/headscale-auth-keys";
const CONFIG: &str = "/api/v1/namespaces/tailnet/configmaps";
const API_KEY: &str = "/api/v1/namespaces/headscale/secrets/headscale-api-key";
const SERVERS: &str = "/api/v1/namespaces/headscale/pods";
const SETTINGS: &str = "/api/v1/namespaces/headscale/configmaps/headscale";
const CORE_DNS: &str = "/api/v1/namespaces/kube-system/configmaps/coredns";
const EVENTS: &str = "/api/v1/namespaces/shop/events";
const DAY: Duration = Duration::from_secs(86_400);

/// Readable objects, by path; everything else is forbidden.
type Answers = BTreeMap<&'static str, Value>;

async fn answer(State(answers): State<Arc<Answers>>, uri: Uri) -> Response {
    let status = |code: StatusCode, reason: &str, message: String| {
        let status = json!({
            "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code.as_u16(), "message": message,
            "reason": reason,
        });
        (code, axum::Json(status)).into_response()
    };
    match answers.get(uri.path()) {
        Some(Value::String(text)) => text.clone().into_response(),
        Some(Value::Null) => status(StatusCode::NOT_FOUND, "NotFound", "not found".into()),
        Some(object) => axum::Json(object).into_response(),
        None => status(
            StatusCode::FORBIDDEN,
            "Forbidden",
            format!("no right to {}", uri.path()),
        ),
    }
}

async fn serve(router: axum::Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    url
}

async fn type_in(answers: &Answers, words: &[&str]) -> (Output, String) {
    let router = axum::Router::new().fallback(answer);
    let url = serve(router.with_state(Arc::new(answers.clone()))).await;
    let folder = tempfile::tempdir().unwrap();
    let kubeconfig = folder.path().join("kubeconfig");
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "a",
        "clusters": [{"name": "a", "cluster": {"server": url}}],
        "users": [{"name": "a", "user": {}}],
        "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a", "namespace": "shop"}}],
    });
    std::fs::write(&kubeconfig, config.to_string()).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_sidescale"))
        .arg("check")
        .args(words)
        .args(["--release-namespace", "tailnet"])
        .env("KUBECONFIG", &kubeconfig)
        .output()
        .await
        .unwrap();
    let said = String::from_utf8(output.stdout.clone()).unwrap();
    assert!(!said.contains("hskey-"), "a key is shown");
    (output, said)
}

fn pod(age: Duration) -> Value {
    let created = Timestamp::now().checked_sub(age).unwrap();
    let created = Timestamp::from_second(created.as_second())
        .unwrap()
        .to_string();
    let receipt = json!({
        "version": "0.1.0", "decision": "inject", "profile": "default", "profileHash": "x", "service": "web",
        "controlPlane": "default", "secret": "headscale-auth-keys", "dataKey": "web-authkey",
    });
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": "web-1", "namespace": "shop", "uid": "6f1c2f0e-7a38-4a8e-9a53-2d9d0a8f3c11",
            "creationTimestamp": created, "labels": {"sidescale.io/sidecar": "tailscale"},
            "annotations": {
                "sidescale.io/inject": "tailscale", "sidescale.io/service": "web", "sidescale.io/status": receipt.to_string(),
            },
        },
        "spec": {
            "initContainers": [{"name": "tailscale", "env": [{"name": "TS_HOSTNAME", "value": "web"}]}],
            "containers": [{"name": "web"}],
        },
        "status": {"phase": "Running", "initContainerStatuses": [{
            "name": "tailscale", "image": "", "imageID": "", "ready": true, "started": true, "restartCount": 0,
            "state": {"running": {"startedAt": created}},
        }]},
    })
}

fn secret(namespace: &str, name: &str, data: &[(&str, &str)]) -> Value {
    let data = data
        .iter()
        .map(|(key, value)| ((*key).to_owned(), STANDARD.encode(value)));
    json!({
        "apiVersion": "v1", "kind": "Secret", "type": "Opaque", "data": data.collect::<BTreeMap<_, _>>(),
        "metadata": {
            "name": name, "namespace": namespace, "labels": {"app.kubernetes.io/managed-by": "sidescale"},
        },
    })
}

fn server() -> Value {
    json!({
        "metadata": {"name": "headscale-0", "namespace": "headscale"},
        "spec": {
            "containers": [{"name": "headscale", "image": "headscale/headscale:0.29.2"}],
            "volumes": [{"name": "config", "configMap": {"name": "headscale"}}],
        },
    })
}

fn settings(url: &str, domain: &str) -> Value {
    let file = format!("server_url: {url}\ndns: {{magic_dns: true, base_domain: {domain}}}\n");
    json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "headscale", "namespace": "headscale"},
        "data": {"config.yaml": file, "policy.hujson": "// all may"},
    })
}

/// Returns a whole installation: a key from a Headscale, in its Secret, with its record.
async fn installed(headscale: &Embedded) -> (Answers, String) {
    let url = serve(headscale.router()).await;
    let api_key = headscale.create_api_key(DAY);
    let client = Client::new(Endpoint {
        name: "default".into(),
        api_url: url.clone(),
        api_key: api_key.clone(),
        ca_bundle: None,
        allow_insecure: true,
    })
    .unwrap();
    let user = client
        .create_user("shop.web", "sidescale x y shop/web")
        .await
        .unwrap();
    let now = Timestamp::now();
    let expires = Timestamp::from_second(after(now, DAY * 90).as_second()).unwrap();
    let new = NewPreAuthKey {
        user: user.id,
        reusable: true,
        ephemeral: true,
        expiration: expires,
        tags: Vec::new(),
    };
    let minted = client.create_pre_auth_key(&new).await.unwrap();
    let mut key = KeyRecord::new("web", "default");
    key.current = Some(IssuedKey {
        id: minted.key.id,
        created: now,
        expires,
        asked: KeySpec {
            user: "shop.web".into(),
            tags: Vec::new(),
            reusable: true,
            ephemeral: true,
        },
        origin: Origin::Ours,
    });
    let mut record = Record::default();
    record.keys.insert("web-authkey".into(), key);
    let document = String::from_utf8(record.document().unwrap()).unwrap();
    let value = minted.value.expose().to_owned();
    let data = [("web-authkey", value.as_str()), (DATA_KEY, &document)];
    let config = format!(
        "controlPlanes: {{default: {{loginServer: '{url}', allowInsecure: true, apiKeySecret: {{namespace: headscale, \
         name: headscale-api-key}}}}}}\n"
    );
    let list = |kind: &str, items: Value| json!({"apiVersion": "v1", "kind": kind, "metadata": {}, "items": items});
    let answers = [
        (POD, pod(DAY)),
        (PODS, list("PodList", json!([]))),
        (LOG, json!("Startup complete\n")),
        (
            NAMESPACE,
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}),
        ),
        (EVENTS, list("EventList", json!([]))),
        (SECRET, secret("shop", "headscale-auth-keys", &data)),
        (
            API_KEY,
            secret(
                "headscale",
                "headscale-api-key",
                &[("api-key", api_key.expose())],
            ),
        ),
        (SERVERS, list("PodList", json!([server()]))),
        (SETTINGS, settings(&url, "tailnet.internal")),
        (
            CONFIG,
            list(
                "ConfigMapList",
                json!([{"metadata": {"name": "sidescale"}, "data": {"config.yaml": config}}]),
            ),
        ),
    ];
    (answers.into(), value)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_is_looked_at_from_the_webhook_to_its_node() {
    let headscale = Embedded::new(Flavour::V0_29, Timestamp::now);
    let (mut answers, key) = installed(&headscale).await;
    let (output, said) = type_in(&answers, &["pod/web-1"]).await;
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("FAIL  node           no node web"), "{said}");

    let node = headscale.join(&key, "web").unwrap();
    headscale.set_online(node, true);
    let (output, said) = type_in(&answers, &["pod/web-1", "--namespace", "shop"]).await;
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}{complaint}");
    assert!(
        said.contains("web (node 1) is online") && said.ends_with("\n8 checks passed\n"),
        "{said}"
    );
    assert!(
        said.contains("due for renewal in"),
        "the configuration was not used: {said}"
    );
    let (_, said) = type_in(&answers, &["pod/web-1", "-o", "json"]).await;
    let report: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(
        report["findings"].as_array().map(Vec::len),
        Some(8),
        "{report}"
    );
    assert_eq!(report["findings"][0]["result"], "ok");

    headscale.set_online(node, false);
    answers.insert(LOG, json!("register request: http 401: authkey expired\n"));
    let (output, said) = type_in(&answers, &["web-1"]).await;
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("is offline") && said.contains("rejects its key: it has expired"),
        "{said}"
    );
    assert!(
        said.contains("next: sidescale rotate --now shop/web --namespace tailnet"),
        "{said}"
    );

    answers.insert(
        API_KEY,
        secret("headscale", "headscale-api-key", &[("api-key", "YOUR-KEY")]),
    );
    let (_, said) = type_in(&answers, &["web-1"]).await;
    assert!(
        said.contains("has no usable API key") && said.contains("is a placeholder from an example"),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_names_that_headscale_gives_are_looked_at() {
    let headscale = Embedded::new(Flavour::V0_29, Timestamp::now);
    let (mut answers, key) = installed(&headscale).await;
    let node = headscale.join(&key, "web").unwrap();
    headscale.set_online(node, true);
    let corefile = ".:53 {\n    kubernetes corp.example in-addr.arpa {\n    }\n}\n";
    let core_dns = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "coredns", "namespace": "kube-system"},
        "data": {"Corefile": corefile},
    });
    let (ok, warn) = ("ok    names          ", "warn  names          ");
    let place = "next: set dns.base_domain in ConfigMap headscale/headscale to a";
    let own =
        json!({"metadata": {"name": "x", "namespace": "headscale"}, "spec": {"containers": []}});
    let mut elsewhere = answers[SERVERS].clone();
    elsewhere["items"] = json!([own]);
    let url = "https://headscale.example.com";
    let rows: [(&str, Option<Value>, Vec<String>); 7] = [
        (
            SETTINGS,
            None,
            vec![format!(
                "{warn}not checked: get ConfigMap headscale/headscale: forbidden (403)"
            )],
        ),
        (
            SETTINGS,
            Some(Value::Null),
            vec![format!(
                "{ok}Headscale's settings are not visible from here: Headscale's pod in"
            )],
        ),
        (
            SETTINGS,
            Some(settings(url, "cluster.local")),
            vec![
                format!("{warn}the tailnet's domain cluster.local is"),
                place.into(),
            ],
        ),
        (
            CORE_DNS,
            Some(core_dns),
            vec![format!("{ok}web.cluster.local in the tailnet")],
        ),
        (
            SETTINGS,
            Some(settings(url, "tail.corp.example")),
            vec![
                format!(
                    "{warn}the tailnet's domain tail.corp.example is within the cluster's domain corp.example"
                ),
                place.into(),
            ],
        ),
        (
            SERVERS,
            Some(elsewhere),
            vec![format!(
                "{ok}Headscale's settings are not visible from here: no pod of Headscale runs in namespace headscale"
            )],
        ),
        (
            SERVERS,
            None,
            vec![format!(
                "{warn}not checked: list pods in namespace headscale: forbidden (403)"
            )],
        ),
    ];
    for (path, answer, want) in rows {
        match answer {
            Some(answer) => answers.insert(path, answer),
            None => answers.remove(path),
        };
        let (output, said) = type_in(&answers, &["web-1"]).await;
        // Despite this finding, the pod is healthy.
        assert_eq!(output.status.code(), Some(0), "{said}");
        for part in want {
            assert!(said.contains(&part), "want {part:?}:\n{said}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_read_the_pod_alone_is_told_which_rights_are_missing() {
    let answers = Answers::from([(POD, pod(DAY))]);
    let (output, said) = type_in(&answers, &["pod/web-1"]).await;
    assert_eq!(output.status.code(), Some(0), "{said}");
    for call in [
        "get Secret shop/headscale-auth-keys: forbidden (403)",
        "list ConfigMaps in namespace tailnet: forbidden (403)",
        "get pods/log of web-1: forbidden (403)",
    ] {
        assert!(
            said.contains(&format!("not checked: {call}")),
            "{call}:\n{said}"
        );
    }
    let (output, said) = type_in(&Answers::new(), &["pod/web-1"]).await;
    let complaint = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), said.as_str()), (Some(1), ""));
    assert!(
        complaint.contains("get pod shop/web-1: forbidden (403)"),
        "{complaint}"
    );
    let (output, _) = type_in(&Answers::from([(POD, Value::Null)]), &["pod/web-1"]).await;
    let complaint = String::from_utf8(output.stderr).unwrap();
    assert!(
        complaint.contains("namespace shop has no pod web-1"),
        "{complaint}"
    );
    let (output, _) = type_in(&answers, &["deployment/web"]).await;
    let complaint = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(complaint.contains("want one pod, pod/NAME"), "{complaint}");
}
