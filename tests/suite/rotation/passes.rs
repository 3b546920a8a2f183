//! Passes over everything: none that is requested is lost, whatever is in progress.

use super::request::edit;
use super::*;

#[tokio::test]
async fn a_control_plane_that_connects_during_a_pass_is_looked_at_after_it() {
    let mut world = World::new().await;
    let (other, url, _server) = new_headscale(&world.clock).await;
    let mut plane = Policy::for_login_server(&url).unwrap().control_planes["default"].clone();
    plane.api_key_secret = "other-api-key".into();
    let mut secret = StoredSecret::absent("headscale", "other-api-key");
    let api_key = other.create_api_key(DAY * 3_650);
    let value = api_key.expose().as_bytes().to_vec();
    secret.data.insert("api-key".into(), value.into());
    world.store.write(&secret).await.unwrap();
    let endpoint = Endpoint {
        name: "other".into(),
        api_url: plane.api_url.clone(),
        api_key,
        ca_bundle: None,
        allow_insecure: true,
    };
    world.policy.control_planes.insert("other".into(), plane);
    world.demand(&["api"], |demand| demand.control_plane = "other".into());
    let process = world.start("a");
    until("a key", async || world.value("api_other").await).await;
    let id = until("its record", async || {
        let record = world.record().await;
        Some(record.keys.get("api_other-authkey")?.current.as_ref()?.id)
    })
    .await;
    drop(process);
    // It is expired by someone else while rotation is down.
    let client = Client::new(endpoint).unwrap();
    client.expire_pre_auth_key(id).await.unwrap();
    let slow = |millis| Fault::Slow(Duration::from_millis(millis));
    // One call of the first connection, and the first pass: that goes from 0.6 s to 1.2 s.
    world
        .headscale
        .break_calls(Some(Call::ListPreAuthKeys), slow(600));
    other.break_calls(Some(Call::ListUsers), slow(900));
    let _process = world.start("b");
    until("another key, long before the hour is over", async || {
        if world.clock.now() < Timestamp::from_second(1_700_000_600).unwrap() {
            world.clock.advance(Duration::from_secs(1));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        let value = world.value("api_other").await?;
        other.accepts(&value).then_some(())
    })
    .await;
}

/// A pass stores only the revision of a large Secret; its keys are confirmed anyway.
#[tokio::test]
async fn a_key_that_ended_early_is_replaced_in_a_large_secret_too() {
    let world = World::new().await;
    let _process = world.start("a");
    world.demand(&["api"], |_| {});
    let old = world.key("api").await;
    edit(&world, |secret| {
        let large = vec![b'x'; 300 << 10];
        secret.data.insert("large".into(), large.into());
    })
    .await;
    let record = world.record().await;
    let id = record.keys["api-authkey"].current.as_ref().unwrap().id;
    let client = Client::new(Endpoint {
        name: "other".into(),
        api_url: world.policy.control_planes["default"].api_url.clone(),
        api_key: world.headscale.create_api_key(DAY),
        ca_bundle: None,
        allow_insecure: true,
    });
    client.unwrap().expire_pre_auth_key(id).await.unwrap();
    until("another key", async || {
        world.clock.advance(Duration::from_secs(60));
        tokio::time::sleep(Duration::from_millis(20)).await;
        let value = world.value("api").await?;
        (value != old && world.headscale.accepts(&value)).then_some(())
    })
    .await;
    assert_eq!(world.secret().await.unwrap().data["large"].len(), 300 << 10);
}
