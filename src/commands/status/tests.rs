use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use sidescale_core::id::{KeyId, UserId};
use sidescale_core::key_state::KeyState;
use sidescale_core::objects::PreAuthKey;
use sidescale_core::problem::Problem;
use sidescale_core::secret::StoredSecret;
use sidescale_rotation::record::{DATA_KEY, Previous, Record};
use sidescale_webhook::profile::Policy;
use zeroize::Zeroizing;

use super::report::StatusReport;
use super::row::RowProblem;
use super::table;
use crate::commands::view::held::PlaneView;
use crate::commands::view::span::span;

mod world;

use world::{World, held, own_keys, write};

const DAY: i64 = 86_400;

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
            KeyState::NoCredentials,
            "control plane \"default\" has no API key: make one with: x",
            60,
        )
        .note("new", KeyState::Degraded, "long over", 7_200)
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

#[test]
fn a_key_is_compared_with_what_the_control_plane_holds() {
    type Change = fn(&mut PreAuthKey);
    let world = World::default()
        .key("shop", "api", 7, 60)
        .pods("shop", "api", 3);
    let table: [(Change, Option<&str>); 8] = [
        (|_| {}, None),
        (
            |key| key.user = None,
            Some("belongs to user \"nobody\", want \"shop.api\""),
        ),
        (|key| key.id = KeyId::from(8), Some("no longer exists")),
        (|key| key.expiration = Some(at(DAY)), Some("has expired")),
        (|key| key.expiration = None, Some("has expired")),
        (
            |key| key.expiration = Some(at(149 * DAY)),
            Some("expires at 1970-05-30T00:00:00Z, want 1970-05-31T00:00:00Z"),
        ),
        (
            |key| key.user = Some(UserId::from(2)),
            Some("belongs to user \"shop.db\", want \"shop.api\""),
        ),
        (
            |key| key.tags = vec!["tag:a".into()],
            Some("has tags [\"tag:a\"], want []"),
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
    let fix = world
        .report(&policy(), &held(|key| key.id = KeyId::from(8)))
        .keys[0]
        .problems[0]
        .fix
        .clone();
    let want = "sidescale rotate --now shop/api --namespace tailnet (Sidescale detects it by itself within the hour)";
    assert_eq!(fix.as_deref(), Some(want));
    assert_eq!(
        report.keys[0].nodes_online,
        Some(3),
        "the user's, or by a key of its, and online"
    );
    let nodes = report.keys[0].nodes.as_ref().unwrap();
    let ids: Vec<_> = nodes
        .iter()
        .map(|node| (node.id.0.number().unwrap(), node.online))
        .collect();
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
    let said = |report: &StatusReport, row: usize| {
        let problems = report.keys[row].problems.iter();
        let problems = problems.filter(|problem| problem.text.contains("tailnet"));
        problems
            .map(|problem| (problem.text.clone(), problem.fix.clone().unwrap()))
            .collect::<Vec<_>>()
    };
    let logs = |pod: &str| {
        format!("kubectl logs --namespace shop {pod} --container tailscale (shows why)")
    };
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
    let problem = Problem {
        state: KeyState::InvalidCredentials,
        message: "the API key is refused".into(),
        of_plane: true,
    };
    let planes = BTreeMap::from([("default".to_owned(), PlaneView::Trouble(problem))]);
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
            let mut record = Record::of(secret).unwrap();
            let previous = Previous {
                revoked: false,
                id: KeyId::from(5),
                expire_at: now(),
                expires: at(90),
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
    assert_eq!(report.keys[0].ending, [KeyId::from(5)]);
}

#[test]
fn the_keys_of_single_pods_are_one_row_for_each_service() {
    assert_golden("own_keys.txt", &own_keys().table());
    let report = own_keys().report(&policy(), &held(|_| {}));
    let row = &report.keys[0];
    assert_eq!((row.keys, row.pods, row.key_id), (4, 3, None));
    // One pod has joined, so its key is not missing; the control plane does not know the new key.
    let about: Vec<_> = row.problems.iter().map(|problem| &*problem.text).collect();
    let missing = |text: &&&str| text.contains("no longer exists");
    assert_eq!(about.iter().filter(missing).count(), 1, "{about:?}");
    assert!(
        about
            .iter()
            .any(|text| text.contains("key 22 no longer exists")),
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
        assert_eq!(span(SignedDuration::from_secs(seconds)), want);
    }
}

/// Users and states come from Headscale and from records that a tenant may write.
#[test]
fn nothing_of_a_row_steers_the_terminal() {
    let world = World::default().key("shop", "api", 7, 60);
    let mut report = world.report(&policy(), &BTreeMap::new());
    let evil = || "\x1b]0;all is well\x07\nshop".to_owned();
    let row = &mut report.keys[0];
    (row.namespace, row.service, row.control_plane) = (evil(), evil(), evil());
    (row.user, row.state, row.owners) = (Some(evil()), evil(), [evil()].into());
    row.problems = vec![RowProblem {
        text: evil(),
        fix: Some(evil()),
    }];
    let table = table::render(now(), &report);
    assert!(
        !table.contains(|char: char| char != '\n' && char.is_control()),
        "{table:?}"
    );
    assert_eq!(table.matches(r"\u{1b}]0;").count(), 10, "{table}");
    assert!(
        !table.lines().any(|line| line.starts_with("shop")),
        "{table}"
    );
}
