//! Promises over months: restarts, things lost and started in the wrong order, and the log of it.

use std::fs;

use axum::extract::Request;
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn};
use axum::response::IntoResponse;
use tokio::net::TcpListener;

use super::messages::Log;
use super::*;

const MINUTE: Duration = Duration::from_secs(60);

/// Has the watch report that the Secret was deleted.
fn deleted(world: &World) {
    let folder = world._root.path().join("shop");
    // Rotation may have a write in progress.
    let gone = (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(5));
        fs::remove_dir_all(&folder).is_ok()
    });
    assert!(gone, "the folder stays");
    let secret = sidescale_core::secret::SecretRef::new("shop", SECRET);
    world.demands.send_modify(|demands| {
        *demands.changes.entry(secret).or_default() += 1;
    });
}

#[tokio::test]
async fn a_hundred_restarts_leave_one_key() {
    let world = World::new().await;
    world.demand(&["api"], |_| {});
    for n in 0..100_u64 {
        let lists = world.headscale.calls(Call::ListUsers);
        let process = world.start(&format!("{n}"));
        until("it has begun", async || {
            (world.headscale.calls(Call::ListUsers) > lists).then_some(())
        })
        .await;
        // Killed at any point.
        tokio::time::sleep(Duration::from_millis(n % 7)).await;
        drop(process);
        world.clock.advance(Duration::from_secs(20));
    }
    let _process = world.start("last");
    // An intent of the previous process is left to that one for two minutes.
    let value = until("a key that the server accepts", async || {
        world.clock.advance(Duration::from_secs(20));
        tokio::time::sleep(Duration::from_millis(20)).await;
        let value = world.value("api").await?;
        world.headscale.accepts(&value).then_some(value)
    })
    .await;
    until("one living key", async || {
        world.clock.advance(Duration::from_secs(20));
        tokio::time::sleep(Duration::from_millis(20)).await;
        (world.alive().len() == 1).then_some(())
    })
    .await;
    let current = world.value("api").await.unwrap_or(value);
    assert_eq!(world.alive()[0].value.expose(), current);
}

#[tokio::test]
async fn started_before_headscale_it_waits_and_does_no_harm() {
    let mut world = World::new().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let plane = world.policy.control_planes.get_mut("default").unwrap();
    plane.api_url = format!("http://{address}");
    let _process = world.start("a");
    world.demand(&["api"], |_| {});
    until("it says what it waits for", async || {
        world.detail().contains("Degraded").then_some(())
    })
    .await;
    assert_eq!((world.mints(), world.value("api").await), (0, None));
    let listener = TcpListener::bind(address).await.unwrap();
    let router = world.headscale.router();
    let _server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    let value = until("the key", async || {
        world.clock.advance(MINUTE);
        tokio::time::sleep(Duration::from_millis(20)).await;
        let value = world.value("api").await?;
        world.headscale.accepts(&value).then_some(value)
    })
    .await;
    assert_eq!(world.alive().len(), 1);
    assert_eq!(world.alive()[0].value.expose(), value);
}

#[tokio::test]
async fn a_secret_deleted_by_hand_is_made_again_and_its_old_key_is_ended() {
    let world = World::new().await;
    let _process = world.start("a");
    world.demand(&["api"], |_| {});
    let old = world.key("api").await;
    deleted(&world);
    let new = world.key_other_than("api", &old).await;
    world
        .eventually("the end of the old key", 10 * MINUTE, || {
            (!world.headscale.accepts(&old)).then_some(())
        })
        .await;
    assert!(world.headscale.accepts(&new));
    assert_eq!(world.mints(), 2);
}

#[tokio::test]
async fn a_user_that_is_there_needs_an_api_key_all_the_same() {
    let world = World::without_api_key().await;
    world.headscale.add_user("shop.api", &owner_tag("api"), "");
    let _process = world.start("a");
    world.demand(&["api"], |_| {});
    let detail = until("instructions", async || {
        let detail = world.detail();
        detail.contains("NoCredentials").then_some(detail)
    })
    .await;
    assert!(detail.contains("headscale apikeys create"), "{detail}");
    assert_eq!(world.mints(), 0);
    world
        .give_api_key(world.headscale.create_api_key(DAY).expose())
        .await;
    until("the key", async || {
        world.clock.advance(MINUTE);
        tokio::time::sleep(Duration::from_millis(20)).await;
        let value = world.value("api").await?;
        world.headscale.accepts(&value).then_some(())
    })
    .await;
    assert_eq!(world.headscale.user_names(), ["shop.api"]);
}

#[tokio::test]
async fn an_api_key_with_too_few_rights_is_told() {
    let mut world = World::new().await;
    let refuse = |request: Request, next: Next| async move {
        if request.method() == "POST" && request.uri().path() == "/api/v1/preauthkey" {
            let body = r#"{"code":7,"message":"permission denied","details":[]}"#;
            let json = [("content-type", "application/json")];
            return (StatusCode::FORBIDDEN, json, body).into_response();
        }
        next.run(request).await
    };
    let router = world.headscale.router().layer(from_fn(refuse));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let plane = world.policy.control_planes.get_mut("default").unwrap();
    plane.api_url = format!("http://{}", listener.local_addr().unwrap());
    let _server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    let (log, _logging) = Log::listen();
    let _process = world.start("a");
    world.demand(&["api"], |_| {});
    let trouble = until("it is told", async || {
        world.clock.advance(Duration::from_millis(100));
        let lines = log.lines("Failed to create key");
        lines.first().map(|line| line["error"].to_string())
    })
    .await;
    assert!(
        trouble.contains("answered 403") && trouble.contains("lacks the permission for this call"),
        "{trouble}"
    );
    until("the state", async || {
        world.detail().contains("InvalidCredentials").then_some(())
    })
    .await;
    assert_eq!((world.value("api").await, world.alive().len()), (None, 0));
}

#[tokio::test]
async fn an_api_key_that_ends_in_a_new_line_works() {
    let world = World::without_api_key().await;
    let api_key = world.headscale.create_api_key(DAY);
    world
        .give_api_key(&format!("{}\r\n", api_key.expose()))
        .await;
    let _process = world.start("a");
    world.demand(&["api"], |_| {});
    world.key("api").await;
}

#[tokio::test]
async fn each_key_that_is_made_or_ended_leaves_one_line_that_says_why() {
    let (log, _logging) = Log::listen();
    let world = World::new().await;
    let process = world.start("a");
    world.demand(&["api"], |_| {});
    let first = world.key("api").await;
    world.clock.advance(DAY * 80 + MINUTE);
    let second = world.key_other_than("api", &first).await;
    world.clock.advance(61 * MINUTE);
    until("the end of the old key", async || {
        let over = !log.lines("Expired old key").is_empty();
        (over && !world.headscale.accepts(&first)).then_some(())
    })
    .await;
    // A running sweep has still seen the first one alive.
    drop(process);
    world.delete_namespace();
    let _process = world.start("b");
    world
        .eventually("the end of what is left", 10 * MINUTE, || {
            world.alive().is_empty().then_some(())
        })
        .await;
    let rows = "Deleted an expired key";
    world
        .eventually("the end of all rows but the last", DAY, || {
            (!log.lines(rows).is_empty()).then_some(())
        })
        .await;
    let brief = |message: &str, fields: &[&str]| {
        let lines = log.lines(message).into_iter();
        let of =
            |line: serde_json::Value| fields.iter().map(|name| line[*name].to_string()).collect();
        lines.map(of).collect::<Vec<Vec<String>>>()
    };
    let secret = "\"shop/headscale-auth-keys\"";
    assert_eq!(
        brief("Wrote key", &["secret", "data_key", "key_id", "why"]),
        [
            [secret, "\"api-authkey\"", "\"1\"", "\"first\""],
            [secret, "\"api-authkey\"", "\"2\"", "\"due\""]
        ]
    );
    assert_eq!(
        brief("Expired old key", &["secret", "data_key", "key_id", "why"]),
        [[secret, "\"api-authkey\"", "\"1\"", "\"overlap_over\""]]
    );
    assert_eq!(
        brief(
            "Expired a key that no Secret names",
            &["namespace", "user", "key_id"]
        ),
        [["\"shop\"", "\"shop.api\"", "\"2\""]]
    );
    assert_eq!(
        brief(rows, &["control_plane", "key_id", "why"]),
        [["\"default\"", "\"1\"", "\"over_for_long\""]]
    );
    let whole = log.whole();
    assert!(!whole.contains(&first) && !whole.contains(&second));
}
