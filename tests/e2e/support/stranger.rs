//! A mutating webhook of another product: it adds a container to every pod once (I/O).

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::Result;
use axum::{Json, Router, routing::post};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// Name of the container that it adds.
pub(crate) const CONTAINER: &str = "stranger";

/// A running webhook; it stops when this is dropped.
pub(crate) struct Stranger {
    _runtime: tokio::runtime::Runtime,
    address: SocketAddr,
    certificate: String,
}

impl Stranger {
    /// Serves it on a free port of this machine.
    pub(crate) fn start() -> Result<Self> {
        let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()])?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)?;
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
        let address = listener.local_addr()?;
        let router = Router::new().route("/", post(async |Json(review)| Json(answer(&review))));
        runtime.spawn(async move { axum::serve(Tls { listener, acceptor }, router).await });
        Ok(Self {
            _runtime: runtime,
            address,
            certificate: made.cert.pem(),
        })
    }

    /// Returns its registration for the pods of one namespace; the name decides which webhook is called first.
    pub(crate) fn configuration(&self, name: &str, namespace: &str) -> Value {
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
            "metadata": {"name": name},
            "webhooks": [{
                "name": "stranger.example.com",
                "clientConfig": {
                    "url": format!("https://{}/", self.address),
                    "caBundle": STANDARD.encode(&self.certificate),
                },
                "rules": [{
                    "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"],
                }],
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
                "admissionReviewVersions": ["v1"],
                "sideEffects": "None",
                "failurePolicy": "Fail",
            }],
        })
    }
}

fn answer(review: &Value) -> Value {
    let request = &review["request"];
    let containers = request["object"]["spec"]["containers"].as_array();
    let is_there = containers.is_some_and(|containers| {
        containers
            .iter()
            .any(|container| container["name"] == CONTAINER)
    });
    let mut response = json!({"uid": request["uid"], "allowed": true});
    if !is_there {
        let container = json!({"name": CONTAINER, "image": "stranger"});
        let patch = json!([{"op": "add", "path": "/spec/containers/-", "value": container}]);
        response["patchType"] = json!("JSONPatch");
        response["patch"] = json!(STANDARD.encode(patch.to_string()));
    }
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response})
}

/// Accepts TLS for axum; drops a client that does not speak it.
struct Tls {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

impl axum::serve::Listener for Tls {
    type Io = tokio_rustls::server::TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let Ok((stream, address)) = self.listener.accept().await else {
                continue;
            };
            if let Ok(stream) = self.acceptor.accept(stream).await {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}
