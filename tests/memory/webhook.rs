//! The webhook's endpoints, as reached by a connection: limits, decoding, patch, answer, log line.

use std::sync::Arc;

use axum::Router;
use axum::http::Request;
use http_body_util::BodyExt as _;
use sidescale::metrics::Metrics;
use sidescale::telemetry::{self, LogArgs, LogFormat};
use sidescale::{config, server};
use sidescale_webhook::annotations::NamespaceMetadata;
use tower::ServiceExt as _;

use crate::body::Text;
use crate::pods::{self, Pod};
use crate::{Case, Feed};

/// Its profiles allow everything that a pod can ask for.
const CONFIG: &str = "controlPlanes:
  default: {loginServer: 'https://headscale.example.com'}
profiles:
  default: {}
  pulls: {namespaces: [shop], imagePullSecrets: [registry]}
  selected: {namespaces: [other], podSelector: {matchLabels: {app: web}}}
";

/// Returns every pod on every endpoint, and the cases that only a workload or a review can have.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for place in 0..pods::all().len() {
        let name = pods::all()[place].name;
        let pod = move || pods::all().swap_remove(place);
        cases.push(case("/mutate/pod", name, true, move || review(pod())));
        cases.push(case("/validate", name, true, move || workload(pod())));
        if ["labels", "containers", "one label many times"].contains(&name) {
            cases.push(case("/mutate/namespace", name, true, move || review(pod())));
        }
        if ["env at 8 MiB", "containers"].contains(&name) {
            let other = "its length is not declared";
            let name = format!("{name}, {other}");
            cases.push(case("/mutate/pod", &name, false, move || review(pod())));
        }
    }
    for (name, text) in reviews() {
        for path in ["/mutate/pod", "/validate"] {
            let text = text.clone();
            cases.push(case(path, name, true, move || text.clone()));
        }
    }
    let claims = || {
        let template = r#"{"metadata":{"annotations":{"sidescale.io/inject":"tailscale","sidescale.io/state":"volume:data"}},"spec":{"containers":[{}]}}"#;
        let before = format!(
            r#"{{"kind":"StatefulSet","metadata":{{"name":"web"}},"spec":{{"template":{template},"volumeClaimTemplates":["#
        );
        let unit = r#"{"metadata":{"name":"d#"}},"#;
        reviewed(Text::new(&before, unit, 60_000, "{}]}}"))
    };
    cases.push(case("/validate", "claims", true, claims));
    cases
}

fn case(
    path: &'static str,
    name: &str,
    declared: bool,
    text: impl Fn() -> Text + Send + 'static,
) -> Case {
    Case {
        name: format!("{path}: {name}"),
        prepare: Box::new(move || feed(path, text(), declared)),
    }
}

/// Creates router and runtime, and returns the sending of the body.
fn feed(path: &'static str, text: Text, declared: bool) -> Feed {
    telemetry::init(&LogArgs {
        log_format: LogFormat::Json,
        log_level: "info".to_owned(),
    });
    let policy = Arc::new(config::parse(CONFIG).unwrap());
    let namespace = Arc::new(NamespaceMetadata::default());
    let router: Router = server::router(
        config::fixed(policy),
        Arc::new(move |_: &str| Some(Arc::clone(&namespace))),
        Arc::default(),
        Arc::new(Metrics::new().unwrap()),
    );
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    Box::new(move || {
        let (body, length) = text.body(declared);
        let request = Request::post(path).body(body).unwrap();
        runtime.block_on(async move {
            let answer = router.oneshot(request).await.unwrap();
            let status = answer.status();
            let text = answer.into_body().collect().await.unwrap().to_bytes();
            let shown = String::from_utf8_lossy(&text[..text.len().min(400)]).into_owned();
            let said = shown
                .split_once(r#""message":"#)
                .map_or(&*shown, |(_, said)| said);
            let said: String = said.chars().take(120).collect();
            (
                length,
                format!("{} {} bytes {said}", status.as_u16(), text.len()),
            )
        })
    })
}

/// Returns the review of an object.
fn reviewed(object: Text) -> Text {
    object.within(
        r#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"705ab4f5","namespace":"shop","operation":"CREATE","resource":{"group":"","version":"v1","resource":"pods"},"object":"#,
        "}}",
    )
}

fn review(pod: Pod) -> Text {
    reviewed(object(pod))
}

fn workload(pod: Pod) -> Text {
    let before = r#"{"kind":"Deployment","metadata":{"name":"web"},"spec":{"template":"#;
    reviewed(object(pod).within(before, "}}"))
}

fn object(pod: Pod) -> Text {
    let Pod { metadata, spec, .. } = pod;
    // Only one of them has a repeated part.
    if metadata.times == 0 {
        let before = format!(
            r#"{{"metadata":{}{},"spec":"#,
            metadata.before, metadata.after
        );
        spec.within(&before, "}")
    } else {
        let after = format!(r#","spec":{}{}}}"#, spec.before, spec.after);
        metadata.within(r#"{"metadata":"#, &after)
    }
}

/// Returns reviews whose own fields are hostile.
fn reviews() -> Vec<(&'static str, Text)> {
    let head = r#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"operation":"CREATE","resource":{"group":"","version":"v1","resource":"pods"},"object":{"metadata":{"annotations":{"sidescale.io/inject":"tailscale"}},"spec":{}},"#;
    let long = |before: String, unit: &str, after: &str| {
        let unit = unit.repeat(1000);
        Text::new(&before, &unit, 3_600_000 / unit.len(), after)
    };
    vec![
        ("a uid", long(format!(r#"{head}"uid":""#), "a", "\"}}")),
        (
            "a uid of escapes",
            long(format!(r#"{head}"uid":""#), r"\u0001", "\"}}"),
        ),
        (
            "a namespace",
            long(
                format!(r#"{head}"uid":"u","namespace":""#),
                "\u{7f}",
                "\"}}",
            ),
        ),
        (
            "a kind",
            long(
                r#"{"apiVersion":"v1","request":{"uid":"u"},"kind":""#.to_owned(),
                "\u{7f}",
                "\"}",
            ),
        ),
        (
            "text where a request belongs",
            long(r#"{"request":""#.to_owned(), "\u{7f}", "\"}"),
        ),
        ("text alone", long("\"".to_owned(), "\u{7f}", "\"")),
        (
            "no UTF-8 at the end",
            Text::new("", " ", 7 << 20, "\u{fffd}"),
        ),
        ("one list", Text::new("", "[", 7 << 20, "")),
    ]
}
