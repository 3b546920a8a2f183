//! The requests to an API server, and the results of its answers.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body as Reply;
use axum::extract::{Request, State as Shared};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use futures::StreamExt;

use super::*;

type Log = Arc<Mutex<Vec<String>>>;

const POD: &str = r#"{"metadata":{"name":"NAME","namespace":"shop","resourceVersion":"VERSION"}}"#;

const END: &str =
    r#"{"metadata":{"resourceVersion":"20","annotations":{"k8s.io/initial-events-end":"true"}}}"#;

fn pod(name: &str, version: &str) -> String {
    POD.replace("NAME", name).replace("VERSION", version)
}

fn line(kind: &str, object: &str) -> String {
    format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n")
}

fn status(code: u16) -> String {
    format!(r#"{{"kind":"Status","status":"Failure","message":"no","reason":"no","code":{code}}}"#)
}

/// Starts a server that gives these answers one after the other, and then none.
async fn server(answers: Vec<(u16, String)>) -> (String, Log) {
    let log = Log::default();
    let shared = (Arc::new(Mutex::new(answers.into_iter())), Arc::clone(&log));
    let router = Router::new().fallback(answer).with_state(shared);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    (url, log)
}

type Answers = Arc<Mutex<std::vec::IntoIter<(u16, String)>>>;

async fn answer(Shared((answers, log)): Shared<(Answers, Log)>, request: Request) -> Response {
    let query = request.uri().query().unwrap_or_default().to_owned();
    log.lock().unwrap().push(query);
    let next = answers.lock().unwrap().next();
    match next {
        Some((code, text)) => {
            (StatusCode::from_u16(code).unwrap(), Reply::from(text)).into_response()
        }
        None => std::future::pending().await,
    }
}

/// Returns the first events of that many nonempty batches, one word each.
async fn events(url: &str, count: usize) -> Vec<String> {
    let config = kube::Config::new(url.parse().unwrap());
    let client = cluster::client(config).unwrap();
    let subject = WatchTarget {
        what: "pods",
        path: "/api/v1/pods".into(),
        labels: Some("a"),
        fields: None,
    };
    let read = |bytes: &[u8]| ObjectMetadata::of_pod(bytes, &[].into());
    let feed = Feed::new(client, subject, read).events();
    let words = feed.flat_map(|batch| {
        let words = match batch {
            Ok(batch) => batch.iter().map(word).collect(),
            Err(error) => vec![format!("error {}", error.to_string().contains("no"))],
        };
        stream::iter(words)
    });
    words.take(count).collect().await
}

fn word(event: &Event<ObjectMetadata>) -> String {
    match event {
        Event::Init => "begin".to_owned(),
        Event::InitApply(pod) => format!("listed {}", pod.name),
        Event::InitDone => "complete".to_owned(),
        Event::Apply(pod) => format!("changed {}", pod.name),
        Event::Delete(pod) => format!("gone {}", pod.name),
    }
}

#[tokio::test]
async fn goes_on_where_a_watch_list_ended_and_begins_again_when_that_is_forgotten() {
    let first = [
        line("ADDED", &pod("a", "11")),
        line("ADDED", r#"{"metadata":{"name":1}}"#),
        "no event\n".to_owned(),
        line("ADDED", &pod("b", "12")),
        line("BOOKMARK", END),
        line("MODIFIED", &pod("a", "21")),
        line("DELETED", &pod("b", "22")),
        "{\"type\":\"ADD".to_owned(),
    ]
    .concat();
    let second = [
        line("BOOKMARK", r#"{"metadata":{"resourceVersion":"30"}}"#),
        line("ADDED", &pod("c", "31")),
        line("ERROR", &status(410)),
    ]
    .concat();
    let third = line("BOOKMARK", END);
    let (url, log) = server(vec![(200, first), (200, second), (200, third)]).await;
    let want = [
        "begin",
        "listed a",
        "listed b",
        "complete",
        "changed a",
        "gone b",
        "changed c",
        "error true",
        "begin",
        "complete",
    ];
    assert_eq!(events(&url, want.len()).await, want);
    let log = log.lock().unwrap();
    let initial =
        |query: &String| query.contains("sendInitialEvents=true&resourceVersionMatch=NotOlderThan");
    assert!(
        initial(&log[0]) && log[0].contains("labelSelector=a"),
        "{log:?}"
    );
    assert!(
        !initial(&log[1]) && log[1].ends_with("resourceVersion=22"),
        "{log:?}"
    );
    assert!(initial(&log[2]), "{log:?}");
}

#[tokio::test]
async fn reads_pages_where_there_are_no_watch_lists() {
    let page = |next: &str, objects: &[String]| {
        let items = objects.join(",");
        format!(
            r#"{{"metadata":{{"resourceVersion":"40","continue":"{next}"}},"items":[{items}]}}"#
        )
    };
    let broken = r#"{"metadata":{"annotations":[]}}"#.to_owned();
    let answers = vec![
        (422, status(422)),
        (200, page("token", &[pod("a", "1"), broken, pod("b", "2")])),
        (200, page("", &[pod("c", "3")])),
        (410, status(410)),
        // From now on pages are requested at once.
        (200, page("", &[])),
        (200, line("ADDED", &pod("d", "41"))),
    ];
    let (url, log) = server(answers).await;
    let want = [
        "begin",
        "listed a",
        "listed b",
        "listed c",
        "complete",
        "error true",
        "begin",
        "complete",
        "changed d",
    ];
    assert_eq!(events(&url, want.len()).await, want);
    let log = log.lock().unwrap();
    assert!(log[1].contains("limit=50"), "{log:?}");
    assert!(log[2].contains("continue=token"), "{log:?}");
    assert!(
        log[3].contains("watch=true") && log[3].ends_with("resourceVersion=40"),
        "{log:?}"
    );
    assert!(
        log[4].contains("limit=50") && !log[4].contains("continue"),
        "{log:?}"
    );
}

#[tokio::test]
async fn a_list_that_is_cut_is_no_list() {
    let cut =
        r#"{"metadata":{"resourceVersion":"40"},"items":[{"metadata":{"name":"a"}}"#.to_owned();
    let early = line("ADDED", &pod("a", "11"));
    let whole = r#"{"metadata":{"resourceVersion":"40"},"items":[]}"#.to_owned();
    // A watch list that ends before it is complete is not requested again.
    let (url, _) = server(vec![(200, early), (200, cut), (200, whole)]).await;
    let want = [
        "begin",
        "listed a",
        "begin",
        "listed a",
        "error false",
        "begin",
        "complete",
    ];
    assert_eq!(events(&url, want.len()).await, want);
}
