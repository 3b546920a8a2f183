//! A tenant who may create pods and tries to exceed the operator's limits: each attempt has its answer.

use std::collections::BTreeMap;

use proptest::prelude::*;
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};
use sidescale_webhook::annotations::SkipReason;
use sidescale_webhook::identity::{data_key, is_service, user};
use sidescale_webhook::mutate::{OptIn, Verdict};
use sidescale_webhook::profile::Policy;

use crate::support::{Answer, Setting, review};

const HUGE: usize = 200 * 1024;

fn setting() -> Setting {
    Setting {
        policy: Policy::for_login_server("https://headscale.example.com").unwrap(),
        opt_in: OptIn::Pod,
        namespace: None,
    }
}

fn pod(annotations: &Value) -> Value {
    json!({
        "metadata": {"name": "web", "annotations": annotations},
        "spec": {"containers": [{"name": "app", "image": "app"}]},
    })
}

fn send(annotations: &Value) -> Answer {
    setting().send_twice(&review(&pod(annotations)))
}

/// Sends a review, which must take at most two seconds of this thread: what else the machine does counts for nothing.
fn send_soon(annotations: &Value) -> Answer {
    let spent = || clock_gettime(ClockId::ThreadCPUTime);
    let began = spent();
    let answer = send(annotations);
    let took = spent() - began;
    assert!(took.tv_sec < 2, "{took:?}");
    answer
}

/// Every key that is read, with 200 KiB: a message of one line, no patch, and no delay.
#[test]
fn a_huge_value_is_refused_by_name_and_not_repeated() {
    let keys = [
        "inject",
        "profile",
        "control-plane",
        "service",
        "hostname",
        "tags",
        "reusable",
        "ephemeral",
        "auth-key-expiration",
        "auth-key-rotation-buffer",
        "auth-key-delivery",
        "auth-key-secret",
        "state",
        "userspace",
        "wait",
        "native-sidecar",
        "accept-dns",
        "accept-routes",
        "extra-args",
        "proxy",
        "proxy-env",
        "image",
        "cpu-request",
        "memory-limit",
        "headscale-container",
        "socket-path",
        "api-key-secret",
        "api-key-expiration",
        "server-keys-secret",
        "server-keys-files",
        "server-keys-path",
    ];
    for key in keys {
        for value in [
            "a".repeat(HUGE),
            "{pod}".repeat(HUGE / 5),
            "0".repeat(HUGE) + "9000h",
        ] {
            let mut annotations =
                json!({"sidescale.io/inject": "tailscale,apikey-manager,server-keys"});
            annotations[format!("sidescale.io/{key}")] = json!(value);
            let answer = send_soon(&annotations);
            assert!(matches!(answer.outcome.verdict, Verdict::Deny(_)), "{key}");
            let message = answer.outcome.message.unwrap();
            let named = format!("annotation \"sidescale.io/{key}\" is \"");
            assert!(message.starts_with(&named), "{message}");
            let length = format!("… of {} bytes: ", value.len());
            assert!(
                message.contains(&length) && message.contains("want "),
                "{message}"
            );
            assert!(message.len() < 600, "{} bytes", message.len());
            assert!(answer.outcome.reply.len() < 2000, "{key}");
        }
    }
}

/// 200 KiB of unknown keys: a few remarks, each one log line, and a normal patch.
#[test]
fn thousands_of_unknown_keys_make_nine_remarks() {
    let mut annotations: BTreeMap<String, String> = (0..8000)
        .map(|n| (format!("sidescale.io/unknown-{n:08}"), "x".to_owned()))
        .collect();
    annotations.insert("sidescale.io/inject".into(), "tailscale".into());
    let answer = send_soon(&json!(annotations));
    assert_eq!(answer.outcome.verdict, Verdict::Inject);
    let warnings = answer.response["warnings"].as_array().unwrap();
    assert_eq!((warnings.len(), answer.outcome.unknown.len()), (9, 9));
    assert_eq!(
        warnings[8],
        "7992 more annotations under 'sidescale.io/' are unknown and have no effect: remove them"
    );
    assert!(
        answer.outcome.patch_bytes < 8192,
        "{}",
        answer.outcome.patch_bytes
    );
}

/// An invalid name is shown as far as it is readable, without delay.
#[test]
fn a_key_that_is_no_name_is_remarked_on_within_bounds() {
    for key in [
        "x".repeat(HUGE),
        "in\u{202e}ject\n\"".to_owned(),
        "inject/x".to_owned(),
    ] {
        let mut annotations = json!({"sidescale.io/inject": "tailscale"});
        annotations[format!("sidescale.io/{key}")] = json!("true");
        let answer = send_soon(&annotations);
        let remark = &answer.outcome.unknown[0];
        assert!(remark.len() < 200 && remark.is_ascii(), "{remark}");
        assert!(!remark.contains(['\n', '"']), "{remark}");
    }
}

/// Another prefix, another case, a homoglyph: none of them is ours, and what is nearly ours is named.
#[test]
fn look_alike_keys_ask_for_nothing() {
    for key in [
        "sidescale.io.example.com/inject",
        "Sidescale.io/inject",
        "sidescale.i\u{43e}/inject",
        "sidescale.io",
        "xsidescale.io/inject",
        "tailscale.com/inject",
    ] {
        let answer = send(&json!({key: "tailscale"}));
        let verdict = answer.outcome.verdict;
        assert_eq!(verdict, Verdict::Skip(SkipReason::NotRequested), "{key}");
        assert_eq!(answer.outcome.patch_bytes, 0, "{key}");
        assert_eq!(answer.outcome.warnings, [""; 0], "{key}");
    }
    for key in ["Inject", "inject ", "injeсt", "inject."] {
        let key = format!("sidescale.io/{key}");
        let answer = send(&json!({&key: "tailscale"}));
        let verdict = answer.outcome.verdict;
        assert_eq!(verdict, Verdict::Skip(SkipReason::NotRequested), "{key}");
        assert!(
            answer.outcome.warnings[0].contains("did you mean 'sidescale.io/inject'?"),
            "{key}"
        );
    }
}

/// Label, receipt and container copied from another pod: it is left unchanged, with nothing injected.
#[test]
fn a_forged_pod_is_left_as_it_is() {
    let mut forged = pod(&json!({
        "sidescale.io/inject": "tailscale",
        "sidescale.io/status": r#"{"tailscale":{"service":"billing","secret":"headscale-auth-keys","key":"billing-authkey"}}"#,
    }));
    forged["metadata"]["labels"] = json!({"sidescale.io/sidecar": "tailscale"});
    forged["spec"]["initContainers"] = json!([{"name": "tailscale", "image": "own"}]);
    let answer = setting().send(&review(&forged));
    assert_eq!(
        answer.outcome.verdict,
        Verdict::Skip(SkipReason::AlreadyInjected)
    );
    assert_eq!(answer.outcome.patch_bytes, 0);

    // Without the container the receipt is rewritten, with what the pod is allowed.
    let mut bare = forged.clone();
    bare["spec"]
        .as_object_mut()
        .unwrap()
        .remove("initContainers");
    let answer = setting().send_twice(&review(&bare));
    assert_eq!(answer.outcome.verdict, Verdict::Inject);
    let receipt = answer.pod.unwrap()["metadata"]["annotations"]["sidescale.io/status"].take();
    let receipt = receipt.as_str().unwrap().to_owned();
    assert!(
        receipt.contains("web-authkey") && !receipt.contains("billing"),
        "{receipt}"
    );

    // A label for more than the pod has does not pass as our output either, nor does one without a receipt.
    let mut labelled = forged.clone();
    labelled["metadata"]["annotations"] = json!({"sidescale.io/inject": "tailscale"});
    let more = ["tailscale.apikey-manager", "tailscale.server-keys"].map(|kinds| {
        forged["metadata"]["labels"] = json!({"sidescale.io/sidecar": kinds});
        forged.clone()
    });
    for pod in more.into_iter().chain([labelled]) {
        let answer = setting().send(&review(&pod));
        assert_eq!(answer.outcome.verdict, Verdict::Skip(SkipReason::HandMade));
        assert!(
            answer.outcome.warnings[0].contains("remove it"),
            "{:?}",
            answer.outcome.warnings
        );
    }
}

fn namespace() -> impl Strategy<Value = String> {
    "[a-z0-9]([-a-z0-9]{0,6}[a-z0-9])?"
}

fn service() -> impl Strategy<Value = String> {
    // Names that a tenant would choose to resemble another namespace's.
    "[a-z0-9]([-a-z0-9.]{0,10}[a-z0-9])?".prop_filter("no service", |text| is_service(text))
}

proptest! {
    #[test]
    fn no_service_has_the_user_of_another_namespace(
        (own, other) in (namespace(), namespace()),
        (mine, theirs) in (service(), service()),
        template in proptest::sample::select(vec![
            "{namespace}.{service}", "{service}.{namespace}", "k8s-{namespace}.{service}",
            "{namespace}_{service}", "{service}@{namespace}", "{namespace}-x.{service}",
        ]),
    ) {
        prop_assume!(own != other);
        prop_assert_ne!(user(template, &own, &mine), user(template, &other, &theirs));
    }

    /// Likewise, within a namespace, for the key of another service at another control plane.
    #[test]
    fn no_service_has_the_data_key_of_another(
        (mine, theirs) in (service(), service()),
        (one, two) in (
            proptest::sample::select(vec!["default", "lab", "a-authkey"]),
            proptest::sample::select(vec!["default", "lab", "a-authkey"]),
        ),
    ) {
        prop_assume!((&mine, one) != (&theirs, two));
        prop_assert_ne!(data_key(&mine, one), data_key(&theirs, two));
    }
}

#[test]
fn a_service_spelt_like_another_namespaces_stays_in_its_own() {
    let answer =
        send(&json!({"sidescale.io/inject": "tailscale", "sidescale.io/service": "billing.api"}));
    assert_eq!(answer.outcome.service.as_deref(), Some("billing.api"));
    assert_eq!(
        user("{namespace}.{service}", "shop", "billing.api"),
        "shop.billing_api"
    );
    for wrong in [
        "billing/api",
        "../billing",
        "billing_api",
        "Billing",
        "billing.",
        "{namespace}",
    ] {
        let answer =
            send(&json!({"sidescale.io/inject": "tailscale", "sidescale.io/service": wrong}));
        let message = answer.outcome.message.unwrap_or_default();
        let named = format!("annotation \"sidescale.io/service\" is {wrong:?}: want ");
        assert!(message.starts_with(&named), "{wrong}: {message}");
    }
}
