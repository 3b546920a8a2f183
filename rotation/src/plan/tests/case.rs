//! One Secret whose key is in force, for each test to change. Tests.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::*;
use crate::owner::{KeyHolder, KeyUser, ServiceOwner};

pub(super) const KEY: &str = "api-authkey";

/// One Secret with one demanded key in force; each case changes what it tests.
pub(super) struct Case {
    pub(super) ownership: Ownership,
    pub(super) key: KeyRecord,
    pub(super) recreated: bool,
    pub(super) bytes: usize,
    /// Other keys in its record, by data key.
    pub(super) others: BTreeMap<String, KeyRecord>,
    pub(super) filled: bool,
    pub(super) value: Option<StoredValue>,
    pub(super) requests: Requests,
    pub(super) demand: BTreeMap<String, KeyDemand>,
    pub(super) of_pods: bool,
    pub(super) held: BTreeSet<String>,
    pub(super) over_quota: BTreeSet<String>,
    pub(super) excess: usize,
    pub(super) synced: bool,
    pub(super) issued: Option<Vec<PreAuthKey>>,
    pub(super) truncated: bool,
    pub(super) online: Vec<(KeyHolder, String)>,
    pub(super) process: Process,
    pub(super) rotation: Rotation,
}

impl Case {
    pub(super) fn new() -> Self {
        let mut key = KeyRecord::new("api", "default");
        key.current = Some(made(7));
        Self {
            ownership: Ownership::Ours,
            key,
            recreated: false,
            bytes: 0,
            others: BTreeMap::new(),
            filled: true,
            value: None,
            requests: Requests::default(),
            demand: BTreeMap::from([(KEY.to_owned(), demand())]),
            of_pods: false,
            held: BTreeSet::new(),
            over_quota: BTreeSet::new(),
            excess: 0,
            synced: true,
            issued: None,
            truncated: false,
            online: Vec::new(),
            process: Process {
                writer: "me".into(),
                intent_ttl: Duration::from_secs(120),
                live: BTreeSet::from(["live".to_owned()]),
                beside: BTreeSet::from(["beside".to_owned()]),
                held: BTreeMap::new(),
            },
            rotation: Rotation {
                overlap: Duration::from_secs(3_600),
                paused: false,
                max_services_per_namespace: 200,
                ..Rotation::default()
            },
        }
    }

    pub(super) fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    pub(super) fn plan(&self, now: Timestamp) -> Plan {
        let mut keys = self.others.clone();
        keys.insert(KEY.to_owned(), self.key.clone());
        let record = Record {
            keys,
            ..Record::default()
        };
        let issued = self.issued.as_ref().map(|keys| IssuedKeys {
            keys: Arc::new(keys.iter().map(|key| (key.id, key.clone())).collect()),
            truncated: self.truncated,
            users: Arc::new(users()),
            online: self.online.iter().cloned().collect(),
        });
        let view = SecretView {
            namespace: "shop",
            ownership: self.ownership,
            record: &record,
            recreated: self.recreated,
            bytes: self.bytes,
            filled: &self.filled.then(|| KEY.to_owned()).into_iter().collect(),
            values: &self
                .value
                .iter()
                .map(|value| (KEY.to_owned(), value.clone()))
                .collect(),
            requests: &self.requests,
            demand: &self.demand,
            of_pods: self.of_pods,
            held: &self.held,
            over_quota: &self.over_quota,
            excess: self.excess,
            synced: self.synced,
            issued: &issued
                .map(|issued| ("default".to_owned(), issued))
                .into_iter()
                .collect(),
            process: &self.process,
        };
        plan(now, &view, &self.rotation)
    }

    pub(super) fn request(&mut self, replaces: u64) {
        let (replaces, revoke) = (KeyId::from(replaces), true);
        self.requests.add(KEY, RotationRequest { replaces, revoke });
    }

    pub(super) fn steps(&self, now: i64) -> Vec<Step> {
        self.plan(at(now)).steps
    }
}

/// User 1 was created for this service, 2 is a person's, 3 was created for another namespace's, 4 is adopted.
pub(super) fn users() -> BTreeMap<UserId, KeyUser> {
    let user = |id, name: &str, owner: Option<(&str, &str)>| {
        let user = KeyUser {
            name: name.into(),
            owner: owner.map(|(namespace, service)| ServiceOwner::new(namespace, service)),
            created: None,
        };
        (UserId::from(id), user)
    };
    BTreeMap::from([
        user(1, "any name", Some(("shop", "api"))),
        user(3, "shop.api", Some(("other", "api"))),
        user(4, "shop.api", None),
    ])
}

pub(super) fn demand() -> KeyDemand {
    KeyDemand {
        service: "api".into(),
        control_plane: "default".into(),
        asked: asked(),
        expiration: Duration::from_secs(90 * 86_400),
        buffer: Duration::from_secs(10 * 86_400),
        pods: 1,
        differing: 0,
        since: at(0),
        hostname: None,
    }
}

pub(super) fn asked() -> KeySpec {
    KeySpec {
        user: "shop.api".into(),
        tags: Vec::new(),
        reusable: true,
        ephemeral: true,
    }
}

pub(super) fn made(id: u64) -> Made {
    Made {
        origin: crate::record::Origin::Ours,
        id: KeyId::from(id),
        created: at(0),
        expires: at(90 * DAY),
        asked: asked(),
    }
}
