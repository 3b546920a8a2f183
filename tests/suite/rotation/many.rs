//! A thousand services at once, and a leader that dies in the middle.

use super::*;

const NAMESPACES: usize = 10;
const SERVICES: usize = 100;

impl World {
    /// Sets pods for this many services in this many namespaces.
    pub(super) fn demand_in(&self, namespaces: usize, services: usize) {
        let keys = (0..services).map(|n| {
            let service = format!("s{n}");
            (format!("{service}-authkey"), key_demand(&service))
        });
        let keys: std::collections::BTreeMap<_, _> = keys.collect();
        self.demands.send_modify(|demands| {
            for n in 0..namespaces {
                let mut keys = keys.clone();
                for demand in keys.values_mut() {
                    demand.asked.user = format!("n{n}.{}", demand.service);
                }
                let demand = NamespaceDemand {
                    secrets: [(SECRET.to_owned(), keys)].into(),
                    ..NamespaceDemand::default()
                };
                demands
                    .namespaces
                    .insert(format!("n{n}").into(), Arc::new(demand));
            }
        });
    }

    /// Returns the values that pods read in these namespaces, and the number of open or abandoned intents there.
    pub(super) async fn everywhere(&self, namespaces: usize) -> (Vec<String>, usize) {
        let (mut values, mut unsettled) = (Vec::new(), 0);
        for n in 0..namespaces {
            let secret = self.store.read(&format!("n{n}"), SECRET).await.unwrap();
            let record = secret
                .as_ref()
                .map_or_else(Record::default, |secret| Record::of(secret).unwrap());
            let data = secret.map(|secret| secret.data).unwrap_or_default();
            let open = record.keys.values();
            unsettled += open
                .map(|key| usize::from(key.intent.is_some()) + key.abandoned.len())
                .sum::<usize>();
            let of_pods = data.iter().filter(|(name, _)| name.ends_with("-authkey"));
            values.extend(of_pods.map(|(_, value)| String::from_utf8(value.to_vec()).unwrap()));
        }
        values.retain(|value| !value.is_empty());
        values.sort();
        (values, unsettled)
    }
}

#[tokio::test]
async fn a_leader_that_dies_amid_a_thousand_demands_leaves_one_key_each() {
    let world = World::new().await;
    let first = world.start("first");
    world.demand_in(NAMESPACES, SERVICES);
    let minted = async |count: u64| {
        until("keys", async || (world.mints() >= count).then_some(())).await;
    };
    minted(300).await;
    // These are created, and the answers get lost.
    let call = Some(Call::CreatePreAuthKey);
    world.headscale.break_calls(call, Fault::CutBody);
    minted(world.mints() + 4).await;
    drop(first);
    world.headscale.mend();
    let (written, unsettled) = world.everywhere(NAMESPACES).await;
    assert!(written.len() < NAMESPACES * SERVICES, "all was done before");
    assert!(unsettled >= 4, "{unsettled} intents");
    let lost = world.alive().len() - written.len();
    assert!(lost >= 4, "{lost} keys that nobody knows");

    // The next leader comes long after the intents were written.
    world.clock.advance(Duration::from_secs(60));
    let _second = world.start("second");
    let all = NAMESPACES * SERVICES;
    let began = Instant::now();
    let values = loop {
        let (values, unsettled) = world.everywhere(NAMESPACES).await;
        // Calls in progress must not look as if they took a minute.
        let step = if values.len() < all { 1 } else { 20 };
        world.clock.advance(Duration::from_secs(step));
        tokio::time::sleep(Duration::from_millis(100)).await;
        if values.len() == all && unsettled == 0 && world.alive().len() == all {
            break values;
        }
        assert!(
            began.elapsed() < Duration::from_secs(60),
            "{} keys in Secrets, {unsettled} intents unsettled, {} keys alive",
            values.len(),
            world.alive().len()
        );
    };
    let alive = world.alive().into_iter();
    let mut alive: Vec<_> = alive.map(|key| key.value.expose().to_owned()).collect();
    alive.sort();
    assert!(
        alive == values,
        "other keys are alive than those in Secrets"
    );
    // Keys in a Secret when the first one died are still there: no service got another key.
    assert!(written.iter().all(|value| values.contains(value)));
}

/// New pods of a namespace wait for its other jobs: each expires few of many old keys.
#[tokio::test]
async fn of_many_old_keys_each_job_expires_a_few() {
    let world = World::new().await;
    let _process = world.start("a");
    let services: Vec<String> = (0..12).map(|n| format!("s{n}")).collect();
    let services: Vec<&str> = services.iter().map(String::as_str).collect();
    let old_keys = async || {
        let keys = world.record().await.keys;
        keys.values().map(|key| key.previous.len()).sum::<usize>()
    };
    world.demand(&services, |_| {});
    for service in &services {
        world.key(service).await;
    }
    world.demand(&services, |demand| {
        demand.asked.tags = vec!["tag:new".into()];
    });
    until("an old key of each", async || {
        (old_keys().await == services.len()).then_some(())
    })
    .await;
    let slow = Fault::Slow(Duration::from_millis(30));
    world
        .headscale
        .break_calls(Some(Call::ExpirePreAuthKey), slow);
    world.clock.advance(world.policy.rotation.overlap * 2);
    until("a Secret with a part of them", async || {
        let left = old_keys().await;
        (0 < left && left < services.len()).then_some(())
    })
    .await;
    until("a Secret with none", async || {
        (old_keys().await == 0).then_some(())
    })
    .await;
}
