//! The API server's side of the webhook: sends reviews over TLS and applies the patches. I/O.

use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::manifests::Sample;
use sidescale_core::causes;

/// Host name of the webhook for an API server.
pub(super) const HOST: &str = "sidescale.sidescale.svc";

/// Timeout of an API server.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Client that sends reviews to one webhook, and trusts a single authority.
#[derive(Debug)]
pub(super) struct Reviewer {
    client: reqwest::Client,
    port: u16,
}

/// Outcome of a review.
#[derive(Debug)]
pub(super) enum Reviewed {
    /// Denied, with the message.
    Denied(String),
    /// Allowed without changes.
    Unchanged,
    /// Allowed with these changes.
    Patched(Value),
}

impl Reviewer {
    pub(super) fn new(address: SocketAddr, authority: &str) -> Result<Self, String> {
        let authorities = reqwest::Certificate::from_pem_bundle(authority.as_bytes());
        let client = reqwest::Client::builder()
            .tls_certs_only(authorities.map_err(|error| error.to_string())?)
            .resolve(HOST, address)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(TIMEOUT)
            .build()
            .map_err(|error| error.to_string())?;
        Ok(Self {
            client,
            port: address.port(),
        })
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// Requests a missing page: any answer proves TLS. Returns the URL.
    pub(super) async fn greet(&self) -> Result<String, String> {
        let url = self.url("/");
        let reply = self
            .client
            .get(&url)
            .send()
            .await
            .map_err(|error| causes::innermost(&error))?;
        if reply.status() == reqwest::StatusCode::NOT_FOUND {
            Ok(url)
        } else {
            Err(format!("GET {url} answered {}: want 404", reply.status()))
        }
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("https://{HOST}:{}{path}", self.port)
    }

    /// Sends a review for the creation of a pod.
    pub(super) async fn review(
        &self,
        path: &str,
        sample: &Sample,
        pod: &Value,
    ) -> Result<Reviewed, String> {
        let review = body(sample, pod);
        let sent = self.client.post(self.url(path)).json(&review).send().await;
        let reply = sent.map_err(|error| causes::innermost(&error))?;
        let status = reply.status();
        let answer: Value = reply
            .json()
            .await
            .map_err(|error| format!("answered {status}: {}", causes::innermost(&error)))?;
        if answer["response"]["uid"] != review["request"]["uid"] {
            return Err(format!("answered {status} without the uid of the request"));
        }
        if answer["response"]["allowed"] != true {
            let message = answer["response"]["status"]["message"].as_str();
            return Ok(Reviewed::Denied(message.unwrap_or("no message").to_owned()));
        }
        let Some(patch) = answer["response"]["patch"].as_str() else {
            return Ok(Reviewed::Unchanged);
        };
        let patch = STANDARD
            .decode(patch)
            .map_err(|error| format!("a patch that is not base64: {error}"))?;
        let patch: json_patch::Patch = serde_json::from_slice(&patch)
            .map_err(|error| format!("a patch that is not a JSON Patch: {error}"))?;
        let mut patched = pod.clone();
        json_patch::patch(&mut patched, &patch)
            .map_err(|error| format!("a patch that does not apply: {error}"))?;
        Ok(Reviewed::Patched(patched))
    }
}

impl Reviewed {
    /// Describes the outcome.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Denied(message) => format!("denied: {message}"),
            Self::Unchanged => "allowed without a patch".to_owned(),
            Self::Patched(_) => "allowed with a patch".to_owned(),
        }
    }
}

/// Returns the review that an API server sends for a pod.
pub(super) fn body(sample: &Sample, pod: &Value) -> Value {
    let resource = json!({"group": "", "version": "v1", "resource": "pods"});
    let kind = json!({"group": "", "version": "v1", "kind": "Pod"});
    json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": uuid::Uuid::new_v4().to_string(),
            "kind": kind, "requestKind": kind,
            "resource": resource, "requestResource": resource,
            "name": pod["metadata"]["name"].as_str().unwrap_or_default(),
            "namespace": sample.namespace,
            "operation": "CREATE",
            "userInfo": {"username": "system:serviceaccount:kube-system:replicaset-controller"},
            "object": pod,
            "oldObject": null,
            "dryRun": false,
            "options": {"apiVersion": "meta.k8s.io/v1", "kind": "CreateOptions"},
        },
    })
}
