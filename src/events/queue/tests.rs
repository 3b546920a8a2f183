use std::sync::Mutex;
use std::time::Instant;

use http::{Request, Response};
use kube::client::Body;
use kube::runtime::events::EventType;

use super::*;

/// Notes of the Events that an API server received.
type Got = Arc<Mutex<Vec<String>>>;

/// Returns an API server that answers each call after this delay.
fn api(takes: Duration) -> (Client, Got) {
    let got = Got::default();
    let answer = {
        let got = Arc::clone(&got);
        move |request: Request<Body>| {
            let got = Arc::clone(&got);
            async move {
                let body = request.into_body().collect_bytes().await.unwrap();
                let event: serde_json::Value = serde_json::from_slice(&body).unwrap();
                let note = event["note"].as_str().unwrap().to_owned();
                got.lock().unwrap().push(note);
                tokio::time::sleep(takes).await;
                Ok::<_, kube::Error>(Response::new(Body::from(body.to_vec())))
            }
        }
    };
    (Client::new(tower::service_fn(answer), "default"), got)
}

fn queue(client: Client) -> (EventQueue, Publisher, Arc<Metrics>) {
    let metrics = Arc::new(Metrics::new().unwrap());
    let reporter = Reporter {
        controller: "sidescale".into(),
        instance: Some("a".into()),
    };
    let (queue, publisher) = EventQueue::new(client, reporter, Arc::clone(&metrics));
    (queue, publisher, metrics)
}

fn item(note: &str) -> QueuedEvent {
    let event = Event {
        type_: EventType::Warning,
        reason: "Late".into(),
        note: Some(note.to_owned()),
        action: "Join".into(),
        secondary: None,
    };
    let about = ObjectReference {
        namespace: Some("shop".into()),
        name: Some("web-0".into()),
        ..ObjectReference::default()
    };
    Box::new((event, about))
}

fn shows(metrics: &Metrics, line: &str) -> bool {
    let text = String::from_utf8(metrics.text().unwrap()).unwrap();
    text.lines().any(|shown| shown == line)
}

#[tokio::test]
async fn alerts_about_keys_and_control_planes_go_first_and_have_a_queue_of_their_own() {
    let (client, got) = api(Duration::ZERO);
    let (queue, publisher, metrics) = queue(client);
    for n in 0..MOST_OTHERS + 3 {
        let room = queue.push(item(&format!("other {n}")), false);
        assert_eq!(room, n < MOST_OTHERS, "{n}");
    }
    assert!(queue.push(item("urgent"), true));
    let dropped = "sidescale_events_dropped_total{reason=\"queue_full\"} 3";
    assert!(shows(&metrics, dropped));
    assert_eq!(queue.overflow.dropped.load(Ordering::Relaxed), 3);
    let overflow = Arc::clone(&queue.overflow);
    drop(queue);
    publisher.run(CancellationToken::new()).await;
    let got = got.lock().unwrap();
    assert_eq!(got.len(), MOST_OTHERS + 1);
    assert_eq!(got[..2], ["urgent", "other 0"]);
    assert_eq!(
        overflow.dropped.load(Ordering::Relaxed),
        0,
        "an empty queue ends the overflow"
    );
}

#[tokio::test]
async fn what_waits_at_the_end_gets_out() {
    let (client, got) = api(Duration::ZERO);
    let (queue, publisher, _) = queue(client);
    let shutdown = CancellationToken::new();
    shutdown.cancel();
    for n in 0..10 {
        queue.push(item(&n.to_string()), false);
    }
    drop(queue);
    publisher.run(shutdown).await;
    assert_eq!(got.lock().unwrap().len(), 10);
}

#[tokio::test]
async fn the_end_does_not_wait_for_an_api_server_that_hangs() {
    let (client, got) = api(Duration::from_secs(3_600));
    let (queue, publisher, metrics) = queue(client);
    let shutdown = CancellationToken::new();
    shutdown.cancel();
    for n in 0..10 {
        queue.push(item(&n.to_string()), false);
    }
    let began = Instant::now();
    publisher.run(shutdown).await;
    assert!(began.elapsed() < DEADLINE, "{:?}", began.elapsed());
    assert_eq!(got.lock().unwrap().len(), 1);
    let dropped = "sidescale_events_dropped_total{reason=\"stopped\"} 9";
    assert!(shows(&metrics, dropped));
    assert!(!queue.push(item("late"), false), "nobody takes it any more");
}
