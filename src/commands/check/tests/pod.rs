//! The webhook's changes to the pod, and the state of its container.

use super::*;

#[test]
fn says_why_a_pod_has_no_sidecar() {
    let patch = "kubectl patch --namespace shop deployment/web --type merge --patch '{\"spec\":{\"template\":{\"metadata\":\
                 {\"annotations\":{\"sidescale.io/inject\":\"tailscale\"}}}}}'";
    let restart = "kubectl rollout restart --namespace shop deployment/web";
    hold(&[
        (
            World::unseen,
            Level::Fail,
            "injection",
            "no annotation sidescale.io/inject",
            patch,
        ),
        (
            |world| {
                world.unseen();
                world.annotate("sidescale.io/inject", "tailscale");
            },
            Level::Fail,
            "injection",
            "its annotations request one, and the webhook never saw the pod",
            restart,
        ),
        (
            |world| {
                world.unseen();
                world.facts.namespace = Observed::Saw(NamespaceMetadata {
                    inject: Some("tailscale".into()),
                    ..NamespaceMetadata::default()
                });
            },
            Level::Fail,
            "injection",
            "its namespace's label sidescale.io/inject requests one, and the webhook never saw",
            restart,
        ),
        (
            |world| {
                world.unseen();
                world.facts.namespace = Observed::Saw(NamespaceMetadata {
                    inject: Some("disabled".into()),
                    ..NamespaceMetadata::default()
                });
            },
            Level::Fail,
            "injection",
            "switched off by its label",
            "kubectl label namespace shop sidescale.io/inject-",
        ),
        (
            |world| {
                world.unseen();
                world.facts.namespace = Observed::Saw(NamespaceMetadata {
                    inject: Some("yes".into()),
                    ..NamespaceMetadata::default()
                });
            },
            Level::Fail,
            "injection",
            "is \"yes\", want tailscale",
            "kubectl label namespace shop sidescale.io/inject=tailscale --overwrite",
        ),
    ]);
}

#[test]
fn says_what_stands_against_a_sidecar() {
    let restart = "kubectl rollout restart --namespace shop deployment/web";
    hold(&[
        (
            |world| {
                world.unseen();
                world.pod["metadata"]["namespace"] = json!("kube-system");
            },
            Level::Fail,
            "injection",
            "never injected",
            "another namespace",
        ),
        (
            |world| world.annotate(STATUS, "{"),
            Level::Fail,
            "injection",
            "cannot be read",
            restart,
        ),
        (
            |world| world.pod["metadata"]["labels"] = json!({}),
            Level::Fail,
            "injection",
            "lacks the label sidescale.io/sidecar",
            "kubectl label pod --namespace shop web-7c9d8b-x2x4z sidescale.io/sidecar=tailscale",
        ),
    ]);
}

#[test]
fn says_why_a_pod_was_left_alone() {
    for (reason, level, text) in [
        ("hostNetwork", Level::Fail, "hostNetwork"),
        ("noService", Level::Fail, "no service"),
        ("notRequested", Level::Fail, "nothing requests"),
        ("switchedOff", Level::Fail, "switched injection off"),
        ("invalid", Level::Fail, "annotation is invalid"),
        ("nameTaken", Level::Fail, "named tailscale"),
        ("windows", Level::Fail, "Windows"),
        ("ofALaterVersion", Level::Fail, "ofALaterVersion"),
        ("disabled", Level::Warn, "requests"),
        ("handMade", Level::Warn, "hand-written"),
    ] {
        let mut world = World::well();
        let skip = json!({"version": "0.1.0", "decision": "skip", "reason": reason});
        world.annotate(STATUS, &skip.to_string());
        let findings = world.judged();
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert_eq!(findings[0].result, level, "{reason}");
        assert!(findings[0].text.contains(text), "{findings:?}");
        assert_eq!(findings[0].next.is_some(), level == Level::Fail);
    }
}

#[test]
fn a_typing_error_is_told_with_what_was_meant() {
    let mut world = World::well();
    world.unseen();
    world.annotate("sidescale.io/injekt", "tailscale");
    let findings = world.judged();
    assert!(
        findings[1]
            .text
            .contains("did you mean 'sidescale.io/inject'"),
        "{findings:?}"
    );
    let mut world = World::well();
    world.annotate(
        STATUS,
        &receipt(|receipt| receipt["unknown"] = json!(["annotation 'x' is unknown"])),
    );
    let findings = world.judged();
    assert_eq!(
        (findings[1].check, findings[1].result),
        ("annotation", Level::Warn)
    );
}

#[test]
fn says_how_the_container_does() {
    let log = "kubectl logs --namespace shop web-7c9d8b-x2x4z --container tailscale";
    let describe = "kubectl describe pod --namespace shop web-7c9d8b-x2x4z";
    hold(&[
        (
            |world| {
                world.state(
                    json!({"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}),
                );
            },
            Level::Fail,
            "container",
            "tailscale waiting: ImagePullBackOff (no such image)",
            describe,
        ),
        (
            |world| {
                world.state(json!({"waiting": {"reason": "CrashLoopBackOff"}}));
                let status = &mut world.pod["status"]["initContainerStatuses"][0];
                status["restartCount"] = json!(3);
                status["lastState"] = json!({"terminated": {"exitCode": 1, "reason": "Error"}});
            },
            Level::Fail,
            "container",
            "CrashLoopBackOff, restarted 3 times, before that exited with code 1 (Error)",
            "--previous",
        ),
        (
            |world| world.state(json!({"terminated": {"exitCode": 2}})),
            Level::Fail,
            "container",
            "exited with code 2",
            log,
        ),
        (
            |world| world.pod["status"]["initContainerStatuses"][0]["started"] = json!(false),
            Level::Warn,
            "container",
            "not started yet",
            log,
        ),
        (
            |world| world.pod["spec"]["initContainers"] = json!([]),
            Level::Ok,
            "container",
            "tailscale running",
            "",
        ),
        (
            |world| {
                world.pod["spec"]["initContainers"] = json!([]);
                world.pod["status"] = json!({});
            },
            Level::Fail,
            "container",
            "another webhook removed it",
            "kubectl get mutatingwebhookconfigurations",
        ),
        (
            |world| {
                let condition = json!({"type": "PodScheduled", "status": "False", "message": "no machine has room"});
                world.pod["status"] = json!({"conditions": [condition]});
            },
            Level::Fail,
            "container",
            "not scheduled: no machine has room",
            describe,
        ),
    ]);
}

#[test]
fn an_open_fence_fails_while_it_is_reported() {
    let note = |text: &str, seconds: i64| RotationWarning {
        reason: "FenceOpen".into(),
        text: text.into(),
        at: at(70 * DAY - seconds),
    };
    let of_fences = |finding: &CheckFinding| finding.check == "fences";
    assert!(!World::well().judged().iter().any(of_fences));
    let mut world = World::well();
    world.facts.fences = vec![
        note("secrets", 10),
        // The same from another replica.
        note("secrets", 300),
        note("webhooks", 899),
        note("evictions", 900),
    ];
    let findings = world.judged();
    let open = findings.iter().filter(|finding| of_fences(finding));
    let open: Vec<_> = open
        .map(|finding| (finding.result, finding.text.as_str()))
        .collect();
    assert_eq!(open, [(Level::Fail, "secrets"), (Level::Fail, "webhooks")]);
}
