//! A tenant that writes anything into the Secret of its own namespace, and knows every id and expiry at Headscale. Tests.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use sidescale_core::objects::PreAuthKey;
use sidescale_core::secret::{SecretRef, StoredSecret};
use sidescale_rotation::demand::{Demands, NamespaceDemand};
use sidescale_rotation::record::DATA_KEY as RECORD;
use sidescale_webhook::profile::Policy;
use zeroize::Zeroizing;

use super::doors::Door;
use super::episode::{demands, service};
use super::process::Process;
use super::world::{Random, SECRET, World};
use crate::metrics::Metrics;

const SECOND: Duration = Duration::from_secs(1);

/// The tenant's namespace, and its one service.
const EVIL: &str = "evil";
const EVIL_KEY: &str = "s0-authkey";

/// Number of services of other tenants.
const OTHERS: usize = 8;

struct Hostile {
    door: Door,
    process: Process,
    demands: Demands,
    secret: SecretRef,
    random: Random,
}

impl Hostile {
    fn new(seed: u64) -> Self {
        let start = Timestamp::from_second(1_700_000_000).unwrap();
        let mut policy = Policy::for_login_server("https://headscale.example.org").unwrap();
        policy.rotation.overlap = SECOND * 60;
        let door = Door::new(World::new(seed, start, policy.rotation.overlap));
        let mut services: Vec<_> = (0..OTHERS).map(service).collect();
        for key in &mut services {
            key.expiration = SECOND * 3_600 * 24 * 90;
        }
        let mut demands = demands(&services);
        let mut own = service(0);
        own.asked.user = format!("{EVIL}.s0");
        let own = NamespaceDemand {
            secrets: [(
                SECRET.to_owned(),
                BTreeMap::from([(EVIL_KEY.to_owned(), own)]),
            )]
            .into(),
            ..NamespaceDemand::default()
        };
        demands.namespaces.insert(EVIL.into(), Arc::new(own));
        let metrics = Arc::new(Metrics::new().unwrap());
        let none = SignedDuration::ZERO;
        let process = Process::start(&door, &Arc::new(policy), &metrics, &demands, none);
        let mut hostile = Self {
            door,
            process,
            demands,
            secret: SecretRef::new(EVIL, SECRET),
            random: Random::new(seed),
        };
        hostile.work();
        assert_eq!(hostile.door.world().created(), OTHERS + 1);
        hostile.door.world().hostile = Some(EVIL.to_owned());
        hostile
    }

    fn work(&mut self) {
        for _ in 0..10_000 {
            let now = self.door.world().now;
            if !self.process.begin(now) {
                return;
            }
            self.process.go_on(0);
        }
        panic!("the process does not come to rest");
    }

    /// Writes the tenant's next attempt.
    fn forge(&mut self) {
        let mut world = self.door.world();
        let keys = world.keys();
        let absent = || StoredSecret::absent(EVIL, SECRET);
        let mut secret = world.read(EVIL, SECRET).unwrap_or_else(absent);
        let mut pick = |most: u64| self.random.below(most);
        let kind = pick(8);
        if kind == 0 {
            // A complete copy of another tenant's Secret.
            let from = format!("n{}", pick(6));
            if let Some(copy) = world.read(&from, SECRET) {
                secret.data = copy.data;
            }
        } else {
            let document = forged(&keys, kind, &mut pick);
            let document = Zeroizing::new(document.into_bytes());
            secret.data.insert(RECORD.to_owned(), document);
        }
        if pick(4) == 0 {
            let id = keys[usize::try_from(pick(keys.len() as u64)).unwrap()].id.0;
            let request = json!({EVIL_KEY: {"replaces": id, "revoke": true}}).to_string();
            let annotation = sidescale_rotation::request::ANNOTATION;
            secret.annotations.insert(annotation.to_owned(), request);
        }
        secret.writer = Some("tenant".to_owned());
        world.put(secret);
        drop(world);
        *self.demands.changes.entry(self.secret.clone()).or_default() += 1;
        self.process.take(&self.demands);
    }
}

/// A record forged by the tenant from what is at Headscale.
fn forged(keys: &[PreAuthKey], kind: u64, pick: &mut dyn FnMut(u64) -> u64) -> String {
    let past = "2020-01-01T00:00:00Z";
    let previous = |key: &PreAuthKey| json!({"id": key.id.0, "expireAt": past, "expires": key.expiration, "revoked": true});
    let asked = json!({"user": "n1.s1", "tags": [], "reusable": true, "ephemeral": true});
    let with = |mut value: Value| {
        for (field, asked) in asked.as_object().unwrap() {
            value[field] = asked.clone();
        }
        value
    };
    let plane = ["default", "other"][usize::try_from(pick(2)).unwrap()];
    let (service, data_key) = [
        ("s0", EVIL_KEY),
        ("x", "x-authkey"),
        ("s1", "s1-authkey"),
        ("s0", "s0_other-authkey"),
    ][usize::try_from(pick(4)).unwrap()];
    let victim = &keys[usize::try_from(pick(keys.len() as u64)).unwrap()];
    let current = |key: &PreAuthKey| {
        with(json!({"id": key.id.0, "created": past, "expires": key.expiration}))
    };
    let entry = match kind {
        1 => json!({"previous": keys.iter().map(previous).collect::<Vec<_>>()}),
        2 => {
            let many = (0..20_000).map(|n| &keys[n % keys.len()]);
            json!({"previous": many.map(previous).collect::<Vec<_>>()})
        }
        3 => json!({"current": current(victim)}),
        4 => {
            let intent =
                json!({"op": "a", "writer": "b", "startedAt": past, "expires": victim.expiration});
            json!({"abandoned": [{"since": past, "intent": with(intent)}]})
        }
        5 => {
            json!({"lent": keys.iter().map(|key| key.id.0).collect::<Vec<_>>(), "current": current(victim)})
        }
        6 => return r#"{"version":2}"#.to_owned(),
        _ => json!({"unusedSince": past, "current": current(victim), "joinedWith": victim.id.0}),
    };
    let mut entry = entry;
    entry["service"] = json!(service);
    entry["controlPlane"] = json!(plane);
    json!({"version": 1, "keys": {data_key: entry}}).to_string()
}

#[test]
fn whatever_a_tenant_writes_no_key_of_anybody_else_is_expired() {
    for seed in 0..4 {
        let mut hostile = Hostile::new(seed);
        for _ in 0..60 {
            hostile.forge();
            hostile.work();
            let by = hostile.random.below(400);
            hostile
                .door
                .world()
                .pass(SECOND * u32::try_from(by).unwrap());
            hostile.work();
        }
        // The others still have the keys that they began with; the world has checked that these work.
        let world = hostile.door.world();
        let of_others = world.keys().into_iter().filter(|key| {
            let users = world.users();
            let user = users.iter().find(|user| Some(user.id) == key.user);
            user.is_some_and(|user| !user.name.starts_with(EVIL))
        });
        assert_eq!(of_others.count(), OTHERS);
    }
}
