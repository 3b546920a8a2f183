//! An API server that accepts Events slowly: no key waits for it.

use axum::Router;
use axum::extract::State as Shared;
use axum::routing::post;
use serde_json::Value;
use sidescale_rotation::workload::{OwnerKind, Workload};
use tokio::sync::mpsc;

use super::*;

/// Time that every Event takes.
const HANGS: Duration = Duration::from_secs(5);

/// Returns a client of an API server that answers an Event after `HANGS`, and the Events received.
async fn slow_api() -> (kube::Client, mpsc::UnboundedReceiver<Value>) {
    let (came, events) = mpsc::unbounded_channel();
    let event = async |Shared(came): Shared<mpsc::UnboundedSender<Value>>,
                       axum::Json(event): axum::Json<Value>| {
        came.send(event.clone()).unwrap();
        tokio::time::sleep(HANGS).await;
        axum::Json(event)
    };
    let path = "/apis/events.k8s.io/v1/namespaces/{namespace}/events";
    let router = Router::new().route(path, post(event)).with_state(came);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    let config = kube::Config::new(url.parse().unwrap());
    (kube::Client::try_from(config).unwrap(), events)
}

/// Returns a service, and the Deployments whose pods use its key.
fn service_of(name: &str, deployments: &[&str]) -> NamespaceDemand {
    let key = format!("{name}-authkey");
    let users = deployments.iter().map(|name| Workload {
        kind: OwnerKind::Deployment,
        name: (*name).into(),
        uid: None,
    });
    let secrets = [(key.clone(), key_demand(name))].into();
    NamespaceDemand {
        secrets: [(SECRET.to_owned(), secrets)].into(),
        users: [((SECRET.to_owned(), key), users.collect())].into(),
        ..NamespaceDemand::default()
    }
}

#[tokio::test]
async fn a_first_key_waits_for_no_event() {
    let world = World::new().await;
    let (client, mut events) = slow_api().await;
    let context = Context {
        events: world.events(client),
        ..world.context("a")
    };
    let _process = world.start_with(context);
    let add = |namespace: &str, demand: NamespaceDemand| {
        world.demands.send_modify(|demands| {
            let namespaces = &mut demands.namespaces;
            namespaces.insert(namespace.into(), Arc::new(demand));
        });
    };
    add("shop", service_of("api", &["api", "worker"]));
    let old = world.key("api").await;
    world.clock.advance(DAY * 80 + Duration::from_secs(1));
    world.key_other_than("api", &old).await;
    let told = events.recv().await.unwrap();
    assert_eq!(told["reason"], "KeyRotated");

    let began = Instant::now();
    add("lab", service_of("db", &[]));
    until("the first key of another service", async || {
        let secret = world.store.read("lab", SECRET).await.unwrap()?;
        secret.data.get("db-authkey").map(drop)
    })
    .await;
    let waited = began.elapsed();
    println!(
        "first key after {} ms, beside Events that take {} ms each",
        waited.as_millis(),
        HANGS.as_millis()
    );
    assert!(waited < Duration::from_secs(2), "{waited:?}");
}
