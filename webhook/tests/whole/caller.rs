//! Answers to any client in the pod network, which may name any namespace: nothing in them depends on it.

use serde_json::{Value, json};
use sidescale_webhook::annotations::{Caller, NamespaceMetadata};
use sidescale_webhook::mutate::OptIn;
use sidescale_webhook::profile::{Config, Policy};

use crate::golden::{folders, input, setting};
use crate::support::{Answer, Setting, review};

/// Returns all texts except the patch.
fn said(answer: &Answer) -> String {
    let Value::Object(mut response) = answer.response.clone() else {
        panic!("{}", answer.response);
    };
    response.remove("patch");
    Value::Object(response).to_string()
}

/// Returns the patched pod without the parts of the receipt that depend on the caller.
fn patched(answer: &Answer) -> Option<Value> {
    let mut pod = answer.pod.clone()?;
    let status = &mut pod["metadata"]["annotations"]["sidescale.io/status"];
    if let Some(text) = status.as_str() {
        let mut receipt: Value = serde_json::from_str(text).unwrap();
        let fields = receipt.as_object_mut().unwrap();
        fields.remove("namespaceUnknown");
        fields.remove("unknown");
        *status = receipt;
    }
    Some(pod)
}

#[test]
fn every_case_gets_the_same_patch_whoever_asks_and_shows_no_namespaces_values() {
    let mut met = 0;
    for folder in folders() {
        let (setting, review) = (setting(&folder), input(&folder));
        let [verified, unverified] =
            [Caller::Verified, Caller::Unverified].map(|caller| setting.send_by(caller, &review));
        let about = folder.display();
        let verdicts = [&verified, &unverified].map(|answer| answer.outcome.verdict);
        assert_eq!(verdicts[0], verdicts[1], "{about}");
        assert_eq!(patched(&verified), patched(&unverified), "{about}");
        let (pod, said) = (review.to_string(), said(&unverified).replace("\\\"", "'"));
        let metadata = setting.namespace.iter();
        for (key, value) in metadata.flat_map(|metadata| &metadata.annotations) {
            met += 1;
            // Quoted, as values are: words such as file are part of others.
            let value = &format!("'{value}'");
            assert!(
                pod.contains(value) || !said.contains(value),
                "{about}: {key}: {said}"
            );
        }
    }
    assert!(met >= 5, "{met} annotations of namespaces");
}

const POLICY: &str = "controlPlanes:
  default: {loginServer: 'https://headscale.example.org'}
  lab: {loginServer: 'https://lab.example.org', namespaces: [shop]}
profiles:
  default: {allowedTags: ['tag:web']}
  inner: {namespaces: [shop], allowedTags: ['tag:inner'], allowedImages: ['example.com/inner:*'], allowedExtraArgs: [--ssh]}
";

fn shop(annotations: &[(&str, &str)]) -> Setting {
    let annotations = annotations.iter();
    let annotations =
        annotations.map(|(key, value)| (format!("sidescale.io/{key}"), (*value).to_owned()));
    let config: Config = serde_saphyr::from_str(POLICY).unwrap();
    Setting {
        policy: Policy::from_config(config).unwrap(),
        opt_in: OptIn::Pod,
        namespace: Some(NamespaceMetadata {
            annotations: annotations.collect(),
            ..NamespaceMetadata::default()
        }),
    }
}

fn pod(annotations: &[(&str, &str)]) -> Value {
    let annotations = annotations.iter();
    let annotations: serde_json::Map<_, _> = annotations
        .map(|(key, value)| (format!("sidescale.io/{key}"), json!(value)))
        .chain([("sidescale.io/inject".to_owned(), json!("tailscale"))])
        .collect();
    json!({
        "metadata": {"name": "web", "namespace": "shop", "annotations": annotations},
        "spec": {"containers": [{"name": "web", "image": "nginx"}]},
    })
}

/// The pod's annotations, those of its namespace, and what must be only in the answer for the API server.
#[test]
fn leaves_out_what_depends_on_the_named_namespace() {
    type Pairs = &'static [(&'static str, &'static str)];
    let table: [(Pairs, Pairs, &str); 14] = [
        (&[], &[("tags", "tag:secret-project")], "secret-project"),
        (&[], &[("wait", "codename")], "codename"),
        (&[], &[("extra-args", "--operator=alice")], "operator"),
        (
            &[("memory-request", "1Gi")],
            &[("memory-limit", "511Mi")],
            "511Mi",
        ),
        (
            &[("auth-key-rotation-buffer", "49h")],
            &[("auth-key-expiration", "48h31m")],
            "48h31m",
        ),
        (&[], &[("auth-key-rotation-buffer", "1301h")], "1301h"),
        (&[], &[("hostnme", "x")], "hostnme"),
        (
            &[],
            &[("hostname", "x"), ("auth-key-secret", "codename")],
            "codename",
        ),
        (&[("profile", "gone")], &[], "inner"),
        (&[("control-plane", "gone")], &[], "lab"),
        (&[("profile", "inner"), ("tags", "tag:x")], &[], "tag:inner"),
        (&[("profile", "inner"), ("image", "x")], &[], "example.com"),
        (
            &[("profile", "inner"), ("extra-args", "--operator")],
            &[],
            "--ssh",
        ),
        (&[("tags", "tag:x")], &[("profile", "inner")], "inner"),
    ];
    for (asked, namespace, secret) in table {
        let (setting, review) = (shop(namespace), review(&pod(asked)));
        let about = format!("{asked:?} {namespace:?}");
        let verified = setting.send_by(Caller::Verified, &review);
        assert!(
            said(&verified).contains(secret),
            "{about}: {}",
            said(&verified)
        );
        assert_eq!(verified.outcome.withheld, None, "{about}");
        let unverified = setting.send_by(Caller::Unverified, &review);
        assert!(
            !said(&unverified).contains(secret),
            "{about}: {}",
            said(&unverified)
        );
        // The operator's log contains the whole reason anyway.
        if !namespace.is_empty() && verified.outcome.message.is_some() {
            assert!(unverified.outcome.withheld.is_some(), "{about}");
        }
    }
}

#[test]
fn tells_nobody_whether_a_namespace_is_known() {
    let mut setting = shop(&[]);
    let review = review(&pod(&[]));
    let known = setting.send_by(Caller::Unverified, &review);
    setting.namespace = None;
    let unknown = setting.send_by(Caller::Unverified, &review);
    assert_eq!(known.response, unknown.response);
    let receipt =
        |answer: &Answer| answer.pod.as_ref().unwrap()["metadata"]["annotations"].to_string();
    assert!(!receipt(&unknown).contains("namespaceUnknown"));
    let verified = setting.send_by(Caller::Verified, &review);
    assert!(receipt(&verified).contains("namespaceUnknown"));
}
