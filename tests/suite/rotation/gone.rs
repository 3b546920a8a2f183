//! Demand that disappears at a bad moment: while its key is being created.

use super::*;

/// Requests the key of `api`, and drops the demand before the answer arrives.
async fn gone_while_minting(world: &World) -> String {
    let slow = Fault::Slow(Duration::from_millis(500));
    world
        .headscale
        .break_calls(Some(Call::CreatePreAuthKey), slow);
    world.demand(&["api"], |_| {});
    until("the call", async || (world.mints() > 0).then_some(())).await;
    world.demand(&[], |_| {});
    assert!(world.headscale.issued().is_empty(), "the answer was there");
    world.key("api").await
}

async fn is_unused(world: &World) -> Option<()> {
    let record = world.record().await;
    record.keys.get("api-authkey")?.unused_since.map(drop)
}

#[tokio::test]
async fn demand_that_ends_while_its_key_is_made_leaves_nothing_behind() {
    let world = World::new().await;
    let _process = world.start("a");
    let value = gone_while_minting(&world).await;
    until("the mark of a key without pods", async || {
        is_unused(&world).await
    })
    .await;
    world.clock.advance(DAY * 7 - Duration::from_secs(3_600));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(world.headscale.accepts(&value), "seven days are not over");
    until("the key's end", async || {
        world.clock.advance(Duration::from_secs(3_600));
        tokio::time::sleep(Duration::from_millis(20)).await;
        world.alive().is_empty().then_some(())
    })
    .await;
    assert_eq!((world.value("api").await, world.mints()), (None, 1));
}

#[tokio::test]
async fn demand_that_comes_back_while_its_key_is_made_uses_that_key() {
    let world = World::new().await;
    let _process = world.start("a");
    let value = gone_while_minting(&world).await;
    world.demand(&["api"], |_| {});
    until("a key with pods", async || {
        is_unused(&world).await.is_none().then_some(())
    })
    .await;
    for _ in 0..10 {
        world.clock.advance(DAY);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(world.key("api").await, value);
    assert_eq!((world.alive().len(), world.mints()), (1, 1));
}

#[tokio::test]
async fn a_key_that_pods_refer_to_stays_though_policy_allows_it_no_more() {
    let world = World::new().await;
    let _process = world.start("a");
    world.demand(&["api", "web"], |_| {});
    let kept = world.key("api").await;
    world.key("web").await;
    // The pods of api continue, with a tag that no profile allows any more; those of web are gone.
    let demand = NamespaceDemand {
        refused: 1,
        held: [(SECRET.to_owned(), ["api-authkey".to_owned()].into())].into(),
        ..NamespaceDemand::default()
    };
    world.demands.send_modify(|demands| {
        demands.namespaces.insert("shop".into(), Arc::new(demand));
    });
    until("web's key has no pods", async || {
        let record = world.record().await;
        record.keys.get("web-authkey")?.unused_since.map(drop)
    })
    .await;
    until("the end of web's key", async || {
        world.clock.advance(DAY);
        tokio::time::sleep(Duration::from_millis(20)).await;
        world.value("web").await.is_none().then_some(())
    })
    .await;
    assert!(is_unused(&world).await.is_none());
    assert_eq!(world.value("api").await, Some(kept));
}
