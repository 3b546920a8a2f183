//! A record that a tenant wrote, or that was copied from another namespace: no key of others is changed.

use sidescale_core::id::KeyId;
use sidescale_rotation::record::{KeyRecord, Previous};

use super::messages::Log;
use super::request::edit;
use super::*;

/// Returns a key of another installation, one of another namespace, and a person's.
async fn others(world: &World) -> Vec<(KeyId, Timestamp, String)> {
    let elsewhere = installation().owner_tag(&ServiceOwner::new("other", "web"));
    let values = [
        world.key_of_another("other.web", &elsewhere).await,
        world
            .key_of_another("prod.api", "sidescale another-cluster test shop/api")
            .await,
        world.key_of_another("alice", "Alice").await,
    ];
    let issued = world.headscale.issued().into_iter();
    let others = issued.filter_map(|key| {
        let value = key.value.expose().to_owned();
        values
            .contains(&value)
            .then_some((key.id, key.expiration, value))
    });
    others.collect()
}

#[tokio::test]
async fn a_forged_record_expires_no_key_of_anybody_else() {
    let world = World::new().await;
    let _process = world.start("a");
    world.demand(&["api"], |_| {});
    let own = world.key("api").await;
    let others = others(&world).await;
    assert_eq!(others.len(), 3);
    let past = Timestamp::from_second(1).unwrap();
    edit(&world, |secret| {
        let mut record = Record::of(secret).unwrap();
        let forged = others.iter().map(|(id, expires, _)| Previous {
            id: *id,
            expire_at: past,
            expires: *expires,
            revoked: true,
        });
        let forged = Vec::from_iter(forged);
        // As an old key of the service itself, and under a service without pods.
        record.keys.get_mut("api-authkey").unwrap().previous = forged.clone();
        let mut key = KeyRecord::new("x", "default");
        key.previous = forged;
        record.keys.insert("x-authkey".to_owned(), key);
        let document = record.document().unwrap();
        secret.data.insert(DATA_KEY.to_owned(), document.into());
    })
    .await;
    // Its entries are forgotten, which happens only after they were judged.
    until("the record is tidy", async || {
        world.clock.advance(Duration::from_secs(30));
        let keys = world.record().await.keys;
        let tidy = keys.values().all(|key| key.previous.is_empty());
        tidy.then_some(())
    })
    .await;
    for (id, _, value) in &others {
        assert!(world.headscale.accepts(value), "key {} was expired", id.0);
    }
    assert_eq!(world.headscale.calls(Call::ExpirePreAuthKey), 0);
    assert_eq!(world.value("api").await, Some(own));
}

#[tokio::test]
async fn a_copied_secret_gets_keys_of_its_own_and_leaves_the_originals() {
    let (log, _guard) = Log::listen();
    let world = World::new().await;
    let _process = world.start("a");
    world.demand(&["api"], |_| {});
    let own = world.key("api").await;
    let mut copy = world.secret().await.unwrap();
    (copy.namespace, copy.revision) = ("copy".to_owned(), None);
    world.store.write(&copy).await.unwrap();
    world.demands.send_modify(|demands| {
        let demand = demands.namespaces["shop"].clone();
        let mut demand = (*demand).clone();
        let keys = demand.secrets.get_mut(SECRET).unwrap();
        keys.get_mut("api-authkey").unwrap().asked.user = "copy.api".to_owned();
        demands.namespaces.insert("copy".into(), Arc::new(demand));
    });
    let value = async || {
        let secret = world.store.read("copy", SECRET).await.unwrap()?;
        let value = secret.data.get("api-authkey")?;
        Some(String::from_utf8(value.to_vec()).unwrap())
    };
    let fresh = until("a key of its own", async || {
        value().await.filter(|value| *value != own)
    })
    .await;
    assert!(world.headscale.accepts(&fresh));
    assert_eq!(world.headscale.user_names(), ["shop.api", "copy.api"]);
    let told = until("the Event", async || {
        let lines = log.lines("Event");
        lines
            .into_iter()
            .find(|line| line["reason"] == "SecretCopied")
    })
    .await;
    let note = told["note"].as_str().unwrap();
    assert!(note.contains("shop/headscale-auth-keys"), "{note}");
    // Longer than the overlap, and than an unused key is kept.
    for _ in 0..10 {
        world.clock.advance(DAY);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(world.headscale.accepts(&own), "the original's key");
    assert_eq!(world.value("api").await, Some(own));
}

/// Gives the namespace this uid, as after it was deleted and created again.
fn give_uid(world: &World, uid: u128) {
    world.demands.send_modify(|demands| {
        let mut demand = (*demands.namespaces["shop"]).clone();
        demand.uid = Some(uid);
        demands.namespaces.insert("shop".into(), Arc::new(demand));
    });
}

/// Waits until the record names the namespace with this uid.
async fn taken_over(world: &World, uid: u128) {
    let uid = uuid::Uuid::from_u128(uid).hyphenated().to_string();
    until("a record of this namespace", async || {
        world.clock.advance(Duration::from_secs(10));
        (world.record().await.namespace_uid == uid).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_secret_restored_into_a_namespace_created_again_keeps_what_the_control_plane_confirms() {
    let world = World::new().await;
    let _process = world.start("a");
    world.demand(&["api", "web"], |_| {});
    give_uid(&world, 1);
    let own = world.key("web").await;
    world.key("api").await;
    let hers = world.key_of_another("alice", "Alice").await;
    super::by_hand::put(&world, &hers).await;
    until("the adoption", async || {
        world.clock.advance(Duration::from_secs(60));
        tokio::time::sleep(Duration::from_millis(10)).await;
        let record = world.record().await;
        (!record.keys["api-authkey"].lent.is_empty()).then_some(())
    })
    .await;
    taken_over(&world, 1).await;
    let mints = world.mints();
    give_uid(&world, 2);
    taken_over(&world, 2).await;
    let fresh = world.key_other_than("api", &hers).await;
    assert_eq!(world.value("web").await, Some(own), "its own key is kept");
    assert_eq!(world.value("api").await, Some(fresh));
    assert_eq!(world.mints(), mints + 1);
    assert!(
        world.headscale.accepts(&hers),
        "a person's key is not expired"
    );
    let record = world.record().await;
    assert!(record.keys["api-authkey"].lent.is_empty());
}
