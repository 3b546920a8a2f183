//! Bodies that no API server sends: each gets an answer or a reason, never a panic.

use serde_json::{Value, json};
use sidescale_webhook::annotations::Caller;
use sidescale_webhook::mutate::{OptIn, mutate};
use sidescale_webhook::profile::Policy;

use crate::support::{Setting, review};

fn policy() -> Policy {
    Policy::for_login_server("https://headscale.example.com").unwrap()
}

fn error(body: &[u8]) -> String {
    let error = mutate(body, OptIn::Pod, Caller::Unverified, &|_| None, &policy()).unwrap_err();
    match std::error::Error::source(&error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

#[test]
fn says_what_is_wrong_with_a_body_that_it_cannot_answer() {
    let form = "the body is not an admission.k8s.io/v1 AdmissionReview with a request: ";
    let no_uid = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {"operation": "CREATE"}});
    let table = [
        (
            b"{".to_vec(),
            format!("{form}EOF while parsing an object at line 1 column 1"),
        ),
        (
            b"[]".to_vec(),
            format!("{form}invalid length 2, expected an AdmissionReview at line 1 column 2"),
        ),
        (
            b"{\"request\":null}".to_vec(),
            format!("{form}invalid type: null, expected a request at line 1 column 15"),
        ),
        (
            b"\xff".to_vec(),
            format!("{form}invalid utf-8 sequence of 1 bytes from index 0"),
        ),
        (
            json!({"apiVersion": "v1", "kind": "Pod", "request": {"uid": "1"}})
                .to_string()
                .into_bytes(),
            "the body is \"Pod\" of \"v1\": want AdmissionReview of \"admission.k8s.io/v1\""
                .to_owned(),
        ),
        (
            no_uid.to_string().into_bytes(),
            "request.uid is empty: the API server would reject an answer without it".to_owned(),
        ),
        (
            br#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"#
                .iter()
                .copied()
                .chain(format!("\"{}\"}}}}", "u".repeat(257)).into_bytes())
                .collect(),
            "request.uid has 257 bytes, and the answer repeats it: want at most 256 bytes"
                .to_owned(),
        ),
    ];
    for (body, want) in table {
        assert_eq!(error(&body), want, "{}", String::from_utf8_lossy(&body));
    }
}

#[test]
fn answers_a_review_of_something_that_is_no_pod() {
    let mut other = review(&json!({"metadata": [], "spec": 5}));
    other["request"]["resource"] =
        json!({"group": "apps", "version": "v1", "resource": "deployments"});
    let setting = Setting {
        policy: policy(),
        opt_in: OptIn::Pod,
        namespace: None,
    };
    assert_eq!(
        setting.send(&other).outcome.verdict.reason(),
        "notAPodCreate"
    );
}

#[test]
fn refuses_a_pod_with_more_than_any_real_one_has() {
    let proxy = json!({"sidescale.io/inject": "tailscale", "sidescale.io/proxy": "1055", "sidescale.io/proxy-env": "true"});
    let mut list = proxy.clone();
    let key = "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes";
    list[key] = json!("v".repeat(16_385));
    let table = [
        (&proxy, 128, None),
        (
            &proxy,
            129,
            Some(
                "annotation \"sidescale.io/proxy-env\" is \"true\": the pod has 129 containers, want at most 128: remove the annotation, and set the variables in the containers that need them",
            ),
        ),
        (
            &proxy,
            513,
            Some("the pod has 513 containers: want at most 512, including init containers"),
        ),
        (
            &list,
            1,
            Some(
                "annotation \"cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes\" has 16385 bytes: want at most 16384, the names of the pod's volumes",
            ),
        ),
    ];
    for (annotations, count, want) in table {
        let containers = vec![json!({}); count];
        let pod = json!({
            "metadata": {"name": "web", "annotations": annotations},
            "spec": {"containers": containers},
        });
        let body = review(&pod).to_string();
        let outcome = mutate(
            body.as_bytes(),
            OptIn::Pod,
            Caller::Unverified,
            &|_| None,
            &policy(),
        )
        .unwrap();
        assert_eq!(outcome.message.as_deref(), want, "{count}");
        let reason = want.map_or("requested", |_| "tooLarge");
        assert_eq!(outcome.verdict.reason(), reason, "{count}");
    }
}

fn nested() -> impl proptest::strategy::Strategy<Value = Value> {
    use proptest::prelude::*;
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    let key = prop_oneof![
        Just("metadata"),
        Just("spec"),
        Just("annotations"),
        Just("labels"),
        Just("containers"),
        Just("initContainers"),
        Just("volumes"),
        Just("name"),
        Just("ports"),
        Just("resources"),
        Just("limits"),
        Just("cpu"),
        Just("sidescale.io/inject"),
        Just("ownerReferences"),
        Just("os"),
    ];
    leaf.prop_recursive(5, 48, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((key.clone(), inner), 0..6).prop_map(|entries| entries
                .into_iter()
                .map(|(key, value)| (key.to_owned(), value))
                .collect()),
        ]
    })
}

proptest::proptest! {
    #[test]
    fn never_panics_on_any_object(object in nested()) {
        let body = review(&object).to_string();
        let _ = mutate(body.as_bytes(), OptIn::Namespace, Caller::Unverified, &|_| None, &policy());
    }

    #[test]
    fn any_annotation_is_injected_or_refused_by_name(
        key in proptest::sample::select(vec!["service", "hostname", "tags", "wait", "auth-key-secret", "cpu-limit", "inject"]),
        value in ".{0,24}",
    ) {
        let mut pod = json!({
            "metadata": {"name": "web", "annotations": {"sidescale.io/inject": "true"}},
            "spec": {"containers": [{"name": "app", "image": "app"}]},
        });
        pod["metadata"]["annotations"][format!("sidescale.io/{key}")] = json!(value);
        let setting = Setting { policy: policy(), opt_in: OptIn::Pod, namespace: None };
        let answer = setting.send_twice(&review(&pod));
        if let Some(message) = answer.outcome.message {
            proptest::prop_assert!(message.contains(&format!("\"sidescale.io/{key}\"")), "{}", message);
            proptest::prop_assert!(message.contains(&format!("{value:?}")), "{}", message);
        }
    }
}
