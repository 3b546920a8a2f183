//! Warnings for the author of a workload: the verdict on its pods, and never a denial.

use std::sync::Arc;

use serde_json::{Value, json};
use sidescale_webhook::annotations::{Caller, NamespaceMetadata};
use sidescale_webhook::hostnames::{ClaimedHostnames, Hashed, HostnameRow};
use sidescale_webhook::mutate::{OptIn, Verdict};
use sidescale_webhook::profile::{HostnameOwner, Policy};
use sidescale_webhook::workload::{Advice, validate};

use crate::golden::{folders, input, setting};
use crate::support::review;

const KINDS: [&str; 5] = ["Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob"];

fn policy() -> Policy {
    Policy::for_login_server("https://headscale.example.com").unwrap()
}

fn workload(kind: &str, annotations: &Value, spec: &Value) -> Value {
    let mut pod = json!({"containers": [{"name": "app", "image": "app"}]});
    let more = spec.as_object().unwrap().clone();
    pod.as_object_mut().unwrap().extend(more);
    let template = json!({"metadata": {"annotations": annotations}, "spec": pod});
    let spec = match kind {
        "CronJob" => json!({"jobTemplate": {"spec": {"template": template}}}),
        _ => json!({"template": template}),
    };
    json!({"kind": kind, "metadata": {"name": "web"}, "spec": spec})
}

/// Sends it, and checks what holds for every answer.
fn send(object: &Value, namespace: Option<NamespaceMetadata>, policy: &Policy) -> Advice {
    let namespace = namespace.map(Arc::new);
    let body = review(object).to_string();
    let advice = validate(
        body.as_bytes(),
        Caller::Unverified,
        &|_| namespace.clone(),
        &ClaimedHostnames::default(),
        policy,
    )
    .unwrap();
    let reply: Value = serde_json::from_slice(&advice.reply).unwrap();
    assert_eq!(reply["apiVersion"], "admission.k8s.io/v1");
    let response = &reply["response"];
    assert_eq!(response["uid"], "00000000-0000-4000-8000-000000000001");
    assert_eq!(response["allowed"], true);
    for nothing in ["patch", "status"] {
        assert!(response[nothing].is_null(), "{response}");
    }
    let warnings = response["warnings"].as_array().cloned().unwrap_or_default();
    assert_eq!(warnings, advice.warnings);
    for warning in &advice.warnings {
        assert!(!warning.contains('"'), "helm escapes quotes: {warning}");
    }
    advice
}

#[test]
fn says_nothing_where_the_pods_get_what_was_asked_for() {
    for kind in KINDS {
        let object = workload(
            kind,
            &json!({"sidescale.io/inject": "tailscale"}),
            &json!({}),
        );
        let advice = send(&object, None, &policy());
        assert_eq!(advice.verdict, Some(Verdict::Inject), "{kind}");
        assert_eq!(advice.warnings, [""; 0], "{kind}");
    }
}

#[test]
fn names_the_workload_and_the_mistake_for_each_kind() {
    for kind in KINDS {
        let annotations = json!({"sidescale.io/inject": "tailscale", "sidescale.io/auth-key-expiration": "soon", "sidescale.io/tag": "x"});
        let advice = send(&workload(kind, &annotations, &json!({})), None, &policy());
        let want = [
            format!(
                "{kind} web: its pods will be denied: annotation 'sidescale.io/auth-key-expiration' is 'soon': want a duration such as 90m, 12h or 30d"
            ),
            format!(
                "{kind} web: annotation 'sidescale.io/tag' is unknown and has no effect: did you mean 'sidescale.io/tags'?"
            ),
        ];
        assert_eq!(advice.warnings, want);
        let on_host = json!({"hostNetwork": true});
        let annotations = json!({"sidescale.io/inject": "tailscale"});
        let advice = send(&workload(kind, &annotations, &on_host), None, &policy());
        let want = format!("{kind} web: no sidecar: pods with hostNetwork are not supported");
        assert_eq!(advice.warnings, [want]);
    }
}

#[test]
fn takes_a_claim_of_a_stateful_set_for_a_volume_of_its_pods() {
    let annotations =
        json!({"sidescale.io/inject": "tailscale", "sidescale.io/state": "volume:data"});
    let spec = json!({"securityContext": {"fsGroup": 1000}});
    let mut object = workload("StatefulSet", &annotations, &spec);
    let advice = send(&object, None, &policy());
    assert_eq!(
        advice.warnings,
        [
            "StatefulSet web: its pods will be denied: annotation 'sidescale.io/state' is 'volume:data': the pod has no such volume, want emptydir, or volume:<name> of a writable volume"
        ]
    );
    object["spec"]["volumeClaimTemplates"] = json!([{"metadata": {"name": "data"}, "spec": {}}]);
    assert_eq!(send(&object, None, &policy()).warnings, [""; 0]);
}

#[test]
fn tells_of_a_namespace_that_is_switched_off_but_not_of_a_pod_that_is() {
    let off = NamespaceMetadata {
        inject: Some("disabled".to_owned()),
        ..NamespaceMetadata::default()
    };
    let asks = workload(
        "Job",
        &json!({"sidescale.io/inject": "tailscale"}),
        &json!({}),
    );
    let advice = send(&asks, Some(off), &policy());
    assert_eq!(
        advice.warnings,
        [
            "Job web: no sidecar: namespace 'shop' is labelled 'sidescale.io/inject: disabled', remove the label or the annotations"
        ]
    );
    let asks_not = workload("Job", &json!({"sidescale.io/inject": "false"}), &json!({}));
    assert_eq!(send(&asks_not, None, &policy()).warnings, [""; 0]);
}

#[test]
fn allows_whatever_else_comes() {
    for object in [
        Value::Null,
        json!({"kind": "Deployment"}),
        json!({"kind": "Deployment", "spec": 5}),
        json!({"kind": "CronJob", "spec": {"template": {}}}),
        json!({"kind": "ReplicaSet", "metadata": {"name": "x"}, "spec": {"template": {}}}),
        json!({"kind": "Job", "metadata": {"name": "x"}, "spec": {"template": {"metadata": {"annotations": []}}}}),
        json!([]),
    ] {
        let advice = send(&object, None, &policy());
        assert_eq!(
            (advice.verdict, advice.warnings),
            (None, Vec::new()),
            "{object}"
        );
    }
    let error = validate(
        b"{}",
        Caller::Unverified,
        &|_| None,
        &ClaimedHostnames::default(),
        &policy(),
    )
    .unwrap_err();
    assert!(error.to_string().contains("AdmissionReview"), "{error}");
}

/// The cases of pods that a workload creates: their author gets the warnings of the pods' creator, and a denial as well.
#[test]
fn tells_of_every_case_what_is_said_of_its_pod() {
    let mut met = 0;
    for folder in folders() {
        let mut pod = input(&folder)["request"]["object"].take();
        let owner = pod.pointer("/metadata/ownerReferences/0");
        let owner = owner.cloned().unwrap_or_default();
        let name = owner["name"].as_str().unwrap_or_default();
        let (kind, name) = match owner["kind"].as_str().unwrap_or_default() {
            "ReplicaSet" => ("Deployment", name.rsplit_once('-').unwrap().0),
            kind @ ("StatefulSet" | "DaemonSet" | "Job") => (kind, name),
            _ => continue,
        };
        let mut setting = setting(&folder);
        if setting.opt_in == OptIn::Namespace {
            let namespace = setting.namespace.get_or_insert_default();
            namespace.inject = Some("tailscale".to_owned());
        }
        let (metadata, spec) = (pod["metadata"].take(), pod["spec"].take());
        let template = json!({
            "metadata": {"labels": metadata["labels"], "annotations": metadata["annotations"]},
            "spec": spec,
        });
        let object =
            json!({"kind": kind, "metadata": {"name": name}, "spec": {"template": template}});
        let answer = setting.send(&input(&folder));
        if answer.outcome.verdict.reason() == "notAPodCreate" {
            continue;
        }
        let advice = send(&object, setting.namespace.clone(), &setting.policy);
        let refused = answer.outcome.message.as_ref();
        let refused = refused.filter(|_| matches!(answer.outcome.verdict, Verdict::Deny(_)));
        let refused = refused.map(|message| format!("its pods will be denied: {message}"));
        let want = refused.into_iter().chain(answer.outcome.warnings.clone());
        let want = want.map(|text| format!("{kind} {name}: {}", text.replace('"', "'")));
        let switched_off = |text: &&String| !text.contains("is labelled 'sidescale.io/inject: ");
        assert_eq!(
            advice
                .warnings
                .iter()
                .filter(switched_off)
                .cloned()
                .collect::<Vec<_>>(),
            want.collect::<Vec<_>>(),
            "{}",
            folder.display()
        );
        assert_eq!(
            advice.verdict,
            Some(answer.outcome.verdict),
            "{}",
            folder.display()
        );
        met += 1;
    }
    assert!(met >= 60, "only {met} cases");
}

/// Returns the warnings for a Deployment `web` of namespace `shop`; `prod` owns hostname `vault` and the operator reserves `db`.
fn warned_of(caller: Caller, hostname: &str) -> Vec<String> {
    let row = HostnameRow {
        hostname: Hashed::of("vault"),
        namespace: Hashed::of("prod"),
        idle_since: None,
    };
    let claimed = ClaimedHostnames::read(&[("default".to_owned(), row.to_string())].into());
    let mut policy = policy();
    for (name, namespace, service) in [("db", "prod", "db"), ("own", "shop", "web")] {
        let owner = HostnameOwner {
            namespace: namespace.to_owned(),
            service: service.to_owned(),
        };
        policy.reserved_hostnames.insert(name.to_owned(), owner);
    }
    let annotations =
        json!({"sidescale.io/inject": "tailscale", "sidescale.io/hostname": hostname});
    let body = review(&workload("Deployment", &annotations, &json!({}))).to_string();
    let advice = validate(body.as_bytes(), caller, &|_| None, &claimed, &policy).unwrap();
    assert_eq!(advice.verdict, Some(Verdict::Inject));
    advice.warnings
}

#[test]
fn warns_of_a_hostname_that_is_anothers_those_who_may_know() {
    let said = |hostname: &str, whose: &str| {
        vec![format!(
            "Deployment web: hostname '{hostname}': {whose}, so Sidescale does not give it to nodes of service 'web': set \
             annotation 'sidescale.io/hostname' to another name, such as '{{service}}-{{namespace}}'"
        )]
    };
    for (hostname, want) in [
        (
            "vault",
            said("vault", "it belongs to a service of another namespace"),
        ),
        (
            "db",
            said("db", "the operator reserved it for another service"),
        ),
        ("own", Vec::new()),
        ("web", Vec::new()),
        ("vault-{pod}", Vec::new()),
    ] {
        assert_eq!(warned_of(Caller::Verified, hostname), want, "{hostname}");
        assert!(want.iter().all(|text| !text.contains("prod")));
        assert_eq!(
            warned_of(Caller::Unverified, hostname),
            Vec::<String>::new()
        );
    }
}
