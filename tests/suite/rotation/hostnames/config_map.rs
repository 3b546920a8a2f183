//! An API server with our Lease and the ConfigMap of hostnames, which reports each write to watches.

use std::convert::Infallible;
use std::sync::Mutex;

use axum::Router;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures::stream;
use serde_json::{Map, Value, json};

use super::*;

pub(super) const NAMESPACE: &str = "tailnet";
pub(super) const NAME: &str = "sidescale-hostnames";

const OBJECT: &str = "/api/v1/namespaces/tailnet/configmaps/sidescale-hostnames";
const ALL: &str = "/api/v1/namespaces/tailnet/configmaps";
const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/tailnet/leases/sidescale";

/// The ConfigMap, as the chart creates it and as it was written since.
#[derive(Default)]
pub(super) struct Api {
    data: Mutex<Map<String, Value>>,
    patches: Mutex<Vec<Value>>,
    version: watch::Sender<u64>,
}

impl Api {
    pub(super) async fn serve() -> (Arc<Self>, kube::Client) {
        let api = Arc::new(Self::default());
        let lease = async || axum::Json(json!({"metadata": {"name": "sidescale"}}));
        let router = Router::new()
            .route(OBJECT, get(read).patch(write))
            .route(ALL, get(list))
            .route(LEASE, get(lease).patch(lease))
            .with_state(Arc::clone(&api));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        let config = kube::Config::new(url.parse().unwrap());
        (api, kube::Client::try_from(config).unwrap())
    }

    /// Returns the bodies of its writes.
    pub(super) fn patches(&self) -> Vec<Value> {
        self.patches.lock().unwrap().clone()
    }

    fn metadata(&self) -> Value {
        let version = self.version.borrow().to_string();
        json!({"namespace": NAMESPACE, "name": NAME, "resourceVersion": version})
    }
}

async fn read(State(api): State<Arc<Api>>) -> axum::Json<Value> {
    let data = api.data.lock().unwrap().clone();
    axum::Json(json!({"metadata": api.metadata(), "data": data}))
}

/// A merge patch.
async fn write(
    State(api): State<Arc<Api>>,
    axum::Json(patch): axum::Json<Value>,
) -> axum::Json<Value> {
    for (key, value) in patch["data"].as_object().unwrap() {
        let mut data = api.data.lock().unwrap();
        match value {
            Value::Null => data.remove(key),
            text => data.insert(key.clone(), text.clone()),
        };
    }
    api.patches.lock().unwrap().push(patch);
    api.version.send_modify(|version| *version += 1);
    read(State(api)).await
}

/// Answers a list, or a watch that continues from it; this server has no watch lists.
async fn list(State(api): State<Arc<Api>>, Query(query): Query<Map<String, Value>>) -> Response {
    let asked = |name: &str| query.get(name).and_then(Value::as_str);
    assert_eq!(
        asked("fieldSelector"),
        Some("metadata.name=sidescale-hostnames")
    );
    if asked("sendInitialEvents") == Some("true") {
        let status = json!({"kind": "Status", "status": "Failure", "code": 400, "message": "no"});
        return (StatusCode::BAD_REQUEST, axum::Json(status)).into_response();
    }
    if asked("watch").is_none() {
        let version = api.version.borrow().to_string();
        let items = [json!({"metadata": api.metadata()})];
        let list = json!({"metadata": {"resourceVersion": version}, "items": items});
        return axum::Json(list).into_response();
    }
    let mut versions = api.version.subscribe();
    if asked("resourceVersion") != Some(&api.version.borrow().to_string()) {
        versions.mark_changed();
    }
    let events = stream::unfold((api, versions), async |(api, mut versions)| {
        versions.changed().await.ok()?;
        let event = json!({"type": "MODIFIED", "object": {"metadata": api.metadata()}});
        Some((Ok::<_, Infallible>(format!("{event}\n")), (api, versions)))
    });
    Body::from_stream(events).into_response()
}
