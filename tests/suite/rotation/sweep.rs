//! Rotation removes what is no longer needed: keys that no Secret contains, rows of expired keys, users without a service.

use std::fs;

use super::*;

const MINUTE: Duration = Duration::from_secs(60);

impl World {
    /// Removes the namespace with all its Secrets, as `kubectl delete namespace` does.
    pub(super) fn delete_namespace(&self) {
        let folder = self._root.path().join("shop");
        // A process that died a moment ago may still have a write in progress.
        let gone = (0..100).any(|_| {
            std::thread::sleep(Duration::from_millis(5));
            fs::remove_dir_all(&folder).is_ok()
        });
        assert!(gone, "the folder stays");
        self.demands.send_modify(|demands| {
            demands.namespaces.remove("shop");
        });
    }

    /// Advances the clock until there is an answer.
    pub(super) async fn eventually<T>(
        &self,
        what: &str,
        step: Duration,
        ask: impl Fn() -> Option<T>,
    ) -> T {
        until(what, async || {
            if let Some(answer) = ask() {
                return Some(answer);
            }
            self.clock.advance(step);
            tokio::time::sleep(Duration::from_millis(20)).await;
            None
        })
        .await
    }
}

#[tokio::test]
async fn the_keys_of_a_namespace_deleted_while_nobody_looked_are_ended_at_the_next_start() {
    let world = World::new().await;
    let process = world.start("a");
    world.demand(&["api", "db"], |_| {});
    world.key("api").await;
    world.key("db").await;
    drop(process);
    world.delete_namespace();
    // Another release in this cluster, and another cluster: their users' namespaces have no Secret that we could read.
    let release = owner_tag("web").replace("test", "staging");
    let others = [
        world.key_of_another("shop.web", &release).await,
        world
            .key_of_another("prod.api", "sidescale another-cluster test prod/api")
            .await,
    ];
    world.clock.advance(11 * MINUTE);
    let _process = world.start("b");
    until("the end of both keys", async || {
        (world.alive().len() == others.len()).then_some(())
    })
    .await;
    for other in others {
        assert!(world.headscale.accepts(&other));
    }
}

#[tokio::test]
async fn a_key_that_is_young_or_that_a_secret_knows_is_no_orphan() {
    let world = World::new().await;
    let process = world.start("a");
    world.demand(&["api"], |_| {});
    let value = world.key("api").await;
    drop(process);
    world.clock.advance(DAY);
    let process = world.start("b");
    let sweeps = sweeps(&world).await;
    assert!(world.headscale.accepts(&value));
    drop(process);
    // An unreadable record may contain any key of the namespace.
    let mut secret = world.secret().await.unwrap();
    let whole = secret.data.insert(DATA_KEY.into(), b"{".to_vec().into());
    let mut secret = world.store.write(&secret).await.unwrap();
    world
        .demands
        .send_modify(|demands| demands.namespaces.clear());
    let process = world.start("c");
    until("a sweep", async || {
        (world.headscale.calls(Call::ListNodes) > sweeps).then_some(())
    })
    .await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(world.headscale.accepts(&value), "the record was damaged");
    drop(process);
    // The record is back, and no longer contains the key.
    secret.data.insert(DATA_KEY.into(), whole.unwrap());
    let mut record = Record::of(&secret).unwrap();
    record.keys.clear();
    secret
        .data
        .insert(DATA_KEY.into(), record.document().unwrap().into());
    world.store.write(&secret).await.unwrap();
    let _process = world.start("d");
    until("its end", async || {
        (!world.headscale.accepts(&value)).then_some(())
    })
    .await;
}

/// Waits until a sweep has finished, and returns how often nodes were listed.
async fn sweeps(world: &World) -> u64 {
    until("a sweep", async || {
        (world.headscale.calls(Call::ListNodes) >= 2).then_some(())
    })
    .await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    world.headscale.calls(Call::ListNodes)
}

#[tokio::test]
async fn a_user_without_a_service_goes_thirty_days_after_its_last_key() {
    let world = World::new().await;
    world.headscale.add_user("shop.lent", "somebody", "");
    // Its first key was never created: the process died before that.
    world
        .headscale
        .add_user("shop.never", &owner_tag("never"), "");
    let process = world.start("a");
    world.demand(&["api"], |_| {});
    world.key("api").await;
    drop(process);
    world.delete_namespace();
    world.clock.advance(11 * MINUTE);
    let _process = world.start("b");
    until("the end of the key", async || {
        world.alive().is_empty().then_some(())
    })
    .await;
    world.clock.advance(DAY * 29);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(
        world.headscale.user_names(),
        ["shop.lent", "shop.never", "shop.api"]
    );
    world
        .eventually("the end of the user", DAY / 4, || {
            (world.headscale.user_names() == ["shop.lent"]).then_some(())
        })
        .await;
    assert!(world.headscale.issued().is_empty(), "its rows went with it");
}

#[tokio::test]
async fn a_user_that_a_pod_needs_by_the_time_of_its_turn_stays() {
    let world = World::new().await;
    world.headscale.add_user("shop.old", &owner_tag("old"), "");
    world.headscale.add_user("shop.api", &owner_tag("api"), "");
    world.clock.advance(DAY * 31);
    let slow = Fault::Slow(Duration::from_millis(800));
    world.headscale.break_calls(Some(Call::DeleteUser), slow);
    let _process = world.start("a");
    until("the removal of the first one", async || {
        (world.headscale.calls(Call::DeleteUser) > 0).then_some(())
    })
    .await;
    world.demand(&["api"], |_| {});
    let value = world.key("api").await;
    until("the end of the first one", async || {
        (world.headscale.user_names() == ["shop.api"]).then_some(())
    })
    .await;
    // It is the other one's turn at once.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(world.headscale.user_names(), ["shop.api"]);
    assert!(world.headscale.accepts(&value));
    assert_eq!(world.headscale.calls(Call::DeleteUser), 1);
}

#[tokio::test]
async fn a_key_that_no_pod_needs_for_a_week_is_taken_out_and_ended() {
    let world = World::new().await;
    let _process = world.start("a");
    world.demand(&["api", "db"], |_| {});
    let api = world.key("api").await;
    let db = world.key("db").await;
    let noted = async |want: bool| {
        until("a note", async || {
            let record = world.record().await;
            let unused = record.keys["db-authkey"].unused_since;
            (unused.is_some() == want).then_some(())
        })
        .await;
    };
    world.demand(&["api"], |_| {});
    noted(true).await;
    world.clock.advance(DAY * 6);
    world.demand(&["api", "db"], |_| {});
    noted(false).await;
    world.demand(&["api"], |_| {});
    noted(true).await;
    world.clock.advance(DAY * 7 - MINUTE);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(
        world.value("db").await,
        Some(db.clone()),
        "a minute too early"
    );
    world.clock.advance(2 * MINUTE);
    until("the value is gone", async || {
        world.value("db").await.is_none().then_some(())
    })
    .await;
    assert!(
        world.headscale.accepts(&db),
        "who read it just now may still join"
    );
    world.clock.advance(61 * MINUTE);
    until("the key is ended and forgotten", async || {
        let known = world.record().await.keys.contains_key("db-authkey");
        (!known && !world.headscale.accepts(&db)).then_some(())
    })
    .await;
    assert!(world.headscale.accepts(&api));
    assert_eq!(world.mints(), 2);
}
