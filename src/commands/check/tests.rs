//! A healthy pod, and the same pod with one fault at a time.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::{Value, json};
use sidescale_core::id::{KeyId, NodeId, UserId};
use sidescale_core::key_state::KeyState;
use sidescale_core::objects::{Node, PreAuthKey, User};
use sidescale_core::problem::Problem;
use sidescale_core::secret::StoredSecret;
use sidescale_rotation::record::{DATA_KEY, IssuedKey, KeyRecord, KeySpec, Record};
use sidescale_webhook::annotations::NamespaceMetadata;
use sidescale_webhook::hostnames::ClaimedHostnames;
use sidescale_webhook::identity::POD_SECRET;
use sidescale_webhook::keys::STATUS;
use sidescale_webhook::profile::Policy;
use zeroize::Zeroizing;

use super::dns::{Dns, TailnetNames};
use super::facts::{CheckFinding, Facts, Level, Observed};
use super::judge::judge;
use super::words::Refused;
use super::*;
use crate::commands::view::held::{PlaneView, ServerSnapshot};
use crate::commands::view::inventory::RotationWarning;

mod key;
mod names;
mod node;
mod pod;

const DAY: i64 = 86_400;
const POD: &str = "web-7c9d8b-x2x4z";

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// Built in pieces, so that no check for keys finds it here.
fn value() -> String {
    ["hskey-", "auth-abcdefghijkl-"].concat() + &"k".repeat(64)
}

/// Data key of a pod's own key.
const OWN_DATA_KEY: &str = "web-705ab4f56393-authkey";

fn receipt(change: impl FnOnce(&mut Value)) -> String {
    let mut receipt = json!({
        "version": "0.1.0", "decision": "inject", "profile": "default", "profileHash": "x", "service": "web",
        "controlPlane": "default", "secret": "headscale-auth-keys", "dataKey": "web-authkey",
    });
    change(&mut receipt);
    receipt.to_string()
}

/// Day 70: the pod is a day old, its key ten days.
fn pod() -> Value {
    json!({
        "metadata": {
            "name": POD, "namespace": "shop", "uid": "6f1c2f0e-7a38-4a8e-9a53-2d9d0a8f3c11",
            "creationTimestamp": at(69 * DAY).to_string(),
            "labels": {"pod-template-hash": "7c9d8b", "sidescale.io/sidecar": "tailscale"},
            "annotations": {"sidescale.io/inject": "tailscale", STATUS: receipt(|_| {})},
            "ownerReferences": [{
                "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-7c9d8b", "uid": "x", "controller": true,
            }],
        },
        "spec": {
            "nodeName": "machine-1",
            "initContainers": [{"name": "tailscale", "env": [
                {"name": "TS_HOSTNAME", "value": "web"},
                {"name": "TS_EXTRA_ARGS", "value": "--login-server=https://headscale.example.com"},
            ]}],
            "containers": [{"name": "web"}],
        },
        "status": {"phase": "Running", "initContainerStatuses": [{
            "name": "tailscale", "image": "", "imageID": "", "ready": true, "started": true, "restartCount": 0,
            "state": {"running": {"startedAt": at(69 * DAY).to_string()}},
        }]},
    })
}

fn node(id: u64) -> Node {
    Node {
        id: NodeId::from(id),
        name: "web".into(),
        given_name: "web".into(),
        user: Some(UserId::from(1)),
        online: true,
        pre_auth_key: Some(KeyId::from(7)),
        tags: Vec::new(),
        created_at: Some(at(69 * DAY + 5)),
        last_seen: Some(at(70 * DAY - 300)),
        expiry: None,
    }
}

fn asked() -> KeySpec {
    KeySpec {
        user: "shop.web".into(),
        tags: Vec::new(),
        reusable: true,
        ephemeral: true,
    }
}

fn dns() -> Dns {
    Dns {
        place: "ConfigMap headscale/headscale".into(),
        server_url: Some("https://headscale.example.com".into()),
        magic: true,
        base_domain: "tailnet.internal".into(),
    }
}

/// A pod with everything that it needs.
struct World {
    pod: Value,
    facts: Facts,
    secret: StoredSecret,
    record: KeyRecord,
    held: ServerSnapshot,
}

impl World {
    fn well() -> Self {
        let mut record = KeyRecord::new("web", "default");
        record.current = Some(IssuedKey {
            origin: sidescale_rotation::record::Origin::Ours,
            id: KeyId::from(7),
            created: at(60 * DAY),
            expires: at(150 * DAY),
            asked: asked(),
        });
        let mut secret = StoredSecret::absent("shop", "headscale-auth-keys");
        let bytes = Zeroizing::new(value().into_bytes());
        secret.data.insert("web-authkey".into(), bytes);
        let held = ServerSnapshot {
            users: vec![User {
                id: UserId::from(1),
                name: "shop.web".into(),
                display_name: "sidescale x y shop/web".into(),
                from_provider: false,
                created_at: None,
            }],
            keys: vec![PreAuthKey {
                prefix: None,
                id: KeyId::from(7),
                user: Some(UserId::from(1)),
                reusable: true,
                ephemeral: true,
                used: true,
                expiration: Some(at(150 * DAY)),
                created_at: None,
                tags: Vec::new(),
            }],
            nodes: vec![node(3)],
        };
        let facts = Facts {
            now: at(70 * DAY),
            pod: serde_json::from_value(pod()).unwrap(),
            namespace: Observed::Saw(NamespaceMetadata::default()),
            injected: Observed::Saw(Vec::new()),
            policy: Observed::Saw(
                Policy::for_login_server("https://headscale.example.com").unwrap(),
            ),
            secret: Observed::NotAsked,
            notes: Vec::new(),
            fences: Vec::new(),
            plane: Observed::NotAsked,
            names: Observed::Saw(TailnetNames::Set(dns())),
            hostnames: ClaimedHostnames::default(),
            cluster_domain: None,
            log: Observed::Saw(None),
            flags: " --namespace tailnet".into(),
            logs: "kubectl logs --namespace tailnet".into(),
        };
        Self {
            pod: pod(),
            facts,
            secret,
            record,
            held,
        }
    }

    /// Judges the facts after filling in what is not set yet.
    fn judged(mut self) -> Vec<CheckFinding> {
        self.facts.pod = serde_json::from_value(self.pod).unwrap();
        if let (Observed::NotAsked, Some(reference)) = (&self.facts.secret, self.facts.reference())
        {
            let mut record = Record::default();
            record
                .keys
                .insert(reference.data_key.clone().into_owned(), self.record);
            let document = Zeroizing::new(record.document().unwrap());
            self.secret.name = reference.secret.clone().into_owned();
            if !reference.own_key {
                self.secret.data.insert(DATA_KEY.into(), document);
            }
            self.facts.secret = Observed::Saw(Some(self.secret));
        }
        if matches!(self.facts.plane, Observed::NotAsked) {
            self.facts.plane = Observed::Saw(PlaneView::Held(self.held));
        }
        judge(&self.facts)
    }

    fn annotate(&mut self, key: &str, value: &str) {
        self.pod["metadata"]["annotations"][key] = json!(value);
    }

    fn unseen(&mut self) {
        self.pod["metadata"]["annotations"] = json!({});
    }

    fn state(&mut self, state: Value) {
        self.pod["status"]["initContainerStatuses"][0]["state"] = state;
    }

    fn env(&mut self, name: &str, value: &str) {
        for variable in self.pod["spec"]["initContainers"][0]["env"]
            .as_array_mut()
            .unwrap()
        {
            if variable["name"] == name {
                variable["value"] = json!(value);
            }
        }
    }

    fn value(&mut self, value: &str) {
        let bytes = Zeroizing::new(value.as_bytes().to_vec());
        let data_key = match &*self.secret.name {
            POD_SECRET => OWN_DATA_KEY,
            _ => "web-authkey",
        };
        self.secret.data.insert(data_key.into(), bytes);
    }

    /// Its key is the pod's own and works once.
    fn per_pod(&mut self) {
        let receipt = receipt(|receipt| {
            receipt["secret"] = json!(POD_SECRET);
            receipt["dataKey"] = json!(OWN_DATA_KEY);
        });
        self.annotate(STATUS, &receipt);
        self.secret.name = POD_SECRET.into();
        if let Some(value) = self.secret.data.remove("web-authkey") {
            self.secret.data.insert(OWN_DATA_KEY.into(), value);
        }
        self.record.current.as_mut().unwrap().asked.reusable = false;
        self.held.keys[0].reusable = false;
    }

    /// Like [`Self::per_pod`]; the pod has joined, and its key expired long ago.
    fn joined(&mut self) {
        self.per_pod();
        let current = self.record.current.as_mut().unwrap();
        current.expires = at(69 * DAY + 3_600);
        self.held.keys[0].expiration = Some(current.expires);
        self.record.joined_with = Some(current.id);
    }

    fn own(&mut self) {
        self.annotate(STATUS, &receipt(|receipt| receipt["ownKey"] = json!(true)));
        self.secret.labels.clear();
    }
}

/// A change, and the expected finding: level, check, a part of the text, a part of what to do next.
type Row = (
    fn(&mut World),
    Level,
    &'static str,
    &'static str,
    &'static str,
);

fn hold(rows: &[Row]) {
    for (change, level, check, text, next) in rows {
        let mut world = World::well();
        change(&mut world);
        let findings = world.judged();
        let found = findings.iter().any(|finding| {
            let says = finding.next.as_deref().unwrap_or_default();
            (finding.result, finding.check) == (*level, *check)
                && finding.text.contains(text)
                && says.contains(next)
                && (next.is_empty() == says.is_empty())
        });
        assert!(
            found,
            "want {level:?} {check} {text:?} {next:?} among {findings:#?}"
        );
        let worst = findings.iter().any(|finding| finding.result == Level::Fail);
        assert_eq!(worst, *level == Level::Fail, "{findings:#?}");
        let shown = format!("{findings:?}");
        assert!(!shown.contains("kkkk"), "a key is shown");
    }
}

#[test]
fn all_is_well() {
    let findings = World::well().judged();
    let checks: Vec<_> = findings.iter().map(|finding| finding.check).collect();
    assert!(
        findings.iter().all(|finding| finding.result == Level::Ok),
        "{findings:#?}"
    );
    let want = [
        "injection",
        "container",
        "secret",
        "value",
        "key",
        "control plane",
        "node",
        "names",
    ];
    assert_eq!(checks, want);
    let table = table::render("shop/web", &findings);
    let want = "pod shop/web
ok    injection      profile \"default\", service \"web\", control plane \"default\"
ok    \
container      tailscale running for 24h
ok    secret         shop/headscale-auth-keys contains web-authkey, created by Sidescale
ok    \
value          a well-formed pre-auth key of Headscale
ok    key            key 7 is 10d old, expires in 80d, due for renewal in 70d
\
ok    control plane  \"default\" answers, and key 7 is valid
ok    node           web (node 3) is online
ok    names          \
web.tailnet.internal in the tailnet

8 checks passed
";
    assert_eq!(table, want);
}

/// Names of nodes come from Headscale, and a receipt from the author of the pod.
#[test]
fn nothing_of_a_finding_steers_the_terminal() {
    let evil = "web\x1b[2K\nok    node           all is well\u{202e}";
    let findings = [
        CheckFinding::ok("node", evil.to_owned()),
        CheckFinding::fail("key", evil.to_owned(), format!("kubectl delete pod {evil}")),
    ];
    let table = table::render(&format!("shop/{evil}"), &findings);
    // The pod, a line and another with what to do next, none, and the sum.
    assert_eq!(table.lines().count(), 6, "{table}");
    let steers = |char: char| char != '\n' && (char.is_control() || char == '\u{202e}');
    assert!(!table.contains(steers), "{table:?}");
    assert_eq!(table.matches(r"\u{1b}[2K\u{a}ok").count(), 4, "{table}");
}

#[test]
fn takes_a_pod_as_kubectl_names_it_and_nothing_else() {
    for pod in ["pod/web-1", "pods/web-1", "po/web-1", "web-1"] {
        assert_eq!(pod.parse(), Ok(PodName("web-1".into())));
    }
    let wrong = ["", "pod/", "deployment/web", "shop/web", "pod/a/b", "Web"];
    let told: BTreeSet<_> = wrong
        .iter()
        .map(|text| text.parse::<PodName>().unwrap_err())
        .collect();
    assert_eq!(told.len(), 1);
    assert!(
        told.iter()
            .all(|text| text.starts_with("want one pod, pod/NAME"))
    );
}
