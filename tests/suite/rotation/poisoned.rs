//! One service whose calls hang, beside others in the same Secret.

use super::*;

/// The call for one service hangs until our own deadline, which is longer than any wait here.
const HANGS: Fault = Fault::Slow(Duration::from_secs(60));

/// Less than the deadline of a call.
const SOON: Duration = Duration::from_secs(5);

/// Makes the call hang that creates the user of `poisoned`, which had no pod before.
async fn poison(world: &World, others: &[&str], change: impl Fn(&mut KeyDemand)) -> Instant {
    world.headscale.break_calls(Some(Call::CreateUser), HANGS);
    let users = world.headscale.calls(Call::CreateUser);
    world.demand(&[others, &["poisoned"]].concat(), change);
    until("the call that hangs", async || {
        (world.headscale.calls(Call::CreateUser) > users).then_some(())
    })
    .await;
    world.headscale.mend();
    Instant::now()
}

#[tokio::test]
async fn a_call_that_hangs_holds_up_no_key_that_is_made_beside_it() {
    let world = World::new().await;
    let _process = world.start("a");
    world.demand(&["api"], |_| {});
    let old = world.key("api").await;
    // Their users already exist.
    let tagged = |demand: &mut KeyDemand| demand.asked.tags = vec!["tag:web".into()];
    let began = poison(&world, &["api"], tagged).await;
    world.key_other_than("api", &old).await;
    assert!(began.elapsed() < SOON, "after {:?}", began.elapsed());
    assert_eq!(world.value("poisoned").await, None);
}

#[tokio::test]
async fn a_call_that_hangs_holds_up_no_pod_that_comes_after_it() {
    let world = World::new().await;
    let _process = world.start("a");
    let began = poison(&world, &[], |_| {}).await;
    for (n, service) in ["api", "web", "db"].into_iter().enumerate() {
        let services = ["poisoned", "api", "web", "db"];
        world.demand(&services[..n + 2], |_| {});
        tokio::time::sleep(Duration::from_millis(50)).await;
        world.clock.advance(Duration::from_secs(1));
        world.key(service).await;
    }
    assert!(began.elapsed() < SOON, "after {:?}", began.elapsed());
    assert_eq!(world.value("poisoned").await, None);
    // The intent of the hanging call was left to it: no second one was created.
    let record = world.record().await;
    let intended = |key: &str| {
        let key = &record.keys[key];
        (key.intent.is_some(), key.abandoned.len())
    };
    assert_eq!(intended("poisoned-authkey"), (true, 0));
    assert_eq!(world.mints(), 3);
    // It is created in the end, once.
    until("a key for all", async || {
        world.clock.advance(Duration::from_secs(5));
        tokio::time::sleep(Duration::from_millis(50)).await;
        let value = world.value("poisoned").await?;
        world.headscale.accepts(&value).then_some(())
    })
    .await;
    assert_eq!(world.mints(), 4);
}

#[tokio::test]
async fn a_created_value_that_is_no_key_is_expired_and_reaches_no_secret() {
    let world = World::new().await;
    // Tailscale's client would read that file, and send it to its server.
    let file = Fault::Field(
        "/preAuthKey/key",
        Some(serde_json::json!("file:/etc/shadow")),
    );
    world
        .headscale
        .break_calls(Some(Call::CreatePreAuthKey), file);
    let _process = world.start("a");
    world.demand(&["web"], |_| {});
    until("the key is created and expired", async || {
        world.clock.advance(Duration::from_secs(1));
        (world.mints() >= 1 && world.alive().is_empty()).then_some(())
    })
    .await;
    until("the problem is reported", async || {
        world.detail().contains("web-authkey").then_some(())
    })
    .await;
    assert_eq!(world.value("web").await, None);
    world.headscale.mend();
    world.clock.advance(Duration::from_secs(600));
    world.key("web").await;
    assert_eq!(world.alive().len(), 1);
}
