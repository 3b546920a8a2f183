//! Requests to rotation: another key now, and the immediate expiry of the old one.

use std::time::Duration;

use sidescale_core::secret::{SecretRef, StoredSecret};
use sidescale_rotation::record::Record;
use sidescale_rotation::request::{ANNOTATION, Requests, RotationRequest};
use sidescale_simulator::{Call, Fault};

use super::messages::Log;
use super::{SECRET, World, until};

/// Asks as `sidescale rotate --now` does.
async fn ask(world: &World, services: &[&str], revoke: bool) {
    edit(world, |secret| {
        let record = Record::of(secret).unwrap();
        let mut requests = Requests::parse(&secret.annotations).unwrap();
        for service in services {
            let data_key = format!("{service}-authkey");
            let replaces = record.keys[&data_key].current.as_ref().unwrap().id;
            requests.add(&data_key, RotationRequest { replaces, revoke });
        }
        requests.write(&record, &mut secret.annotations).unwrap();
    })
    .await;
}

/// Writes as someone else, and retries when rotation writes in between.
pub(super) async fn edit(world: &World, change: impl Fn(&mut StoredSecret)) {
    until("a write", async || {
        let mut secret = world.secret().await?;
        change(&mut secret);
        world.store.write(&secret).await.ok()
    })
    .await;
    changed(world);
}

/// Has the watch of Secrets report a write by someone else.
fn changed(world: &World) {
    // Changes of one Secret are handled a second apart, and this clock does not move itself.
    world.clock.advance(Duration::from_secs(1));
    let secret = SecretRef::new("shop", SECRET);
    world.demands.send_modify(|demands| {
        *demands.changes.entry(secret).or_default() += 1;
    });
}

#[tokio::test]
async fn a_key_that_a_person_asks_for_is_made_and_the_old_one_ends_after_the_overlap() {
    let world = World::new().await;
    let _process = world.start("a");
    world.demand(&["api", "db"], |_| {});
    let (old, other) = (world.key("api").await, world.key("db").await);
    ask(&world, &["api"], false).await;
    let new = world.key_other_than("api", &old).await;
    assert!(
        world.headscale.accepts(&old),
        "both are good during the overlap"
    );
    until("the request is over", async || {
        let secret = world.secret().await?;
        (!secret.annotations.contains_key(ANNOTATION)).then_some(())
    })
    .await;
    world.clock.advance(Duration::from_secs(3_601));
    until("the end of the old key", async || {
        (!world.headscale.accepts(&old)).then_some(())
    })
    .await;
    assert!(world.headscale.accepts(&new));
    assert_eq!(
        world.value("db").await.unwrap(),
        other,
        "nobody asked for this one"
    );
    assert_eq!(world.mints(), 3);
}

#[tokio::test]
async fn a_revoked_key_ends_at_once_and_so_do_those_before_it() {
    let world = World::new().await;
    let _process = world.start("a");
    world.demand(&["api"], |_| {});
    let first = world.key("api").await;
    ask(&world, &["api"], false).await;
    let second = world.key_other_than("api", &first).await;
    assert!(world.headscale.accepts(&first));
    ask(&world, &["api"], true).await;
    let third = world.key_other_than("api", &second).await;
    until("the end of both", async || {
        let over = |key: &str| !world.headscale.accepts(key);
        (over(&first) && over(&second)).then_some(())
    })
    .await;
    assert!(world.headscale.accepts(&third));
    assert_eq!(world.mints(), 3);
}

#[tokio::test]
async fn a_key_that_is_younger_than_the_last_look_is_ended_all_the_same() {
    let world = World::new().await;
    let _process = world.start("a");
    world.demand(&["api"], |_| {});
    let first = world.key("api").await;
    // The pass at the start is the only one so far, and was before that key.
    ask(&world, &["api"], true).await;
    world.key_other_than("api", &first).await;
    until("its end", async || {
        (!world.headscale.accepts(&first)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_old_key_that_cannot_be_ended_is_told_as_that_and_tried_again() {
    let (log, _guard) = Log::listen();
    let world = World::new().await;
    let _process = world.start("a");
    world.demand(&["api"], |_| {});
    let first = world.key("api").await;
    let refuses = Fault::Status(403);
    world
        .headscale
        .break_calls(Some(Call::ExpirePreAuthKey), refuses);
    ask(&world, &["api"], true).await;
    world.key_other_than("api", &first).await;
    let event = async || {
        world.clock.advance(Duration::from_secs(1));
        tokio::time::sleep(Duration::from_millis(20)).await;
        let told = log.lines("Event").into_iter();
        let mut told = told.filter(|line| line["reason"] == "KeyNotEnded");
        told.next()
    };
    let event = until("the Event", event).await;
    let note = event["note"].as_str().unwrap();
    assert!(note.contains("preauthkeys expire --id 1"), "{note}");
    assert_eq!(log.lines("Failed to expire old key").len(), 1);
    assert_eq!(log.lines("Failed to create key").len(), 0);
    until("a key that is ready all the same", async || {
        world.detail().starts_with("1 keys ready").then_some(())
    })
    .await;
    let tries = world.headscale.calls(Call::ExpirePreAuthKey);
    tokio::time::sleep(Duration::from_millis(200)).await;
    let more = world.headscale.calls(Call::ExpirePreAuthKey);
    assert!(
        more <= tries + 1,
        "no time has passed: {tries}, then {more}"
    );
    world.headscale.mend();
    until("its end", async || {
        world.clock.advance(Duration::from_secs(1));
        (!world.headscale.accepts(&first)).then_some(())
    })
    .await;
    until("word of that", async || {
        let over = log.lines("Old key no longer needs expiring");
        (over.len() == 1).then_some(())
    })
    .await;
    assert_eq!(world.mints(), 2);
}

#[tokio::test]
async fn a_request_that_nobody_can_read_is_left_alone() {
    let world = World::new().await;
    let _process = world.start("a");
    world.demand(&["api"], |_| {});
    let old = world.key("api").await;
    edit(&world, |secret| {
        secret.annotations.insert(ANNOTATION.into(), "now".into());
    })
    .await;
    // The next service shows that the Secret was processed.
    world.demand(&["api", "db"], |_| {});
    world.key("db").await;
    assert_eq!(world.value("api").await.unwrap(), old);
    assert_eq!(world.secret().await.unwrap().annotations[ANNOTATION], "now");
}

#[tokio::test]
async fn a_key_that_somebody_takes_out_is_made_again_at_once() {
    let world = World::new().await;
    let _process = world.start("a");
    world.demand(&["api"], |_| {});
    let old = world.key("api").await;
    edit(&world, |secret| {
        secret.data.remove("api-authkey");
    })
    .await;
    let new = world.key_other_than("api", &old).await;
    assert!(world.headscale.accepts(&new));
}
