//! A cluster that tests build piece by piece, and the content of its control plane. Tests.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use sidescale_core::id::{KeyId, NodeId, UserId};
use sidescale_core::key_state::KeyState;
use sidescale_core::objects::{Node, PreAuthKey, User};
use sidescale_core::secret::{SecretRef, StoredSecret};
use sidescale_rotation::demand::{KeyDemand, NamespaceDemand};
use sidescale_rotation::nodes::replicas::{PodRef, ReplicaGroup};
use sidescale_rotation::record::{DATA_KEY, IssuedKey, KeyRecord, KeySpec, Record};
use sidescale_webhook::identity::POD_SECRET;
use sidescale_webhook::profile::Policy;
use zeroize::Zeroizing;

use super::{DAY, at, now, policy};
use crate::commands::status::report::StatusReport;
use crate::commands::status::row::Hints;
use crate::commands::status::table;
use crate::commands::view::held::{PlaneView, ServerSnapshot};
use crate::commands::view::inventory::{Inventory, RotationWarning};

const NAME: &str = "headscale-auth-keys";
const LOGS: &str = "kubectl logs --namespace sidescale";

/// A cluster that tests build piece by piece.
#[derive(Default)]
pub(super) struct World(Inventory);

impl World {
    /// Adds a key that was created on that day, with a life of 90 days.
    pub(super) fn key(mut self, namespace: &str, service: &str, id: u64, day: i64) -> Self {
        let name = secret_ref(namespace);
        let secret = self.0.secrets.entry(name);
        let secret = secret.or_insert_with(|| StoredSecret::absent(namespace, NAME));
        let mut record = Record::of(secret).unwrap();
        let mut key = KeyRecord::new(service, "default");
        key.current = Some(IssuedKey {
            origin: sidescale_rotation::record::Origin::Ours,
            id: KeyId::from(id),
            created: at(day * DAY),
            expires: at((day + 90) * DAY),
            asked: asked(&format!("{namespace}.{service}")),
        });
        let data_key = format!("{service}-authkey");
        record.keys.insert(data_key.clone(), key);
        write(secret, &record);
        secret
            .data
            .insert(data_key, Zeroizing::new(b"value".to_vec()));
        self
    }

    pub(super) fn pods(mut self, namespace: &str, service: &str, pods: usize) -> Self {
        let data_key = format!("{service}-authkey");
        let demand = KeyDemand {
            service: service.into(),
            control_plane: "default".into(),
            asked: asked(&format!("{namespace}.{service}")),
            expiration: Duration::from_secs(90 * 86_400),
            buffer: Duration::from_secs(10 * 86_400),
            pods,
            differing: 0,
            since: at(0),
            hostname: None,
        };
        let of_namespace = self.0.demands.entry(namespace.into()).or_default();
        let of_namespace: &mut NamespaceDemand = Arc::make_mut(of_namespace);
        let of_secret = of_namespace.secrets.entry(NAME.into()).or_default();
        of_secret.insert(data_key.clone(), demand);
        let owners = self
            .0
            .owners
            .entry((secret_ref(namespace), data_key))
            .or_default();
        owners.insert(format!("deployment/{service}"));
        self
    }

    /// Adds the pods of a service, two minutes old; a template makes each pod's name its hostname.
    pub(super) fn fleet(
        mut self,
        namespace: &str,
        service: &str,
        hostname: Option<&str>,
        pods: &[&str],
    ) -> Self {
        let member = |name: &&str| PodRef {
            created: now() - SignedDuration::from_secs(120),
            uid: name
                .bytes()
                .fold(0, |sum, byte| sum * 256 + u128::from(byte)),
            name: (*name).into(),
        };
        let fleet = |hostname: &str, pods: &[&str]| ReplicaGroup {
            control_plane: "default".into(),
            user: format!("{namespace}.{service}"),
            service: service.into(),
            secret: NAME.into(),
            data_key: format!("{service}-authkey"),
            hostname: Some(hostname.into()),
            pods: pods.iter().map(member).collect(),
        };
        let of_namespace = self.0.demands.entry(namespace.into()).or_default();
        let fleets = &mut Arc::make_mut(of_namespace).replica_groups;
        match hostname {
            Some(hostname) => fleets.push(fleet(hostname, pods)),
            None => fleets.extend(pods.iter().map(|pod| fleet(pod, &[pod]))),
        }
        self
    }

    pub(super) fn with(mut self, namespace: &str, change: impl FnOnce(&mut StoredSecret)) -> Self {
        change(self.0.secrets.get_mut(&secret_ref(namespace)).unwrap());
        self
    }

    pub(super) fn note(mut self, namespace: &str, reason: KeyState, text: &str, ago: i64) -> Self {
        let note = RotationWarning {
            reason: reason.as_str().into(),
            text: text.into(),
            at: now() - SignedDuration::from_secs(ago),
        };
        self.0
            .notes
            .entry(secret_ref(namespace))
            .or_default()
            .push(note);
        self
    }

    pub(super) fn report(
        &self,
        policy: &Policy,
        planes: &BTreeMap<String, PlaneView>,
    ) -> StatusReport {
        let hints = Hints {
            logs: LOGS.into(),
            flags: " --namespace tailnet".into(),
        };
        StatusReport::new(now(), &self.0, policy, planes, &hints)
    }

    pub(super) fn table(&self) -> String {
        table::render(now(), &self.report(&policy(), &BTreeMap::new()))
    }
}

/// Returns a control plane with user `shop.api` and its key 7, which `change` modifies.
pub(super) fn held(change: impl FnOnce(&mut PreAuthKey)) -> BTreeMap<String, PlaneView> {
    let user = |id, name: &str| User {
        id: UserId::from(id),
        name: name.into(),
        display_name: format!("sidescale x y {}", name.replace('.', "/")),
        from_provider: false,
        created_at: None,
    };
    let mut key = PreAuthKey {
        prefix: None,
        id: KeyId::from(7),
        user: Some(UserId::from(1)),
        reusable: true,
        ephemeral: true,
        used: true,
        expiration: Some(at(150 * DAY)),
        created_at: None,
        tags: Vec::new(),
    };
    let before = PreAuthKey {
        prefix: None,
        id: KeyId::from(2),
        expiration: Some(at(DAY)),
        ..key.clone()
    };
    change(&mut key);
    let node = |id, online, key, user| Node {
        id: NodeId::from(id),
        name: "api".into(),
        given_name: "api".into(),
        user,
        online,
        pre_auth_key: key,
        tags: Vec::new(),
        created_at: None,
        last_seen: Some(now() - SignedDuration::from_secs(i64::try_from(id).unwrap() * 60)),
        expiry: None,
    };
    let held = ServerSnapshot {
        users: vec![user(1, "shop.api"), user(2, "shop.db")],
        keys: vec![before, key],
        nodes: vec![
            node(1, true, Some(KeyId::from(7)), None),
            node(2, true, Some(KeyId::from(2)), None),
            node(3, true, None, Some(UserId::from(1))),
            node(4, false, Some(KeyId::from(7)), Some(UserId::from(1))),
            node(5, true, None, Some(UserId::from(2))),
            node(6, true, Some(KeyId::from(99)), None),
        ],
    };
    BTreeMap::from([("default".to_owned(), PlaneView::Held(held))])
}

/// Returns keys of single pods: one joined long ago, one is new, one is missing, and one has lost its pod.
pub(super) fn own_keys() -> World {
    let mut world = World::default()
        .key("shop", "web", 7, 60)
        .pods("shop", "web", 1);
    let name = SecretRef::new("shop", POD_SECRET);
    let mut secret = StoredSecret::absent("shop", POD_SECRET);
    let mut record = Record::default();
    let mut demand = NamespaceDemand::clone(&world.0.demands["shop"]);
    let mut wanted = demand.secrets[NAME]["web-authkey"].clone();
    (wanted.service, wanted.asked) = ("api".into(), asked("shop.api"));
    wanted.asked.reusable = false;
    wanted.buffer = Duration::from_secs(1_200);
    for (id, digits, made, joined, wants) in [
        (21, "000000000001", -40 * DAY, true, true),
        (22, "000000000002", -600, false, true),
        (0, "000000000003", 0, false, true),
        (24, "000000000004", -40 * DAY, true, false),
    ] {
        let data_key = format!("api-{digits}-authkey");
        let mut key = KeyRecord::new("api", "default");
        let created = now() + SignedDuration::from_secs(made);
        key.current = Some(IssuedKey {
            id: KeyId::from(id),
            created,
            expires: created + SignedDuration::from_hours(1),
            asked: wanted.asked.clone(),
            origin: sidescale_rotation::record::Origin::Ours,
        });
        key.joined_with = joined.then_some(KeyId::from(id));
        if id > 0 {
            record.keys.insert(data_key.clone(), key);
            let value = Zeroizing::new(b"value".to_vec());
            secret.data.insert(data_key.clone(), value);
        }
        if wants {
            let of_secret = demand.secrets.entry(POD_SECRET.into()).or_default();
            of_secret.insert(data_key.clone(), wanted.clone());
            let owner = ["deployment/api".to_owned()].into();
            world.0.owners.insert((name.clone(), data_key), owner);
        }
    }
    secret.labels = world.0.secrets[&secret_ref("shop")].labels.clone();
    write(&mut secret, &record);
    world.0.secrets.insert(name, secret);
    world.0.demands.insert("shop".into(), Arc::new(demand));
    world
}

fn asked(user: &str) -> KeySpec {
    KeySpec {
        user: user.into(),
        tags: Vec::new(),
        reusable: true,
        ephemeral: true,
    }
}

fn secret_ref(namespace: &str) -> SecretRef {
    SecretRef::new(namespace, NAME)
}

pub(super) fn write(secret: &mut StoredSecret, record: &Record) {
    let document = Zeroizing::new(record.document().unwrap());
    secret.data.insert(DATA_KEY.into(), document);
}
