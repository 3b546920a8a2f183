//! Pods whose container waits for a Secret, as a fake API server shows them: their owners are notified.

use std::sync::Mutex;

use axum::Router;
use axum::extract::State as Shared;
use axum::routing::{get, post};
use serde_json::{Value, json};
use sidescale_rotation::demand::Unserved;
use sidescale_rotation::nodes::replicas::PodRef;

use super::trouble::settle;
use super::*;

const UID: &str = "6f1c2f0e-7a38-4a8e-9a53-2d9d0a8f3c11";

/// One pod, and the Events that were created.
#[derive(Default)]
struct Api {
    message: Mutex<&'static str>,
    events: Mutex<Vec<Value>>,
    reads: Mutex<u32>,
}

impl Api {
    async fn serve() -> (Arc<Self>, kube::Client) {
        let api = Arc::new(Self::default());
        let pod = async |Shared(api): Shared<Arc<Self>>| {
            *api.reads.lock().unwrap() += 1;
            let message = *api.message.lock().unwrap();
            let state = if message.is_empty() {
                json!({"running": {}})
            } else {
                json!({"waiting": {"reason": "CreateContainerConfigError", "message": message}})
            };
            axum::Json(json!({
                "metadata": {"name": "web-0", "uid": UID},
                "status": {"phase": "Pending", "initContainerStatuses": [{
                    "name": "tailscale", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state,
                }]},
            }))
        };
        let event = async |Shared(api): Shared<Arc<Self>>, axum::Json(event): axum::Json<Value>| {
            api.events.lock().unwrap().push(event.clone());
            axum::Json(event)
        };
        let router = Router::new()
            .route("/api/v1/namespaces/shop/pods/web-0", get(pod))
            .route("/apis/events.k8s.io/v1/namespaces/shop/events", post(event))
            .with_state(Arc::clone(&api));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        let config = kube::Config::new(url.parse().unwrap());
        (api, kube::Client::try_from(config).unwrap())
    }

    fn notes(&self) -> Vec<(String, String)> {
        let events = self.events.lock().unwrap();
        let text = |event: &Value, field: &str| event[field].as_str().unwrap().to_owned();
        events
            .iter()
            .inspect(|event| assert_eq!(event["regarding"]["uid"], UID))
            .map(|event| (text(event, "reason"), text(event, "note")))
            .collect()
    }
}

impl World {
    /// Starts a process that sees the pods of this API server.
    fn start_beside(&self, client: &kube::Client) -> Process {
        let context = Context {
            events: self.events(client.clone()),
            pods: Pods::kubernetes(client.clone()),
            ..self.context("a")
        };
        self.start_with(context)
    }

    fn pod_with_a_key_of_its_own(&self) {
        let pod = PodRef {
            created: self.clock.now(),
            uid: uuid::Uuid::parse_str(UID).unwrap().as_u128(),
            name: "web-0".into(),
        };
        let demand = NamespaceDemand {
            unserved: vec![Unserved {
                secret: "by-hand".into(),
                data_key: "misspelt".into(),
                own: true,
                pods: vec![pod],
            }],
            ..NamespaceDemand::default()
        };
        self.demands.send_modify(|demands| {
            demands.namespaces.insert("shop".into(), Arc::new(demand));
        });
    }
}

#[tokio::test]
async fn a_wrong_data_key_of_an_own_secret_is_told_on_the_pod() {
    let world = World::new().await;
    let (api, client) = Api::serve().await;
    *api.message.lock().unwrap() = "couldn't find key misspelt in Secret shop/by-hand";
    world.pod_with_a_key_of_its_own();
    let _process = world.start_beside(&client);
    let notes = until("an Event", async || {
        world.clock.advance(Duration::from_secs(16));
        settle().await;
        let notes = api.notes();
        (!notes.is_empty()).then_some(notes)
    })
    .await;
    let (reason, note) = &notes[0];
    assert_eq!(reason, "KeyMissing");
    for part in [
        "container tailscale",
        "Secret shop/by-hand",
        "misspelt",
        "auth-key-secret",
    ] {
        assert!(note.contains(part), "{note}");
    }
    assert!(world.secret().await.is_none(), "nothing is made for it");
}

#[tokio::test]
async fn a_pod_that_runs_is_read_once_and_nothing_is_told() {
    let world = World::new().await;
    let (api, client) = Api::serve().await;
    world.pod_with_a_key_of_its_own();
    let _process = world.start_beside(&client);
    until("a read", async || {
        world.clock.advance(Duration::from_secs(16));
        settle().await;
        (*api.reads.lock().unwrap() > 0).then_some(())
    })
    .await;
    for _ in 0..20 {
        world.clock.advance(Duration::from_secs(16));
        settle().await;
    }
    assert_eq!(*api.reads.lock().unwrap(), 1);
    assert_eq!(api.notes(), []);
}

/// While its control plane is unavailable, its node cannot be listed, and the key that it waits for is not created.
#[tokio::test]
async fn a_pod_whose_key_cannot_be_made_is_told_the_state_of_its_service() {
    let world = World::without_api_key().await;
    let (api, client) = Api::serve().await;
    *api.message.lock().unwrap() =
        "couldn't find key api-authkey in Secret shop/headscale-auth-keys";
    world.one_pod("web-0", uuid::Uuid::parse_str(UID).unwrap().as_u128());
    let _process = world.start_beside(&client);
    let notes = until("an Event on the pod", async || {
        world.clock.advance(Duration::from_secs(16));
        settle().await;
        let events = api.events.lock().unwrap().clone();
        let of_pod = events
            .iter()
            .find(|event| event["reason"] == "KeyMissing")?;
        Some(of_pod["note"].as_str().unwrap().to_owned())
    })
    .await;
    assert!(notes.contains("its state is NoCredentials"), "{notes}");
}
