//! The compared functions: ours, a scan that keeps nothing, a typed handler, and the floor's constant. Pure.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::{Arc, LazyLock};

use anyhow::{Context, Result, ensure};
use axum::Router;
use axum::http::header;
use axum::routing::post;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use k8s_openapi::api::core::v1::{Container, Pod, Volume};
use kube::core::admission::{AdmissionRequest, AdmissionReview};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sidescale::config;
use sidescale::metrics::Metrics;
use sidescale::server;
use sidescale_webhook::annotations::{Caller, NamespaceMetadata};
use sidescale_webhook::mutate::{OptIn, Verdict, mutate};
use sidescale_webhook::profile::Policy;

static POLICY: LazyLock<Option<Policy>> =
    LazyLock::new(|| Policy::for_login_server("https://headscale.example.com").ok());
static NAMESPACE: LazyLock<Arc<NamespaceMetadata>> = LazyLock::new(Arc::default);

fn policy() -> Result<&'static Policy> {
    POLICY
        .as_ref()
        .context("the bench's configuration is not accepted")
}

/// The webhook's function: everything between a body and its answer.
pub(crate) fn ours(body: &[u8]) -> Result<Vec<u8>> {
    let policy = POLICY
        .as_ref()
        .context("the bench's configuration is not accepted")?;
    Ok(mutate(
        body,
        OptIn::Pod,
        Caller::Unverified,
        &|_| Some(Arc::clone(&NAMESPACE)),
        policy,
    )?
    .reply)
}

/// Reads JSON to its end and keeps nothing.
pub(crate) fn scan(body: &[u8]) -> Result<IgnoredAny> {
    Ok(serde_json::from_slice(body)?)
}

/// Fails unless the pod is injected and the typed handler answers the same.
pub(crate) fn check(body: &[u8]) -> Result<()> {
    let policy = POLICY
        .as_ref()
        .context("the bench's configuration is not accepted")?;
    let outcome = mutate(
        body,
        OptIn::Pod,
        Caller::Unverified,
        &|_| Some(Arc::clone(&NAMESPACE)),
        policy,
    )?;
    ensure!(
        outcome.verdict == Verdict::Inject,
        "not injected: {:?} {:?}",
        outcome.verdict,
        outcome.message
    );
    let typed = Typed::like(body)?.answer(body)?;
    let (ours, typed) = (patch_of(&outcome.reply)?, patch_of(&typed)?);
    ensure!(
        ours == typed,
        "the typed handler's patch differs:\n{}\n{}",
        json!(ours),
        json!(typed)
    );
    Ok(())
}

/// Returns the floor: reads the body, answers a constant, under the product's own layers.
pub(crate) fn floor(reply: usize) -> Router {
    let constant = Bytes::from(vec![b' '; reply]);
    let answer = move |body: Bytes| async move {
        black_box(body);
        ([(header::CONTENT_TYPE, "application/json")], constant)
    };
    server::limited(Router::new().route("/mutate/pod", post(answer)))
}

/// Returns the product's routes.
pub(crate) fn product(metrics: Arc<Metrics>) -> Result<Router> {
    let policy = Arc::new(policy()?.clone());
    Ok(server::router(
        config::fixed(policy),
        Arc::new(|_| Some(Arc::clone(&NAMESPACE))),
        Arc::default(),
        metrics,
    ))
}

/// An admission handler as usually written with kube: reads its `AdmissionReview<Pod>`, builds the patch from typed values.
///
/// The answer is written like ours, because kube's own writes the patch as an array of numbers. The patch's content is
/// taken from our own answer once, in advance: the typed handler does not have to decide it.
pub(crate) struct Typed {
    operations: Vec<Operation<Addition>>,
}

#[derive(Clone, Deserialize, PartialEq, Serialize)]
struct Operation<V> {
    op: String,
    path: String,
    value: V,
}

#[derive(Clone, Serialize)]
#[serde(untagged)]
enum Addition {
    Containers(Vec<Container>),
    Container(Box<Container>),
    Volumes(Vec<Volume>),
    Volume(Box<Volume>),
    Labels(BTreeMap<String, String>),
    Other(Value),
}

impl Typed {
    /// Returns a handler that answers this body as ours does.
    pub(crate) fn like(body: &[u8]) -> Result<Self> {
        let operations = patch_of(&ours(body)?)?
            .into_iter()
            .map(typed)
            .collect::<Result<_>>()?;
        Ok(Self { operations })
    }

    /// Answers one review.
    pub(crate) fn answer(&self, body: &[u8]) -> Result<Vec<u8>> {
        let review: AdmissionReview<Pod> = serde_json::from_slice(body)?;
        let request: AdmissionRequest<Pod> = review.try_into()?;
        let pod = request.object.context("no object")?;
        let wanted = pod.metadata.annotations.unwrap_or_default();
        ensure!(
            wanted
                .get("sidescale.io/inject")
                .is_some_and(|value| value == "tailscale"),
            "not annotated"
        );
        let patch = serde_json::to_vec(&self.operations.clone())?;
        let response = json!({
            "apiVersion": request.types.api_version,
            "kind": request.types.kind,
            "response": {"uid": request.uid, "allowed": true, "patchType": "JSONPatch", "patch": STANDARD.encode(patch)},
        });
        Ok(serde_json::to_vec(&response)?)
    }
}

fn typed(operation: Operation<Value>) -> Result<Operation<Addition>> {
    let Operation { op, path, value } = operation;
    let value = match (
        path.rsplit_once('/').map_or("", |(parent, _)| parent),
        value,
    ) {
        ("/spec", Value::Array(items)) if path.ends_with("ontainers") => {
            Addition::Containers(serde_json::from_value(Value::Array(items))?)
        }
        ("/spec", Value::Array(items)) if path.ends_with("volumes") => {
            Addition::Volumes(serde_json::from_value(Value::Array(items))?)
        }
        (parent, item) if parent.ends_with("ontainers") => {
            Addition::Container(serde_json::from_value(item)?)
        }
        ("/spec/volumes", item) => Addition::Volume(serde_json::from_value(item)?),
        ("/metadata", item) => Addition::Labels(serde_json::from_value(item)?),
        (_, other) => Addition::Other(other),
    };
    Ok(Operation { op, path, value })
}

fn patch_of(reply: &[u8]) -> Result<Vec<Operation<Value>>> {
    let reply: Value = serde_json::from_slice(reply)?;
    let patch = reply
        .pointer("/response/patch")
        .and_then(Value::as_str)
        .context("an answer without a patch")?;
    Ok(serde_json::from_slice(&STANDARD.decode(patch)?)?)
}
