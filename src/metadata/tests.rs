//! What is stored about an object, and what never is.

use serde_json::json;

use super::*;

fn pairs(kept: &Pairs) -> Vec<(&str, &str)> {
    kept.iter().map(|(key, value)| (&**key, &**value)).collect()
}

#[test]
fn keeps_of_a_pod_what_decides() {
    let pod = json!({"kind": "PartialObjectMetadata", "metadata": {
        "name": "web-1", "namespace": "shop", "resourceVersion": "12", "generation": 3,
        "uid": "6f1c2f0e-7a38-4a8e-9a53-2d9d0a8f3c11", "creationTimestamp": "2026-01-01T00:00:10Z",
        "deletionTimestamp": "2026-01-01T00:01:00Z",
        "labels": {"pod-template-hash": "abc", "team": "a", "other": "x"},
        "annotations": {"sidescale.io/tags": "tag:\"a\"\n", "sidescale.io/unknown": "x", "other": "x"},
        "ownerReferences": [
            {"kind": "Node", "name": "n", "uid": "x"},
            {"kind": "ReplicaSet", "name": "web", "uid": "6f1c2f0e-7a38-4a8e-9a53-2d9d0a8f3c12", "controller": true},
            {"kind": "Job", "name": "second", "uid": "", "controller": true},
        ],
        "managedFields": [{"manager": "kubelet", "fieldsV1": {"f:a": [{}]}}],
    }, "spec": {"containers": []}});
    let kept = ObjectMetadata::of_pod(pod.to_string().as_bytes(), &["team"].into()).unwrap();
    assert_eq!(
        (&*kept.name, &*kept.namespace, &*kept.version),
        ("web-1", "shop", "12")
    );
    assert_eq!(kept.uid.map(|uid| uid & 0xff), Some(0x11));
    assert_eq!((kept.created, kept.leaving), (1_767_225_610, true));
    assert_eq!(
        pairs(&kept.labels),
        [("pod-template-hash", "abc"), ("team", "a")]
    );
    assert_eq!(
        pairs(&kept.annotations),
        [("sidescale.io/tags", "tag:\"a\"\n")]
    );
    let owner = kept.owner.unwrap();
    assert_eq!((&*owner.kind, &*owner.name), ("ReplicaSet", "web"));
    assert_eq!(owner.uid.map(|uid| uid & 0xff), Some(0x12));
    assert_eq!(kept.last_write, LastWrite::default());
}

#[test]
fn keeps_no_more_of_a_value_than_decides() {
    let long = "ä\n".repeat(100 << 10);
    let pod = json!({"metadata": {"name": "x".repeat(1 << 20), "annotations": {"sidescale.io/tags": long},
        "ownerReferences": [{"kind": long, "name": long, "uid": long, "controller": true}]}});
    let kept = ObjectMetadata::of_pod(pod.to_string().as_bytes(), &BTreeSet::new()).unwrap();
    assert!((4097..4100).contains(&kept.annotations[0].1.len()));
    let owner = kept.owner.unwrap();
    assert!(kept.name.len() + owner.kind.len() + owner.name.len() <= 3 * LONGEST_NAME);
}

#[test]
fn of_two_values_with_one_key_one_is_kept() {
    let twice = r#""sidescale.io/tags":"1","sidescale.io/tags":"2""#;
    let pod = format!(r#"{{"metadata":{{"annotations":{{{twice}}}}}}}"#);
    let kept = ObjectMetadata::of_pod(pod.as_bytes(), &BTreeSet::new()).unwrap();
    assert_eq!(pairs(&kept.annotations), [("sidescale.io/tags", "2")]);
}

#[test]
fn keeps_of_a_namespace_what_decides_and_some_of_what_is_remarked_on() {
    let unknown = (0..1000).map(|n| (format!("sidescale.io/{n}"), json!("x")));
    let mut annotations: serde_json::Map<_, _> = unknown.collect();
    annotations.insert("sidescale.io/tags".into(), json!("tag:a"));
    annotations.insert("other".into(), json!("x"));
    let labels = (0..1000).map(|n| (format!("a{n}"), json!("x")));
    let mut labels: serde_json::Map<_, _> = labels.collect();
    labels.insert(INJECT.into(), json!("tailscale"));
    labels.insert("team".into(), json!("a"));
    let namespace =
        json!({"metadata": {"name": "shop", "labels": labels, "annotations": annotations}});
    let kept =
        ObjectMetadata::of_namespace(namespace.to_string().as_bytes(), &["team"].into()).unwrap();
    assert_eq!(
        pairs(&kept.labels)[MOST_LABELS..],
        [(INJECT, "tailscale"), ("team", "a")]
    );
    assert_eq!(kept.annotations.len(), MOST_UNKNOWN + 1);
    assert!(
        kept.annotations
            .contains(&("sidescale.io/tags".into(), "tag:a".into()))
    );
}

#[test]
fn says_who_wrote_last() {
    for (managers, ours, other) in [
        (&[][..], false, None),
        (&[("sidescale", Some(1))][..], true, None),
        (&[("argocd", Some(1)), ("sidescale", Some(2))], true, None),
        (
            &[("argocd", Some(2)), ("sidescale", Some(1))],
            false,
            Some("argocd"),
        ),
        (
            &[("sidescale", Some(1)), ("argocd", Some(1)), ("b", Some(1))],
            false,
            Some("argocd"),
        ),
        (&[("argocd", None), ("sidescale", Some(1))], true, None),
        (
            &[("sidescale", None), ("argocd", None)],
            false,
            Some("argocd"),
        ),
    ] {
        let managers: Vec<_> = managers
            .iter()
            .map(|(manager, second)| {
                let time = second.map(|second| format!("2026-01-01T00:00:{second:02}Z"));
                json!({"manager": manager, "time": time, "fieldsV1": {"f:metadata": {}}})
            })
            .collect();
        let secret = json!({"metadata": {"managedFields": managers}});
        let last = ObjectMetadata::of_secret(secret.to_string().as_bytes())
            .unwrap()
            .last_write;
        assert_eq!(
            (last.is_ours(), last.by_other()),
            (ours, other),
            "{managers:?}"
        );
    }
}

#[test]
fn what_is_no_object_of_kubernetes_is_refused() {
    for bytes in [
        "",
        "{}",
        "[]",
        r#"{"metadata":{}"#,
        r#"{"metadata":{"name":1}}"#,
        r#"{"metadata":{"annotations":{"sidescale.io/tags":[]}}}"#,
        r#"{"metadata":{"annotations":[]}}"#,
        r#"{"metadata":{"name":"a","name":"b"}}"#,
    ] {
        assert!(
            ObjectMetadata::of_pod(bytes.as_bytes(), &BTreeSet::new()).is_err(),
            "{bytes}"
        );
    }
    let deep = format!(
        r#"{{"metadata":{{"managedFields":[{{"fieldsV1":{}{}}}]}}}}"#,
        "[".repeat(1 << 18),
        "]".repeat(1 << 18)
    );
    assert!(ObjectMetadata::of_pod(deep.as_bytes(), &BTreeSet::new()).is_ok());
    let frame = |text: &str| serde_json::from_str::<Frame>(text).is_ok();
    assert!(frame(r#"{"metadata":{},"items":[]}"#) && frame(r#"{"items":null}"#));
    assert!(!frame(r#"{"items":[1]}"#) && !frame("{"));
}
