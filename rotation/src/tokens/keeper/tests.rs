use sidescale_core::id::ApiKeyId;
use sidescale_core::key_value::KeyValue;
use sidescale_core::objects::ApiKey;
use sidescale_core::secret::PreservedFields;
use sidescale_webhook::keys::{ADOPT, PAUSED};

use super::*;
use crate::tokens::form::{CREATED_AT, DATA_KEY, EXPIRATION};
use crate::tokens::record;

mod problem;

const HOUR: i64 = 3_600;
const DAY: i64 = 24 * HOUR;
const OURS: [(&str, &str); 1] = [("app.kubernetes.io/managed-by", "sidescale")];

/// A Secret and a Headscale without faults.
struct World {
    now: Timestamp,
    secret: StoredSecret,
    listed: Vec<ListedApiKey>,
    calls: Vec<String>,
}

fn row(id: u64, prefix: &str, expires: Timestamp) -> ListedApiKey {
    ListedApiKey::new(ApiKey {
        id: ApiKeyId::from(id),
        prefix: prefix.into(),
        expiration: Some(expires),
        created_at: None,
        last_seen: None,
    })
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

fn hours(hours: u64) -> Duration {
    Duration::from_secs(hours * 3_600)
}

fn policy() -> TokenPolicy {
    TokenPolicy {
        expiration: hours(2_160),
        buffer: hours(240),
        overlap: Duration::ZERO,
        respect: Duration::from_secs(120),
        managed_by: "sidescale".into(),
        data_key: DATA_KEY.into(),
        stand_in: None,
    }
}

fn keeper(name: &str) -> TokenKeeper {
    TokenKeeper::new(name.into(), policy())
}

fn value(id: u64) -> String {
    format!("hskey-api-{id:012}-{}", "s".repeat(64))
}

impl World {
    fn new() -> Self {
        Self {
            now: at(0),
            secret: StoredSecret::absent("headscale", "headscale-api-key"),
            listed: Vec::new(),
            calls: Vec::new(),
        }
    }

    fn create(&mut self, expires: Timestamp) -> String {
        let id = self.listed.len() as u64 + 1;
        let value = value(id);
        self.listed.push(row(id, &value[10..22], expires));
        value
    }

    /// Writes a Secret as another writer does.
    fn put(&mut self, value: &str, labels: &[(&str, &str)], annotations: &[(&str, &str)]) {
        let owned = |pairs: &[(&str, &str)]| {
            let pairs = pairs.iter();
            pairs
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect()
        };
        self.secret.labels = owned(labels);
        self.secret.annotations = owned(annotations);
        self.secret
            .data
            .insert(DATA_KEY.into(), value.as_bytes().to_vec().into());
        self.secret.revision = Some("by hand".into());
    }

    /// Performs the keeper's actions until it rests.
    fn run(&mut self, keeper: &mut TokenKeeper) -> Idle {
        self.run_with(keeper, |_, done| done)
    }

    fn run_with(
        &mut self,
        keeper: &mut TokenKeeper,
        spoil: impl Fn(&Action, ActionOutcome) -> ActionOutcome,
    ) -> Idle {
        for _ in 0..50 {
            let action = keeper.next(self.now, &self.secret, &self.listed, 123_456);
            if let Action::Rest(rest) = action {
                return rest;
            }
            let done = self.act(&action);
            let done = spoil(&action, done);
            keeper.absorb(self.now, action, done);
        }
        panic!("it never rests: {:?}", self.calls);
    }

    fn act(&mut self, action: &Action) -> ActionOutcome {
        let (call, done) = match action {
            Action::Write(write) => {
                self.secret = write.secret.clone();
                self.secret.revision = Some(format!("{}", self.calls.len()));
                let call = match &write.change {
                    Change::Intend(_, why) => format!("intend {}", why.as_str()),
                    Change::Store(key) => format!("store {}", key.id.0),
                    Change::PutBack(_) => "PutBack".into(),
                    other => format!("{other:?}"),
                };
                (call, ActionOutcome::Ok)
            }
            Action::Create { expires } => {
                let value = KeyValue::new(self.create(*expires));
                ("create".into(), ActionOutcome::Created(value))
            }
            Action::Verify { key, .. } => (format!("verify {}", key.id.0), ActionOutcome::Ok),
            Action::Expire { key, .. } => {
                let row = self.listed.iter_mut().find(|row| row.id == key.id).unwrap();
                row.expires = Some(self.now);
                (format!("expire {}", key.id.0), ActionOutcome::Ok)
            }
            Action::Rest(_) => ("rest".into(), ActionOutcome::Ok),
        };
        self.calls.push(call);
        done
    }

    fn called(&mut self) -> Vec<String> {
        std::mem::take(&mut self.calls)
    }

    fn note(&self, key: &str) -> &str {
        self.secret.annotations.get(key).map_or("", String::as_str)
    }
}

#[test]
fn the_first_key_is_made_in_order_and_its_secret_has_the_exact_form() {
    let mut world = World::new();
    let rest = world.run(&mut keeper("headscale-0"));
    assert_eq!(
        world.called(),
        ["intend first", "create", "verify 1", "store 1"]
    );
    let secret = &world.secret;
    let labels: Vec<_> = secret
        .labels
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_str()))
        .collect();
    let want = [
        ("app.kubernetes.io/component", "api-key"),
        ("app.kubernetes.io/managed-by", "sidescale"),
    ];
    assert_eq!(labels, want);
    assert_eq!(secret.data.keys().collect::<Vec<_>>(), ["api-key"]);
    assert_eq!(secret.data["api-key"].as_slice(), value(1).as_bytes());
    assert_eq!(world.note(CREATED_AT), "2023-11-14T22:13:20Z");
    // 2160 hours later, as Headscale reports it.
    assert_eq!(world.note(EXPIRATION), "2024-02-12T22:13:20Z");
    assert_eq!(world.note(form::CHECKED_BY), "headscale-0");
    assert_eq!(world.note(form::CHECKED_AT), "2023-11-14T22:13:20Z");
    assert_eq!(rest.state, TokenState::Good);
    assert_eq!(rest.until, at(HOUR));
    assert_eq!(rest.due.unwrap().as_second(), at(80 * DAY).as_second());
}

#[test]
fn a_good_key_is_left_alone_by_every_restart() {
    let mut world = World::new();
    world.run(&mut keeper("headscale-0"));
    world.called();
    for _ in 0..3 {
        world.run(&mut keeper("headscale-0"));
    }
    assert_eq!(world.called(), [""; 0]);
}

#[test]
fn a_key_is_renewed_exactly_when_it_is_due() {
    let mut world = World::new();
    world.run(&mut keeper("a"));
    let due = world.run(&mut keeper("a")).due.unwrap();
    for (now, renewed) in [
        (at(10 * DAY), false),
        (at(20 * DAY), false),
        (due - Duration::from_secs(1), false),
        (due, true),
        (due + Duration::from_secs(1), true),
        (at(81 * DAY), true),
    ] {
        let mut world = World {
            now,
            secret: world.secret.clone(),
            listed: world.listed.clone(),
            calls: Vec::new(),
        };
        let rest = world.run(&mut keeper("a"));
        let calls = world.called();
        if renewed {
            let want = [
                "intend due",
                "create",
                "verify 2",
                "store 2",
                "expire 1",
                "Tidy",
            ];
            assert_eq!(calls, want, "{now}");
            let ended = world
                .listed
                .iter()
                .filter(|row| !row.is_live(now))
                .map(|row| row.id);
            assert_eq!(ended.collect::<Vec<_>>(), [ApiKeyId::from(1)]);
            assert_eq!(
                world.note(CREATED_AT),
                Timestamp::from_second(now.as_second()).unwrap().to_string()
            );
        } else {
            assert_eq!(calls, ["CheckIn"], "{now}");
            let left = rest.due.unwrap().duration_since(now);
            assert!(rest.until <= now + Duration::from_secs(3_600));
            assert!(left >= SignedDuration::from_secs(1));
        }
    }
}

#[test]
fn an_hourly_look_is_not_all() {
    let mut world = World::new();
    let policy = TokenPolicy {
        expiration: hours(1),
        buffer: Duration::from_secs(1_800),
        ..policy()
    };
    let mut keeper = TokenKeeper::new("a".into(), policy);
    for n in 1..=20 {
        let rest = world.run(&mut keeper);
        assert_eq!(rest.until, rest.due.unwrap(), "round {n}");
        assert_eq!(rest.until.as_second(), world.now.as_second() + 1_800);
        world.now = rest.until;
    }
    assert_eq!(world.listed.len(), 20);
}

#[test]
fn an_expiration_that_cannot_be_read_makes_a_new_key_and_ends_the_old() {
    for (garbled, remove) in [("soon", false), ("", false), ("", true)] {
        let mut world = World::new();
        world.run(&mut keeper("a"));
        if remove {
            world.secret.annotations.remove(EXPIRATION);
        } else {
            world
                .secret
                .annotations
                .insert(EXPIRATION.into(), garbled.into());
        }
        world.called();
        world.run(&mut keeper("a"));
        let want = [
            "intend expiration_unreadable",
            "create",
            "verify 2",
            "store 2",
            "expire 1",
            "Tidy",
        ];
        assert_eq!(world.called(), want);
    }
}

#[test]
fn an_expiration_that_is_not_headscales_is_put_right() {
    for wrong in ["2031-01-01T00:00:00Z", "2001-01-01T00:00:00Z"] {
        let mut world = World::new();
        world.run(&mut keeper("a"));
        world
            .secret
            .annotations
            .insert(EXPIRATION.into(), wrong.into());
        world.called();
        world.run(&mut keeper("a"));
        assert_eq!(world.called(), ["Repair"]);
        assert_eq!(world.note(EXPIRATION), "2024-02-12T22:13:20Z");
    }
}

#[test]
fn what_is_dead_is_replaced() {
    let ours = [("app.kubernetes.io/managed-by", "sidescale")];
    let later = at(90 * DAY).to_string();
    for (content, why) in [
        (value(9), "unknown_to_headscale"),
        ("YOUR_KEY_HERE".to_owned(), "not_a_key"),
        (String::new(), "first"),
    ] {
        let mut world = World::new();
        world.put(&content, &ours, &[(EXPIRATION, &later)]);
        world.run(&mut keeper("a"));
        assert_eq!(world.called()[0], format!("intend {why}"));
        assert_eq!(world.secret.data["api-key"].as_slice(), value(1).as_bytes());
    }
    let mut world = World::new();
    let content = world.create(at(-1));
    world.put(&content, &ours, &[(EXPIRATION, &later)]);
    world.run(&mut keeper("a"));
    assert_eq!(
        world.called(),
        ["intend ended", "create", "verify 2", "store 2"]
    );
}

#[test]
fn a_key_that_was_put_there_by_hand_is_kept_and_described() {
    let mut world = World::new();
    let content = world.create(at(30 * DAY));
    let ours = [("app.kubernetes.io/managed-by", "sidescale")];
    world.put(&format!("{content}\n"), &ours, &[("note", "mine")]);
    let rest = world.run(&mut keeper("a"));
    assert_eq!(world.called(), ["Repair"]);
    assert_eq!(rest.due, Some(at(20 * DAY)));
    assert_eq!(world.note("note"), "mine");
    // Another key replaces ours, with our annotations still there: ours is expired.
    let mut world = World::new();
    world.run(&mut keeper("a"));
    let content = world.create(at(30 * DAY));
    world
        .secret
        .data
        .insert(DATA_KEY.into(), content.into_bytes().into());
    world.called();
    world.run(&mut keeper("b"));
    assert_eq!(world.called(), ["Repair", "expire 1", "Tidy"]);
    assert_eq!(world.note(EXPIRATION), at(30 * DAY).to_string());
}

#[test]
fn other_data_and_annotations_outlive_a_renewal() {
    let mut world = World::new();
    let ours = [
        ("app.kubernetes.io/managed-by", "sidescale"),
        ("team", "net"),
    ];
    world.put("", &ours, &[("note", "mine")]);
    world
        .secret
        .data
        .insert("other".into(), b"stays".to_vec().into());
    world.run(&mut keeper("a"));
    assert_eq!(world.secret.data["other"].as_slice(), b"stays");
    assert_eq!(
        (world.note("note"), world.secret.labels["team"].as_str()),
        ("mine", "net")
    );
}

#[test]
fn a_secret_that_is_not_ours_is_left_alone() {
    let content = value(9);
    let ours = [("app.kubernetes.io/managed-by", "sidescale")];
    let foreign = [("app.kubernetes.io/managed-by", "Helm")];
    for (labels, annotations, kept, want) in [
        (
            &[][..],
            &[][..],
            PreservedFields::default(),
            TokenOwnership::NotOurs(None),
        ),
        (
            &foreign[..],
            &[],
            PreservedFields::default(),
            TokenOwnership::NotOurs(Some("Helm".into())),
        ),
        (
            &ours,
            &[(PAUSED, "true")],
            PreservedFields::default(),
            TokenOwnership::Paused,
        ),
        (
            &ours,
            &[],
            PreservedFields {
                kind: "kubernetes.io/tls".into(),
                ..PreservedFields::default()
            },
            TokenOwnership::WrongType("kubernetes.io/tls".into()),
        ),
        (
            &ours,
            &[],
            PreservedFields {
                immutable: true,
                ..PreservedFields::default()
            },
            TokenOwnership::Immutable,
        ),
    ] {
        let mut world = World::new();
        world.put(&content, labels, annotations);
        world.secret.kept = kept;
        let rest = world.run(&mut keeper("a"));
        assert_eq!(rest.state, TokenState::Left(want));
        assert_eq!(world.called(), [""; 0]);
    }
    let mut world = World::new();
    world.put(&content, &foreign, &[(ADOPT, "true")]);
    world.run(&mut keeper("a"));
    assert_eq!(
        world.called(),
        [
            "intend unknown_to_headscale",
            "create",
            "verify 1",
            "store 1"
        ]
    );
    assert_eq!(
        world.secret.labels["app.kubernetes.io/managed-by"],
        "sidescale"
    );
}
