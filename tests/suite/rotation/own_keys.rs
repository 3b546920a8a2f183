//! Per-pod keys: created once each, kept while the pod lives, expired and removed when it is gone.

use std::collections::BTreeSet;

use sidescale_rotation::nodes::replicas::{PodRef, ReplicaGroup};
use sidescale_webhook::identity::POD_SECRET;

use super::messages::Log;
use super::*;

const MINUTE: Duration = Duration::from_secs(60);
const TWO: [&str; 2] = ["api-0123456789ab-authkey", "api-ba9876543210-authkey"];

impl World {
    /// Sets existing pods, by the data key of each; the last ones are refused by policy.
    fn own_keys(&self, pods: &[&str], refused: &[&str]) {
        let keys = pods.iter().map(|data_key| {
            let mut demand = key_demand("api");
            demand.asked.reusable = false;
            demand.expiration = MINUTE * 60;
            demand.buffer = MINUTE * 20;
            ((*data_key).to_owned(), demand)
        });
        let held = pods
            .iter()
            .chain(refused)
            .map(|data_key| (*data_key).to_owned());
        let demand = NamespaceDemand {
            secrets: [(POD_SECRET.to_owned(), keys.collect())].into(),
            held: [(POD_SECRET.to_owned(), held.collect())].into(),
            ..NamespaceDemand::default()
        };
        self.demands.send_modify(|demands| {
            demands.namespaces.insert("shop".into(), Arc::new(demand));
        });
    }

    async fn own_secret(&self) -> Option<StoredSecret> {
        self.store.read("shop", POD_SECRET).await.unwrap()
    }

    async fn own_value(&self, data_key: &str) -> Option<String> {
        let secret = self.own_secret().await?;
        let value = secret.data.get(data_key)?;
        Some(String::from_utf8(value.to_vec()).unwrap())
    }

    async fn own_record(&self) -> Record {
        let secret = self.own_secret().await;
        secret.map_or_else(Record::default, |secret| Record::of(&secret).unwrap())
    }

    /// Waits for the key of a pod.
    async fn own_key(&self, data_key: &str) -> String {
        until("the key of a pod", async || self.own_value(data_key).await).await
    }

    /// Advances the clock by minutes until a pod is known to have joined.
    async fn until_joined(&self, data_key: &str) {
        until("word that the pod has joined", async || {
            self.clock.advance(MINUTE);
            tokio::time::sleep(Duration::from_millis(20)).await;
            let record = self.own_record().await;
            record.keys.get(data_key)?.joined_with.map(drop)
        })
        .await;
    }
}

#[tokio::test]
async fn each_pod_gets_a_key_that_works_once() {
    let world = World::new().await;
    let _process = world.start("a");
    world.own_keys(&TWO, &[]);
    let values = [world.own_key(TWO[0]).await, world.own_key(TWO[1]).await];
    assert_ne!(values[0], values[1]);
    let issued = world.headscale.issued();
    let ids: BTreeSet<_> = issued.iter().map(|key| key.id).collect();
    assert_eq!(ids.len(), 2, "made once each");
    let end = world.clock.now() + MINUTE * 61;
    for key in &issued {
        assert_eq!(key.user.as_deref(), Some("shop.api"));
        assert!(!key.reusable && key.ephemeral && key.expiration < end);
    }
    assert!(world.headscale.join(&values[0], "api").is_some());
    assert!(world.headscale.join(&values[0], "api").is_none());
    assert!(world.headscale.join(&values[1], "api").is_some());
}

#[tokio::test]
async fn a_used_key_stays_while_its_pod_lives_and_nothing_takes_its_place() {
    let world = World::new().await;
    let process = world.start("a");
    world.own_keys(&TWO, &[]);
    let value = world.own_key(TWO[0]).await;
    let waiting = world.own_key(TWO[1]).await;
    world.headscale.join(&value, "api").unwrap();
    world.until_joined(TWO[0]).await;
    // The other one never joins: it always finds a valid key.
    let renewed = until("another key for the pod that waits", async || {
        world.clock.advance(MINUTE);
        tokio::time::sleep(Duration::from_millis(20)).await;
        let value = world.own_value(TWO[1]).await?;
        (value != waiting && world.headscale.accepts(&value)).then_some(value)
    })
    .await;
    assert!(world.headscale.join(&renewed, "api").is_some());
    world.until_joined(TWO[1]).await;
    let mints = world.mints();
    // A process that knows only the Secret finds nothing to do for days.
    drop(process);
    let _process = world.start("b");
    for _ in 0..5 {
        let passes = world.headscale.calls(Call::ListPreAuthKeys);
        until("a pass", async || {
            // A pass that was running when the clock was moved delays the next one.
            world.clock.advance(DAY);
            tokio::time::sleep(Duration::from_millis(20)).await;
            (world.headscale.calls(Call::ListPreAuthKeys) > passes).then_some(())
        })
        .await;
    }
    assert_eq!(world.mints(), mints);
    let kept = [world.own_value(TWO[0]).await, world.own_value(TWO[1]).await];
    assert_eq!(
        kept,
        [Some(value), Some(renewed)],
        "a container may start again"
    );
}

#[tokio::test]
async fn the_key_of_a_pod_that_is_gone_is_ended_and_taken_out() {
    let world = World::new().await;
    let _process = world.start("a");
    world.own_keys(&TWO, &[]);
    let (gone, there) = (world.own_key(TWO[0]).await, world.own_key(TWO[1]).await);
    world.own_keys(&TWO[1..], &[]);
    until("a note", async || {
        let record = world.own_record().await;
        record.keys.get(TWO[0])?.unused_since.map(drop)
    })
    .await;
    assert!(
        world.headscale.accepts(&gone),
        "its kubelet may not know yet"
    );
    world.clock.advance(MINUTE * 10);
    until("its end", async || {
        let record = world.own_record().await;
        let over = world.own_value(TWO[0]).await.is_none() && !record.keys.contains_key(TWO[0]);
        (over && !world.headscale.accepts(&gone)).then_some(())
    })
    .await;
    assert!(world.headscale.accepts(&there));
    assert_eq!(world.own_value(TWO[1]).await, Some(there));
}

#[tokio::test]
async fn a_pod_that_policy_refuses_by_now_keeps_its_key() {
    let world = World::new().await;
    let process = world.start("a");
    world.own_keys(&TWO, &[]);
    let value = world.own_key(TWO[0]).await;
    world.own_key(TWO[1]).await;
    world.own_keys(&TWO[1..], &TWO[..1]);
    drop(process);
    world.clock.advance(DAY);
    let _process = world.start("b");
    until("another key for the pod that waits", async || {
        (world.mints() > 2).then_some(())
    })
    .await;
    assert_eq!(world.own_value(TWO[0]).await, Some(value));
    assert_eq!(world.own_record().await.keys[TWO[0]].unused_since, None);
}

#[tokio::test]
async fn the_next_to_lead_makes_no_second_key_and_ends_one_that_nobody_wrote_down() {
    let world = World::new().await;
    let process = world.start("a");
    world.own_keys(&TWO[..1], &[]);
    let value = world.own_key(TWO[0]).await;
    drop(process);
    // The previous one died between creating a key and writing it: it is in no Secret.
    let orphan = world.key_of_another("shop.web", &owner_tag("web")).await;
    world.clock.advance(MINUTE * 11);
    let _process = world.start("b");
    until("the end of the orphan", async || {
        (!world.headscale.accepts(&orphan)).then_some(())
    })
    .await;
    assert!(world.headscale.accepts(&value), "a Secret knows this one");
    assert_eq!(world.own_value(TWO[0]).await, Some(value));
}

#[tokio::test]
async fn a_death_between_making_and_writing_leaves_one_key_alive() {
    let world = World::new().await;
    world
        .headscale
        .break_calls(Some(Call::CreatePreAuthKey), Fault::CutBody);
    let process = world.start("a");
    world.own_keys(&TWO[..1], &[]);
    until("a key whose answer was lost", async || {
        (!world.headscale.issued().is_empty()).then_some(())
    })
    .await;
    drop(process);
    world.headscale.mend();
    world.clock.advance(MINUTE * 3);
    let _process = world.start("b");
    let value = world.own_key(TWO[0]).await;
    until("one key", async || {
        world.clock.advance(Duration::from_secs(5));
        tokio::time::sleep(Duration::from_millis(20)).await;
        (world.alive().len() == 1).then_some(())
    })
    .await;
    assert!(world.headscale.accepts(&value));
}

#[tokio::test]
async fn of_pods_with_own_keys_the_very_one_is_told_of_whose_node_is_gone() {
    let (log, _guard) = Log::listen();
    let world = World::new().await;
    let _process = world.start("a");
    world.own_keys(&TWO, &[]);
    let [first, second] = [world.own_key(TWO[0]).await, world.own_key(TWO[1]).await];
    let fleet = |(uid, data_key): (u128, &&str)| ReplicaGroup {
        control_plane: "default".into(),
        user: "shop.api".into(),
        service: "api".into(),
        secret: POD_SECRET.into(),
        data_key: (*data_key).into(),
        hostname: Some("api".into()),
        pods: vec![PodRef {
            created: world.clock.now(),
            uid,
            name: format!("api-{uid}").into(),
        }],
    };
    let fleets: Vec<_> = (0..).zip(&TWO).map(fleet).collect();
    world.demands.send_modify(|demands| {
        let shop = demands.namespaces.get_mut("shop").unwrap();
        let guest = ("default".to_owned(), "api".to_owned());
        let shop = Arc::make_mut(shop);
        (shop.replica_groups, shop.expected_nodes) = (fleets, [(guest, 2)].into());
    });
    world.headscale.join(&first, "api").unwrap();
    let node = world.headscale.join(&second, "api").unwrap();
    world.looks_until("Joined", 2).await;
    assert!(world.headscale.remove_node(node));
    world.looks_until("Lost", 1).await;
    let told = until("an Event", async || {
        let events = log.lines("Event").into_iter();
        let lost = events.filter(|event| event["reason"] == "Lost");
        Some(Vec::from_iter(lost)).filter(|lost| !lost.is_empty())
    })
    .await;
    let [event] = &told[..] else {
        panic!("{told:?}");
    };
    assert_eq!(event["object"], "api-1");
    let note = event["note"].as_str().unwrap();
    assert!(note.contains("kubectl delete pod -n shop api-1"), "{note}");
}
