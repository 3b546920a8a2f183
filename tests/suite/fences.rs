//! The fences of our own account, beside our own API server that admits everything or refuses as a policy does.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use serde_json::{Value, json};
use sidescale::clock::Clock;
use sidescale::config;
use sidescale::events::Events;
use sidescale::fences::{Fences, FencesState};
use sidescale::health::{Health, Part};
use sidescale::metrics::Metrics;
use sidescale_webhook::profile::{OnLost, Policy};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Seconds of the test's clock per real second.
const FASTER: f64 = 10.0;

#[derive(Default)]
struct Server {
    refuses: AtomicBool,
    /// Method, path with query, and body.
    asked: Mutex<Vec<(Method, String, Value)>>,
}

impl Server {
    fn events(&self) -> Vec<Value> {
        let asked = self.asked.lock().unwrap();
        let written = |path: &str| path.contains("/events") && !path.contains("dryRun");
        let events = asked.iter().filter(|(_, path, _)| written(path));
        events.map(|(_, _, body)| body.clone()).collect()
    }
}

async fn answer(
    State(server): State<Arc<Server>>,
    method: Method,
    uri: Uri,
    body: Bytes,
) -> Response {
    let sent: Value = serde_json::from_slice(&body).unwrap();
    let path = uri.to_string();
    let asked = (method, path.clone(), sent.clone());
    server.asked.lock().unwrap().push(asked);
    let fence = ["secrets", "webhook", "eviction", "events", "pods"]
        .into_iter()
        .find(|part| path.contains("dryRun") && path.contains(part));
    if let Some(fence) = fence
        && server.refuses.load(Ordering::Relaxed)
    {
        let policy = format!("sidescale-{}s", fence.trim_end_matches('s'));
        let status = json!({
            "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 403, "reason": "Forbidden",
            "message": format!("x is forbidden: ValidatingAdmissionPolicy '{policy}' with binding '{policy}' denied request: no"),
        });
        return (StatusCode::FORBIDDEN, axum::Json(status)).into_response();
    }
    let made = match fence {
        Some("webhook" | "pods") => json!({"metadata": {"name": "sidescale"}}),
        Some("eviction") => {
            json!({"kind": "Status", "apiVersion": "v1", "status": "Success", "code": 201})
        }
        Some(_) | None => sent,
    };
    (StatusCode::CREATED, axum::Json(made)).into_response()
}

struct World {
    server: Arc<Server>,
    metrics: Arc<Metrics>,
    health: Arc<Health>,
    state: watch::Receiver<FencesState>,
}

impl World {
    async fn start(refuses: bool) -> Self {
        let mut policy = Policy::for_login_server("https://headscale.example.com").unwrap();
        policy.rotation.on_lost = OnLost::Evict;
        Self::start_with(refuses, config::fixed(Arc::new(policy))).await
    }

    async fn start_with(refuses: bool, policy: config::Current) -> Self {
        let server = Arc::new(Server::default());
        server.refuses.store(refuses, Ordering::Relaxed);
        let router = axum::Router::new().fallback(answer);
        let router = router.with_state(Arc::clone(&server));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        let client = kube::Client::try_from(kube::Config::new(url.parse().unwrap())).unwrap();
        let clock = Clock::scaled(Timestamp::UNIX_EPOCH, FASTER);
        let (metrics, health) = (Arc::new(Metrics::new().unwrap()), Arc::<Health>::default());
        let (events, publisher) = Events::kubernetes(
            client.clone(),
            "sidescale-0".into(),
            clock.clone(),
            Arc::clone(&metrics),
        );
        tokio::spawn(publisher.run(CancellationToken::new()));
        let fences = Fences {
            events,
            client,
            namespace: "tailnet".into(),
            pod: "sidescale-0".into(),
            installation: "sidescale".into(),
            policy,
            metrics: Arc::clone(&metrics),
            health: Arc::clone(&health),
            config_map: "sidescale".into(),
            clock,
        };
        let (sender, state) = watch::channel(FencesState::default());
        tokio::spawn(fences.run(sender));
        Self {
            server,
            metrics,
            health,
            state,
        }
    }

    fn open(&self) -> i64 {
        let of = |fence| self.metrics.fence_open.with_label_values(&[fence]).get();
        ["secrets", "webhooks", "events", "evictions", "pods"]
            .map(of)
            .iter()
            .sum()
    }

    fn report(&self) -> Option<(bool, String)> {
        let mut reports = self.health.reports().into_iter();
        let report = reports.find(|(part, _)| *part == Part::Fences)?.1;
        Some((report.ok, report.detail))
    }

    async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let began = Instant::now();
        while !holds(self) {
            assert!(began.elapsed() < Duration::from_secs(30), "{what}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

#[tokio::test]
async fn fences_that_hold_are_tried_by_dry_runs_alone_and_hold_up_nothing() {
    let world = World::start(true).await;
    world
        .until("reported", |world| world.report().is_some())
        .await;
    assert_eq!(
        world.report(),
        Some((
            true,
            "secrets is closed; webhooks is closed; events is closed; evictions is closed; pods is closed".into()
        ))
    );
    let holds = FencesState {
        settled: true,
        pods_hold: true,
    };
    assert_eq!(*world.state.borrow(), holds);
    assert_eq!(world.open(), 0);
    let asked = world.server.asked.lock().unwrap();
    assert!(
        asked.iter().all(|(_, path, _)| path.contains("dryRun=All")),
        "{asked:?}"
    );
    let paths: BTreeSet<&str> = asked
        .iter()
        .map(|(_, path, _)| path.split_once('?').unwrap().0)
        .collect();
    assert_eq!(
        Vec::from_iter(paths),
        [
            "/api/v1/namespaces/tailnet/pods/sidescale-0",
            "/api/v1/namespaces/tailnet/pods/sidescale-0/eviction",
            "/api/v1/namespaces/tailnet/secrets",
            "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/sidescale",
            "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/sidescale",
            "/apis/events.k8s.io/v1/namespaces/tailnet/events",
        ]
    );
    let types = asked
        .iter()
        .filter_map(|(_, _, body)| body["type"].as_str());
    let types: BTreeSet<&str> = types.collect();
    assert!(types.contains("kubernetes.io/service-account-token") && types.contains("Opaque"));
}

#[tokio::test]
async fn an_open_fence_is_reported_after_a_minute_and_until_it_holds() {
    let world = World::start(false).await;
    let two_rounds = |world: &World| world.server.asked.lock().unwrap().len() > 12;
    world.until("tried again", two_rounds).await;
    let state = *world.state.borrow();
    assert_eq!(state, FencesState::default(), "work began before its fence");
    assert_eq!(
        (world.open(), world.report()),
        (0, None),
        "reported at once"
    );

    world.until("reported", |world| world.open() == 5).await;
    // It continues, and reports that.
    world
        .until("work begins", |world| world.state.borrow().settled)
        .await;
    world
        .until("trouble", |world| world.report().is_some())
        .await;
    let (ok, detail) = world.report().unwrap();
    assert!(!ok && detail.contains("webhooks is open: "), "{detail}");
    world
        .until("told", |world| world.server.events().len() == 5)
        .await;
    let events = world.server.events();
    assert!(
        events.iter().all(|event| {
            event["reason"] == "FenceOpen"
                && event["type"] == "Warning"
                && event["regarding"]["kind"] == "ConfigMap"
        }),
        "{events:?}"
    );

    world.server.refuses.store(true, Ordering::Relaxed);
    world.until("holds", |world| world.open() == 0).await;
    world
        .until("well", |world| world.report().is_some_and(|(ok, _)| ok))
        .await;
    assert!(world.state.borrow().pods_hold);
}

#[tokio::test]
async fn a_right_that_an_edit_asks_for_is_tried_at_once() {
    let mut policy = Policy::for_login_server("https://headscale.example.com").unwrap();
    policy.rotation.wake_pods = false;
    let (sender, current) = watch::channel(Arc::new(policy.clone()));
    let world = World::start_with(true, current).await;
    world
        .until("reported", |world| world.report().is_some())
        .await;
    assert!(!world.state.borrow().pods_hold, "it was not tried");
    policy.rotation.wake_pods = true;
    sender.send_replace(Arc::new(policy));
    // The next regular round is in an hour, six minutes of this test.
    world
        .until("tried", |world| world.state.borrow().pods_hold)
        .await;
}
