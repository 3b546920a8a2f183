//! Events and metrics about a key that was replaced, and about one that should have been.

use serde_json::Value;
use sidescale_rotation::workload::{OwnerKind, Workload};

use super::messages::Log;
use super::request::edit;
use super::*;

const HOUR: Duration = Duration::from_secs(3_600);

impl World {
    /// Sets the demand of service `api`, whose pods a Deployment creates.
    fn demand_of_a_deployment(&self) {
        let user = Workload {
            kind: OwnerKind::Deployment,
            name: "api".into(),
            uid: None,
        };
        let key = "api-authkey".to_owned();
        let demand = NamespaceDemand {
            secrets: [(SECRET.to_owned(), [(key.clone(), key_demand("api"))].into())].into(),
            users: [((SECRET.to_owned(), key), [user].into())].into(),
            ..NamespaceDemand::default()
        };
        self.demands.send_modify(|demands| {
            demands.namespaces.insert("shop".into(), Arc::new(demand));
        });
    }

    /// Returns a metric of the key, in seconds since the start.
    fn shown(&self, metric: &str) -> Option<i64> {
        let text = String::from_utf8(self.metrics.text().unwrap()).unwrap();
        let line =
            format!("{metric}{{key=\"api-authkey\",namespace=\"shop\",secret=\"{SECRET}\"}} ");
        let value = text.lines().find_map(|text| text.strip_prefix(&line))?;
        let value: f64 = value.parse().unwrap();
        #[expect(clippy::cast_possible_truncation, reason = "whole seconds")]
        Some(value as i64 - 1_700_000_000)
    }
}

/// Waits for an Event with that reason, and returns it.
async fn event(log: &Log, reason: &str) -> Value {
    until(&format!("an Event {reason}"), async || {
        let mut events = log.lines("Event").into_iter();
        events.find(|event| event["reason"] == reason)
    })
    .await
}

#[tokio::test]
async fn the_workload_is_told_when_its_key_was_replaced() {
    let (log, _guard) = Log::listen();
    let world = World::new().await;
    let _process = world.start("a");
    world.demand_of_a_deployment();
    let old = world.key("api").await;
    world.clock.advance(DAY * 80 + Duration::from_secs(1));
    world.key_other_than("api", &old).await;
    let event = event(&log, "KeyRotated").await;
    assert_eq!(
        (&event["object"], &event["namespace"]),
        (&"api".into(), &"shop".into())
    );
    let note = event["note"].as_str().unwrap();
    for part in [
        "api-authkey",
        "it was due",
        "stays valid for 1h",
        "valid until 2024-05-02",
    ] {
        assert!(note.contains(part), "{part}: {note}");
    }
    let told = log.lines("Event");
    assert_eq!(told.len(), 1, "a first key is no news: {told:?}");
}

#[tokio::test]
async fn a_key_that_cannot_be_renewed_is_told_when_late_a_week_before_its_end_and_at_its_end() {
    let (log, _guard) = Log::listen();
    let world = World::new().await;
    let _process = world.start("a");
    world.demand_of_a_deployment();
    let old = world.key("api").await;
    let day = i64::try_from(DAY.as_secs()).unwrap();
    until("the metrics", async || {
        world.shown("sidescale_key_due_timestamp_seconds")
    })
    .await;
    // To the minute: these clocks begin 20 s after a full one.
    assert_eq!(
        world.shown("sidescale_key_due_timestamp_seconds"),
        Some(80 * day - 20)
    );
    assert_eq!(
        world.shown("sidescale_key_expiry_timestamp_seconds"),
        Some(90 * day - 20)
    );

    world.headscale.break_calls(None, Fault::Status(503));
    world.clock.advance(DAY * 80 + Duration::from_secs(60));
    until("the trouble", async || {
        world.detail().contains("503").then_some(())
    })
    .await;
    let told = log.whole();
    assert!(
        !told.contains("KeyOverdue"),
        "being due alone is no news: {told}"
    );
    world.clock.advance(HOUR);
    let overdue = event(&log, "KeyOverdue").await;
    assert_eq!(overdue["object"], SECRET);
    let note = overdue["note"].as_str().unwrap();
    assert!(
        note.contains("key api-authkey should have been renewed"),
        "{note}"
    );
    world.clock.advance(DAY * 3);
    event(&log, "KeyExpiring").await;
    world.clock.advance(DAY * 7);
    event(&log, "KeyExpired").await;

    // It recovers without help.
    world.headscale.mend();
    until("a new key", async || {
        world.clock.advance(Duration::from_secs(60));
        tokio::time::sleep(Duration::from_millis(50)).await;
        let value = world.value("api").await?;
        (value != old && world.headscale.accepts(&value)).then_some(())
    })
    .await;
    let due = 160 * day;
    // Metrics computed before the key was written show the old one until the next time.
    until("its metric", async || {
        world.clock.advance(Duration::from_secs(1));
        world
            .shown("sidescale_key_due_timestamp_seconds")
            .filter(|at| *at > due)
    })
    .await;
}

/// Metrics of a former leader would become stale, and look like keys that are not renewed.
#[tokio::test]
async fn whoever_rotates_no_more_shows_no_keys() {
    let world = World::new().await;
    let shutdown = CancellationToken::new();
    let context = Arc::new(world.context("a"));
    let demands = world.demands.subscribe();
    let process = tokio::spawn(controller::run(
        context,
        Memory::default(),
        demands,
        shutdown.clone(),
    ));
    world.demand_of_a_deployment();
    world.key("api").await;
    until("the metrics", async || {
        world.shown("sidescale_key_expiry_timestamp_seconds")
    })
    .await;
    shutdown.cancel();
    process.await.unwrap();
    assert_eq!(world.shown("sidescale_key_expiry_timestamp_seconds"), None);
    assert_eq!(world.shown("sidescale_key_due_timestamp_seconds"), None);
}

/// An expiry that a tenant writes into its Secret's record is not a key's expiry.
#[tokio::test]
async fn a_forged_record_sets_and_silences_no_end() {
    let world = World::new().await;
    let _process = world.start("a");
    world.demand_of_a_deployment();
    world.key("api").await;
    let shown = || world.shown("sidescale_key_expiry_timestamp_seconds");
    let end = until("the metric", async || shown()).await;
    // No replacement can be created.
    let create = Some(Call::CreatePreAuthKey);
    world.headscale.break_calls(create, Fault::Status(503));
    for forged in [Duration::from_secs(3_600), DAY * 3_650] {
        edit(&world, |secret| {
            let mut record = Record::of(secret).unwrap();
            let key = record.keys.get_mut("api-authkey").unwrap();
            let current = key.current.as_mut().unwrap();
            current.expires = sidescale_core::time::after(world.clock.now(), forged);
            let document = record.document().unwrap();
            secret.data.insert(DATA_KEY.to_owned(), document.into());
        })
        .await;
        let before = world.mints();
        until("the attempt to create another", async || {
            world.clock.advance(Duration::from_secs(30));
            (world.mints() > before).then_some(())
        })
        .await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(shown(), Some(end), "{forged:?}");
    }
}
