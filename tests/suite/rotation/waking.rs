//! Pods that wait for a key, as a fake API server sees it: they are patched once it is written, if the fence holds.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::{Path, State as Shared};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::patch;
use serde_json::{Value, json};
use sidescale_rotation::nodes::replicas::{PodRef, ReplicaGroup};

use super::trouble::settle;
use super::*;

const UID: &str = "6f1c2f0e-7a38-4a8e-9a53-2d9d0a8f3c11";

/// The patches that were sent, and how they are answered.
#[derive(Default)]
struct Api {
    sent: Mutex<Vec<(String, Value)>>,
    status: Mutex<StatusCode>,
    hangs: AtomicBool,
}

impl Api {
    async fn serve() -> (Arc<Self>, kube::Client) {
        let api = Arc::new(Self::default());
        let patched = async |Shared(api): Shared<Arc<Self>>,
                             Path(name): Path<String>,
                             axum::Json(body): axum::Json<Value>|
               -> Response {
            api.sent.lock().unwrap().push((name, body));
            if api.hangs.load(Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
            let code = *api.status.lock().unwrap();
            let answer = match code {
                StatusCode::OK => json!({"metadata": {"name": "web-0"}}),
                code => {
                    json!({"kind": "Status", "status": "Failure", "code": code.as_u16(), "reason": "Forbidden", "message": "no"})
                }
            };
            (code, axum::Json(answer)).into_response()
        };
        let router = Router::new()
            .route("/api/v1/namespaces/shop/pods/{name}", patch(patched))
            .with_state(Arc::clone(&api));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        let config = kube::Config::new(url.parse().unwrap());
        (api, kube::Client::try_from(config).unwrap())
    }

    fn names(&self) -> Vec<String> {
        let sent = self.sent.lock().unwrap();
        sent.iter().map(|(name, _)| name.clone()).collect()
    }
}

impl World {
    fn start_waking(&self, client: &kube::Client, pods_hold: bool) -> Process {
        let context = Context {
            pods: Pods::kubernetes(client.clone()).waking(move || pods_hold),
            ..self.context("a")
        };
        self.start_with(context)
    }

    /// Demands a key for these pods.
    fn demand_for(&self, service: &str, pods: &[&str]) {
        let data_key = format!("{service}-authkey");
        let keys: BTreeMap<_, _> = [(data_key.clone(), key_demand(service))].into();
        let pods = pods.iter().map(|name| PodRef {
            created: self.clock.now(),
            uid: uuid::Uuid::parse_str(UID).unwrap().as_u128(),
            name: (*name).into(),
        });
        let group = ReplicaGroup {
            control_plane: "default".into(),
            user: format!("shop.{service}"),
            service: service.into(),
            secret: SECRET.into(),
            data_key,
            hostname: Some(service.into()),
            pods: pods.collect(),
        };
        let demand = NamespaceDemand {
            secrets: [(SECRET.to_owned(), keys)].into(),
            replica_groups: vec![group],
            ..NamespaceDemand::default()
        };
        self.demands.send_modify(|demands| {
            demands.namespaces.insert("shop".into(), Arc::new(demand));
        });
    }

    /// Returns how many wakes had this result.
    fn wakes(&self, result: &str) -> u64 {
        let page = String::from_utf8(self.metrics.text().unwrap()).unwrap();
        let line = format!("sidescale_pod_wakes_total{{result=\"{result}\"}} ");
        let count = page.lines().find_map(|found| found.strip_prefix(&line));
        count.map_or(0, |count| count.parse().unwrap())
    }

    async fn until_wakes(&self, result: &str, count: u64) {
        until("wakes", async || {
            // The waker lets the kubelet see the Secret first.
            self.clock.advance(Duration::from_secs(1));
            settle().await;
            (self.wakes(result) == count).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn pods_that_wait_for_a_first_key_are_woken_once_by_one_annotation() {
    let world = World::new().await;
    let (api, client) = Api::serve().await;
    let _process = world.start_waking(&client, true);
    world.demand_for("web", &["web-0", "web-1"]);
    world.key("web").await;
    world.until_wakes("woken", 2).await;
    let mut names = api.names();
    names.sort();
    assert_eq!(names, ["web-0", "web-1"]);
    {
        let sent = api.sent.lock().unwrap();
        let metadata = &sent[0].1["metadata"];
        let at = metadata["annotations"]["sidescale.io/key-written"].as_str();
        assert!(at.unwrap().parse::<i64>().unwrap() >= 1_700_000_000);
        assert_eq!(metadata["uid"], UID);
        assert_eq!(metadata["annotations"].as_object().unwrap().len(), 1);
        assert_eq!(sent[0].1.as_object().unwrap().len(), 1);
    }
    // A third pod finds the key, and the others have theirs.
    world.demand_for("web", &["web-0", "web-1", "web-2"]);
    world.clock.advance(Duration::from_secs(60));
    settle().await;
    assert_eq!(api.names().len(), 2);
}

#[tokio::test]
async fn nobody_is_woken_unless_the_fence_holds_and_the_configuration_allows_it() {
    for (holds, allowed, counted) in [(false, true, 1), (true, false, 0)] {
        let mut world = World::new().await;
        world.policy.rotation.wake_pods = allowed;
        let (api, client) = Api::serve().await;
        let _process = world.start_waking(&client, holds);
        world.demand_for("web", &["web-0"]);
        world.key("web").await;
        world.until_wakes("unfenced", counted).await;
        world.clock.advance(Duration::from_secs(60));
        settle().await;
        assert_eq!(api.names(), [""; 0], "{holds} {allowed}");
    }
}

#[tokio::test]
async fn a_refused_wake_is_counted_and_not_repeated() {
    let world = World::new().await;
    let (api, client) = Api::serve().await;
    *api.status.lock().unwrap() = StatusCode::FORBIDDEN;
    let _process = world.start_waking(&client, true);
    world.demand_for("web", &["web-0"]);
    world.key("web").await;
    world.until_wakes("refused", 1).await;
    world.clock.advance(Duration::from_secs(3_600));
    settle().await;
    assert_eq!(api.names(), ["web-0"]);
}

#[tokio::test]
async fn an_api_server_that_hangs_holds_up_no_shutdown() {
    let world = World::new().await;
    let (api, client) = Api::serve().await;
    api.hangs.store(true, Ordering::Relaxed);
    let context = Context {
        pods: Pods::kubernetes(client).waking(|| true),
        ..world.context("a")
    };
    let (stop, demands) = (CancellationToken::new(), world.demands.subscribe());
    let running = tokio::spawn(controller::run(
        Arc::new(context),
        Memory::default(),
        demands,
        stop.clone(),
    ));
    world.demand_for("web", &["web-0", "web-1"]);
    world.key("web").await;
    until("a patch", async || {
        world.clock.advance(Duration::from_secs(1));
        settle().await;
        (!api.names().is_empty()).then_some(())
    })
    .await;
    stop.cancel();
    // Each patch may take ten seconds.
    let stopped = tokio::time::timeout(Duration::from_secs(8), running).await;
    stopped.expect("it waits for the API server").unwrap();
}
