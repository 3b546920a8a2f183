use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use sidescale_webhook::identity::POD_SECRET;
use sidescale_webhook::profile::Policy;
use zeroize::Zeroizing;

use super::held::{Held, PlaneView};
use super::report::{Hints, Report};
use super::table;
use crate::commands::inventory::{Inventory, Note};
use crate::control_plane::{KeyId, Node, NodeId, PreAuthKey, User, UserId};
use crate::rotation::demand::{KeyDemand, NamespaceDemand, SecretRef};
use crate::rotation::fleet::{Fleet, Member};
use crate::rotation::plane::Trouble;
use crate::rotation::record::{Asked, DATA_KEY, Issued, KeyRecord, Previous, Record};
use crate::rotation::state::State;
use crate::store::StoredSecret;

const DAY: i64 = 86_400;
const NAME: &str = "headscale-auth-keys";
const LOGS: &str = "kubectl logs --namespace sidescale";

/// Day 70.
fn now() -> Timestamp {
    at(70 * DAY)
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn policy() -> Policy {
    Policy::for_login_server("https://headscale.example.com").unwrap()
}

fn asked(user: &str) -> Asked {
    Asked {
        user: user.into(),
        tags: Vec::new(),
        reusable: true,
        ephemeral: true,
    }
}

fn secret_ref(namespace: &str) -> SecretRef {
    SecretRef {
        namespace: namespace.into(),
        name: NAME.into(),
    }
}

/// A cluster that is built piece by piece.
#[derive(Default)]
struct World(Inventory);

impl World {
    /// A key that was made on that day, to live 90.
    fn key(mut self, namespace: &str, service: &str, id: u64, day: i64) -> Self {
        let name = secret_ref(namespace);
        let secret = self.0.secrets.entry(name);
        let secret = secret.or_insert_with(|| StoredSecret::absent(namespace, NAME));
        let document = secret
            .data
            .get(DATA_KEY)
            .map(|document| document.as_slice());
        let mut record = Record::parse(document).unwrap();
        let mut key = KeyRecord::new(service, "default");
        key.current = Some(Issued {
            origin: crate::rotation::record::Origin::Ours,
            id: KeyId(id),
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

    fn pods(mut self, namespace: &str, service: &str, pods: usize) -> Self {
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

    /// The pods of a service, two minutes old; a template makes a hostname of each pod's name.
    fn fleet(
        mut self,
        namespace: &str,
        service: &str,
        hostname: Option<&str>,
        pods: &[&str],
    ) -> Self {
        let member = |name: &&str| Member {
            created: now() - SignedDuration::from_secs(120),
            uid: name
                .bytes()
                .fold(0, |sum, byte| sum * 256 + u128::from(byte)),
            name: (*name).into(),
        };
        let fleet = |hostname: &str, pods: &[&str]| Fleet {
            control_plane: "default".into(),
            user: format!("{namespace}.{service}"),
            service: service.into(),
            secret: NAME.into(),
            data_key: format!("{service}-authkey"),
            hostname: Some(hostname.into()),
            pods: pods.iter().map(member).collect(),
        };
        let of_namespace = self.0.demands.entry(namespace.into()).or_default();
        let fleets = &mut Arc::make_mut(of_namespace).fleets;
        match hostname {
            Some(hostname) => fleets.push(fleet(hostname, pods)),
            None => fleets.extend(pods.iter().map(|pod| fleet(pod, &[pod]))),
        }
        self
    }

    fn with(mut self, namespace: &str, change: impl FnOnce(&mut StoredSecret)) -> Self {
        change(self.0.secrets.get_mut(&secret_ref(namespace)).unwrap());
        self
    }

    fn note(mut self, namespace: &str, reason: State, text: &str, ago: i64) -> Self {
        let note = Note {
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

    fn report(&self, policy: &Policy, planes: &BTreeMap<String, PlaneView>) -> Report {
        let hints = Hints {
            logs: LOGS.into(),
            flags: " --namespace tailnet".into(),
        };
        Report::new(now(), &self.0, policy, planes, &hints)
    }

    fn table(&self) -> String {
        table::render(now(), &self.report(&policy(), &BTreeMap::new()))
    }
}

fn write(secret: &mut StoredSecret, record: &Record) {
    let document = Zeroizing::new(record.document().unwrap());
    secret.data.insert(DATA_KEY.into(), document);
}

fn assert_golden(name: &str, text: &str) {
    let path = format!(
        "{}/tests/messages/status/{name}",
        env!("CARGO_MANIFEST_DIR")
    );
    if std::env::var_os("SIDESCALE_BLESS").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let want = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, want, "{path} differs (SIDESCALE_BLESS=1 writes it)");
}

#[test]
fn shows_every_key_and_what_is_wrong_with_it() {
    let overdue = |secret: &mut StoredSecret| {
        let label = &mut secret.annotations;
        label.insert("sidescale.io/paused".into(), "true".into());
    };
    let world = World::default()
        .key("shop", "api", 7, 60)
        .pods("shop", "api", 3)
        .key("shop", "old", 3, 10)
        .key("idle", "cron", 4, -20)
        .pods("idle", "cron", 1)
        .with("idle", overdue)
        .pods("new", "web", 2)
        .note(
            "new",
            State::NoCredentials,
            "control plane \"default\" has no API key: make one with: x",
            60,
        )
        .note("new", State::Degraded, "long over", 7_200)
        .pods("mute", "web", 1)
        .key("late", "web", 9, -11)
        .pods("late", "web", 1);
    assert_golden("table.txt", &world.table());
    let report = world.report(&policy(), &BTreeMap::new());
    assert_golden(
        "report.json",
        &serde_json::to_string_pretty(&report).unwrap(),
    );
    let unexplained: Vec<_> = report.keys.iter().filter(|key| key.unexplained).collect();
    assert_eq!(unexplained.len(), 1);
    assert_eq!(unexplained[0].namespace, "mute");
}

#[test]
fn an_empty_cluster_and_a_healthy_one_are_short() {
    assert_golden("empty.txt", &World::default().table());
    let healthy = World::default()
        .key("shop", "api", 7, 60)
        .pods("shop", "api", 1);
    assert_golden("healthy.txt", &healthy.table());
}

#[test]
fn a_foreign_secret_counts_only_where_pods_need_it() {
    let foreign = |secret: &mut StoredSecret| {
        secret.labels.clear();
        secret.data.clear();
    };
    let unneeded = World::default()
        .key("shop", "api", 7, 60)
        .with("shop", foreign);
    assert!(unneeded.report(&policy(), &BTreeMap::new()).keys.is_empty());
    let needed = unneeded.pods("shop", "api", 1);
    let report = needed.report(&policy(), &BTreeMap::new());
    assert_eq!(report.keys[0].state, "SecretNotOurs");
    assert!(
        report.keys[0].problems[0]
            .text
            .contains("sidescale.io/adopt")
    );
    let damaged = World::default()
        .key("shop", "api", 7, 60)
        .with("shop", |secret| {
            secret
                .data
                .insert(DATA_KEY.into(), Zeroizing::new(b"{".to_vec()));
        });
    let report = damaged.report(&policy(), &BTreeMap::new());
    assert!(report.keys[0].problems[0].text.contains("cannot be read"));
}

fn held(change: impl FnOnce(&mut PreAuthKey)) -> BTreeMap<String, PlaneView> {
    let user = |id, name: &str| User {
        id: UserId(id),
        name: name.into(),
        display_name: "sidescale x y".into(),
        from_provider: false,
        created_at: None,
    };
    let mut key = PreAuthKey {
        prefix: None,
        id: KeyId(7),
        user: Some(UserId(1)),
        reusable: true,
        ephemeral: true,
        used: true,
        expiration: Some(at(150 * DAY)),
        created_at: None,
        tags: Vec::new(),
    };
    let before = PreAuthKey {
        prefix: None,
        id: KeyId(2),
        expiration: Some(at(DAY)),
        ..key.clone()
    };
    change(&mut key);
    let node = |id, online, key, user| Node {
        id: NodeId(id),
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
    let held = Held {
        users: vec![user(1, "shop.api"), user(2, "shop.db")],
        keys: vec![before, key],
        nodes: vec![
            node(1, true, Some(KeyId(7)), None),
            node(2, true, Some(KeyId(2)), None),
            node(3, true, None, Some(UserId(1))),
            node(4, false, Some(KeyId(7)), Some(UserId(1))),
            node(5, true, None, Some(UserId(2))),
            node(6, true, Some(KeyId(99)), None),
        ],
    };
    BTreeMap::from([("default".to_owned(), PlaneView::Held(held))])
}

#[test]
fn a_key_is_compared_with_what_the_control_plane_holds() {
    type Change = fn(&mut PreAuthKey);
    let world = World::default()
        .key("shop", "api", 7, 60)
        .pods("shop", "api", 3);
    let table: [(Change, Option<&str>); 8] = [
        (|_| {}, None),
        (|key| key.user = None, None),
        (|key| key.id = KeyId(8), Some("is not there any more")),
        (|key| key.expiration = Some(at(DAY)), Some("has ended")),
        (|key| key.expiration = None, Some("has ended")),
        (
            |key| key.expiration = Some(at(149 * DAY)),
            Some("ends at 1970-05-30T00:00:00Z, want 1970-05-31T00:00:00Z"),
        ),
        (
            |key| key.user = Some(UserId(2)),
            Some("belongs to user \"shop.db\", want \"shop.api\""),
        ),
        (
            |key| key.tags = vec!["tag:a".into()],
            Some("gives tags [\"tag:a\"], want []"),
        ),
    ];
    for (change, want) in table {
        let report = world.report(&policy(), &held(change));
        let row = &report.keys[0];
        assert_eq!(row.verified, Some(want.is_none()), "{want:?}");
        assert_eq!(report.unverified(), usize::from(want.is_some()));
        let said = row.problems.first().map(|problem| problem.text.clone());
        let want = want.map(|want| format!("control plane \"default\": key 7 {want}"));
        assert_eq!(said, want);
    }
    let report = world.report(&policy(), &held(|_| {}));
    let fix = world.report(&policy(), &held(|key| key.id = KeyId(8))).keys[0].problems[0]
        .fix
        .clone();
    let want = "sidescale rotate --now shop/api --namespace tailnet (rotation sees it by itself within the hour)";
    assert_eq!(fix.as_deref(), Some(want));
    assert_eq!(
        report.keys[0].nodes_online,
        Some(3),
        "the user's, or by a key of its, and online"
    );
    let nodes = report.keys[0].nodes.as_ref().unwrap();
    let ids: Vec<_> = nodes.iter().map(|node| (node.id.0, node.online)).collect();
    assert_eq!(ids, [(1, true), (2, true), (3, true), (4, false)]);
    let newest = now() - SignedDuration::from_secs(60);
    assert_eq!(report.keys[0].last_seen, Some(newest));
}

#[test]
fn pods_without_a_node_are_named_and_so_is_when_a_node_was_seen() {
    let pods = ["api-a", "api-b", "api-c", "api-d", "api-e", "api-f"];
    let world = World::default()
        .key("shop", "api", 7, 60)
        .pods("shop", "api", 6)
        .fleet("shop", "api", Some("api"), &pods)
        .key("shop", "db", 70, 60)
        .pods("shop", "db", 2)
        .fleet("shop", "db", None, &["db-0", "db-1"])
        .key("shop", "web", 71, 60)
        .pods("shop", "web", 1);
    let mut planes = held(|_| {});
    let report = world.report(&policy(), &planes);
    let said = |report: &Report, row: usize| {
        let problems = report.keys[row].problems.iter();
        let problems = problems.filter(|problem| problem.text.contains("tailnet"));
        problems
            .map(|problem| (problem.text.clone(), problem.fix.clone().unwrap()))
            .collect::<Vec<_>>()
    };
    let logs =
        |pod: &str| format!("kubectl logs --namespace shop {pod} --container tailscale (says why)");
    let some = "2 of 6 pods have no node in the tailnet: some of api-a, api-b, api-c, api-d, api-e and 1 more";
    assert_eq!(said(&report, 0), [(some.to_owned(), logs("api-a"))]);
    let both = "2 of 2 pods have no node in the tailnet: db-0, db-1";
    assert_eq!(said(&report, 1), [(both.to_owned(), logs("db-0"))]);
    assert_eq!(said(&report, 2), [], "nobody knows its pods");
    let table = table::render(now(), &report);
    let cells = |table: &str, service: &str| {
        let line = table.lines().find(|line| line.contains(service)).unwrap();
        line.rsplit("  ")
            .map(str::trim)
            .filter(|cell| !cell.is_empty())
            .take(2)
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(cells(&table, "shop.api"), ["now", "3 of 6"]);
    assert_eq!(cells(&table, "shop.web"), ["-", "0 of 1"]);
    let Some(PlaneView::Held(held)) = planes.get_mut("default") else {
        panic!("nobody was asked");
    };
    for node in &mut held.nodes {
        node.online = false;
    }
    let table = table::render(now(), &world.report(&policy(), &planes));
    assert_eq!(cells(&table, "shop.api"), ["60s ago", "0 of 6"]);
}

#[test]
fn a_control_plane_that_cannot_be_asked_is_the_problem_of_all_its_keys() {
    let trouble = Trouble {
        state: State::InvalidCredentials,
        message: "the API key is refused".into(),
        of_plane: true,
    };
    let planes = BTreeMap::from([("default".to_owned(), PlaneView::Trouble(trouble))]);
    let world = World::default()
        .key("shop", "api", 7, 60)
        .pods("shop", "api", 1);
    let report = world.report(&policy(), &planes);
    assert_eq!(
        (report.unverified(), report.keys[0].state.as_str()),
        (1, "Ready")
    );
    assert_eq!(report.keys[0].problems[0].text, "the API key is refused");
}

#[test]
fn keys_that_go_on_beside_the_current_one_are_named() {
    let world = World::default()
        .key("shop", "api", 7, 60)
        .pods("shop", "api", 1)
        .with("shop", |secret| {
            let document = secret
                .data
                .get(DATA_KEY)
                .map(|document| document.as_slice());
            let mut record = Record::parse(document).unwrap();
            let previous = Previous {
                id: KeyId(5),
                expire_at: now(),
                expires: None,
            };
            record
                .keys
                .get_mut("api-authkey")
                .unwrap()
                .previous
                .push(previous);
            write(secret, &record);
        });
    let report = world.report(&policy(), &BTreeMap::new());
    assert_eq!(report.keys[0].ending, [KeyId(5)]);
}

/// Keys of single pods: one has joined long ago, one is new, one has none, and one's pod is gone.
fn own_keys() -> World {
    let mut world = World::default()
        .key("shop", "web", 7, 60)
        .pods("shop", "web", 1);
    let name = SecretRef {
        namespace: "shop".into(),
        name: POD_SECRET.into(),
    };
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
        key.current = Some(Issued {
            id: KeyId(id),
            created,
            expires: created + SignedDuration::from_hours(1),
            asked: wanted.asked.clone(),
            origin: crate::rotation::record::Origin::Ours,
        });
        key.joined_with = joined.then_some(KeyId(id));
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

#[test]
fn the_keys_of_single_pods_are_one_row_for_each_service() {
    assert_golden("own_keys.txt", &own_keys().table());
    let report = own_keys().report(&policy(), &held(|_| {}));
    let row = &report.keys[0];
    assert_eq!((row.keys, row.pods, row.key_id), (4, 3, None));
    // One has joined, so that nobody misses its key; of the new one the control plane knows nothing.
    let about: Vec<_> = row.problems.iter().map(|problem| &*problem.text).collect();
    let missing = |text: &&&str| text.contains("is not there any more");
    assert_eq!(about.iter().filter(missing).count(), 1, "{about:?}");
    assert!(
        about
            .iter()
            .any(|text| text.contains("key 22 is not there")),
        "{about:?}"
    );
}

#[test]
fn says_times_as_people_do() {
    let table = [
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (7_199, "119m"),
        (7_200, "2h"),
        (172_799, "47h"),
        (172_800, "2d"),
        (-7_200, "2h"),
    ];
    for (seconds, want) in table {
        assert_eq!(table::span(SignedDuration::from_secs(seconds)), want);
    }
}
