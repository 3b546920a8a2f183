//! A value that a person puts into a Secret of ours: a live key is kept, anything else is replaced and reported.

use sidescale_core::id::KeyId;

use super::messages::Log;
use super::request::edit;
use super::*;

pub(super) async fn put(world: &World, value: &str) {
    edit(world, |secret| {
        let value = value.as_bytes().to_vec();
        secret.data.insert("api-authkey".into(), value.into());
    })
    .await;
}

/// Lets an overlap pass, and what follows from it.
async fn end_of(world: &World, key: &str) {
    until("the end of a key, after the overlap", async || {
        world.clock.advance(Duration::from_secs(60));
        tokio::time::sleep(Duration::from_millis(10)).await;
        (!world.headscale.accepts(key)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_living_key_put_there_by_hand_is_kept_and_never_ended() {
    let world = World::new().await;
    let _process = world.start("a");
    world.demand(&["api"], |_| {});
    let ours = world.key("api").await;
    let hers = world.key_of_another("alice", "Alice").await;
    put(&world, &hers).await;
    end_of(&world, &ours).await;
    assert_eq!(world.value("api").await.unwrap(), hers);
    assert_eq!(world.mints(), 2, "hers and ours");
    // Her key lives for 30 days, and is renewed like any other.
    world.clock.advance(DAY * 20);
    let next = world.key_other_than("api", &hers).await;
    for _ in 0..3 {
        world.clock.advance(Duration::from_secs(3_601));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(world.headscale.accepts(&hers), "we did not make it");
    assert!(world.headscale.accepts(&next));
    let record = world.record().await;
    assert_eq!(record.keys["api-authkey"].lent.len(), 1);
}

#[tokio::test]
async fn a_key_of_a_user_of_ours_put_there_by_hand_ends_when_it_was_replaced() {
    let world = World::new().await;
    let _process = world.start("a");
    world.demand(&["api"], |_| {});
    world.key("api").await;
    // As `headscale preauthkeys create` creates one for the service's user, which an administrator renamed.
    let hers = world.key_of_another("renamed", &owner_tag("api")).await;
    // The newline is not part of the key.
    put(&world, &format!("{hers}\n")).await;
    let theirs = until("the adoption", async || {
        world.clock.advance(Duration::from_secs(60));
        tokio::time::sleep(Duration::from_millis(10)).await;
        let record = world.record().await;
        let current = record.keys["api-authkey"].current.clone()?;
        (current.id == KeyId::from(2)).then_some(current)
    })
    .await;
    assert_eq!(theirs.asked, key_demand("api").asked);
    world.clock.advance(DAY * 20);
    world.key_other_than("api", &format!("{hers}\n")).await;
    end_of(&world, &hers).await;
}

#[tokio::test]
async fn a_value_that_is_no_living_key_is_replaced_and_told() {
    for (wrong, told) in [
        ("YOUR_KEY_HERE".to_owned(), "is a placeholder"),
        ("hskey-api-abcdefghijkl-secret".into(), "is an API key"),
        ("hskey-auth-by-hand".into(), "or is truncated"),
        (
            format!("hskey-auth-abcdefghijkl-{}", "s".repeat(64)),
            "is not a key of its control plane",
        ),
    ] {
        let (log, _guard) = Log::listen();
        let world = World::new().await;
        let _process = world.start("a");
        world.demand(&["api"], |_| {});
        let ours = world.key("api").await;
        put(&world, &wrong).await;
        until("another key", async || {
            world.clock.advance(Duration::from_secs(1));
            let value = world.value("api").await?;
            (value != wrong && world.headscale.accepts(&value)).then_some(())
        })
        .await;
        assert_ne!(world.value("api").await.unwrap(), ours);
        assert_eq!(world.mints(), 2, "{wrong}");
        let event = until("the Event", async || {
            let lines = log.lines("Event");
            lines
                .into_iter()
                .find(|line| line["reason"] == "ValueRefused")
        })
        .await;
        let note = event["note"].as_str().unwrap();
        assert!(note.contains(told), "{note}");
        assert!(!log.whole().contains(&wrong), "{wrong} is in the log");
    }
}
