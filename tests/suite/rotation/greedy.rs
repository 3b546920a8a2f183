//! A namespace that asks for far more than its share, and a thousand services that need a key at once for a legitimate reason.

use std::collections::{BTreeMap, BTreeSet};

use sidescale_webhook::identity::{POD_SECRET, pod_data_key};

use super::*;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);

/// Speed of the clock. In a soak keys expire, rows are deleted and buckets are filled for hours; any faster, the
/// calls that delete rows, which take real time, would fall behind as they never do in an hour of a real clock.
fn faster() -> f64 {
    if number(0, 1) == 0 { 60.0 } else { 20.0 }
}

/// Time that a real Headscale takes to create a key.
const CALL: Duration = Duration::from_millis(60);

/// Maximum rows of one namespace at a Headscale.
const MOST_ROWS: usize = 5_000;

/// Maximum additional time that another namespace waits for its first key.
const LONGER: Duration = Duration::from_secs(1);

/// Returns the first number in `make test`, whose build is not optimised; the second in `make soak`.
fn number(test: usize, soak: usize) -> usize {
    let is_soak = std::env::var_os("SIDESCALE_SOAK").is_some_and(|value| !value.is_empty());
    if is_soak { soak } else { test }
}

/// Returns services whose tags change each time, and pods, a quarter of them new each time.
fn greed(time: usize) -> NamespaceDemand {
    let (services, pods) = (number(1_000, 10_000), number(200, 2_000));
    let shared = (0..services).map(|n| {
        let service = format!("s{n}");
        let mut demand = key_demand(&service);
        demand.asked.user = format!("greedy.{service}");
        demand.asked.tags = vec![format!("tag:t{time}")];
        (demand.expiration, demand.buffer) = (HOUR, MINUTE * 40);
        (data_key(&service, "default"), demand)
    });
    let pods = (time * pods / 4..time * pods / 4 + pods).map(|n| {
        let mut demand = key_demand("job");
        demand.asked.user = "greedy.job".to_owned();
        demand.asked.reusable = false;
        (demand.expiration, demand.buffer) = (MINUTE * 5, MINUTE * 4);
        (pod_data_key("job", &format!("{n:012x}"), "default"), demand)
    });
    let secrets = [
        (SECRET.to_owned(), shared.collect()),
        (POD_SECRET.to_owned(), pods.collect()),
    ];
    NamespaceDemand {
        secrets: secrets.into(),
        ..NamespaceDemand::default()
    }
}

impl World {
    /// Returns how long so many new namespaces wait for their first key, one after the other.
    async fn first_keys(&self, name: &str, count: usize) -> Vec<Duration> {
        let mut waits = Vec::new();
        for n in 0..count {
            let namespace = format!("{name}-{n}");
            let mut demand = key_demand("api");
            demand.asked.user = format!("{namespace}.api");
            let keys: BTreeMap<_, _> = [("api-authkey".to_owned(), demand)].into();
            let demand = NamespaceDemand {
                secrets: [(SECRET.to_owned(), keys)].into(),
                ..NamespaceDemand::default()
            };
            let asked = Instant::now();
            self.demands.send_modify(|demands| {
                let namespaces = &mut demands.namespaces;
                namespaces.insert(namespace.as_str().into(), Arc::new(demand));
            });
            until("a first key", async || {
                let secret = self.store.read(&namespace, SECRET).await.unwrap()?;
                let value = secret.data.get("api-authkey")?;
                (!value.is_empty()).then_some(())
            })
            .await;
            waits.push(asked.elapsed());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        waits.sort();
        waits
    }

    /// Returns the rows of the greedy namespace.
    fn rows(&self) -> usize {
        let issued = self.headscale.issued().into_iter();
        let greedy = |user: &String| user.starts_with("greedy.");
        issued
            .filter(|key| key.user.as_ref().is_some_and(greedy))
            .count()
    }
}

/// Returns the wait that this percentage does not exceed.
fn percentile(sorted: &[Duration], of: usize) -> Duration {
    sorted[(sorted.len() * of).div_ceil(100) - 1]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_that_asks_for_far_too_much_delays_no_other() {
    let world = World::faster(faster()).await;
    let call = Some(Call::CreatePreAuthKey);
    world.headscale.break_calls(call, Fault::Slow(CALL));
    let _process = world.start("a");
    let quiet = world.first_keys("quiet", number(40, 1_000)).await;
    let mints = world.mints();
    let greedy = async {
        let mut most = 0;
        for time in 0.. {
            world.demands.send_modify(|demands| {
                let namespaces = &mut demands.namespaces;
                namespaces.insert("greedy".into(), Arc::new(greed(time)));
            });
            tokio::time::sleep(Duration::from_secs(1)).await;
            most = world.rows().max(most);
            assert!(most <= MOST_ROWS, "{most} rows");
        }
        most
    };
    // Ten minutes in a soak.
    let beside = tokio::select! {
        waits = world.first_keys("beside", number(40, 1_500)) => waits,
        most = greedy => panic!("{most}"),
    };
    let created = world.mints() - mints - beside.len() as u64;
    println!(
        "first keys, p99: {:?} of {}, and {:?} of {} beside a namespace that had {created} keys created and has {} rows",
        percentile(&quiet, 99),
        quiet.len(),
        percentile(&beside, 99),
        beside.len(),
        world.rows()
    );
    assert!(created > 100, "{created}: it was hardly greedy");
    // Beside other tests the slowest of some dozens means little: they are compared in a soak.
    let of = number(50, 99);
    assert!(percentile(&beside, of) <= percentile(&quiet, of) + LONGER);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_services_have_keys_again_after_headscale_lost_its_database() {
    let world = World::new().await;
    let _process = world.start("a");
    let (namespaces, services) = (5, 200);
    world.demand_in(namespaces, services);
    let all = namespaces * services;
    let ready = async || {
        let began = Instant::now();
        loop {
            let (values, _) = world.everywhere(namespaces).await;
            let alive = world.alive();
            let alive: BTreeSet<_> = alive.iter().map(|key| key.value.expose()).collect();
            let accepted = values.iter().filter(|value| alive.contains(value.as_str()));
            if accepted.count() == all {
                return values;
            }
            let waited = began.elapsed();
            assert!(
                waited < MINUTE,
                "{} of {all} keys: {}",
                alive.len(),
                world.detail()
            );
            world.clock.advance(Duration::from_secs(1));
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    let before = ready().await;
    world.headscale.forget();
    let api_key = world.headscale.create_api_key(DAY);
    world.give_api_key(api_key.expose()).await;
    let after = ready().await;
    assert!(before.iter().all(|value| !after.contains(value)));
    let throttled = world
        .metrics
        .rotation
        .keys
        .with_label_values(&["Throttled"]);
    assert_eq!(throttled.get(), 0);
    assert_eq!(world.alive().len(), all);
}
