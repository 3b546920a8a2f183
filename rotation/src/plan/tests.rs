use sidescale_core::id::{KeyId, UserId};
use sidescale_core::objects::PreAuthKey;

use super::*;
use crate::record::{Abandoned, IssuedKey as Made, KeySpec, Record};
use crate::request::{Requests, RotationRequest};
use crate::value::{Flaw, StoredValue};

mod case;
mod expire;
mod manual_keys;
mod per_pod;
mod recreated;
mod room;
mod truncated;

use case::{Case, KEY, asked, demand, made};

const DAY: i64 = 86_400;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn intent(writer: &str, op: &str) -> Intent {
    Intent {
        op: op.into(),
        writer: writer.into(),
        started_at: at(0),
        expires: Timestamp::new(90 * DAY, 123_456_000).unwrap(),
        asked: asked(),
    }
}

fn listed(id: u64, expiration: Timestamp) -> PreAuthKey {
    PreAuthKey {
        prefix: None,
        id: KeyId::from(id),
        user: Some(UserId::from(1)),
        reusable: true,
        ephemeral: true,
        used: false,
        expiration: Some(expiration),
        created_at: None,
        tags: Vec::new(),
    }
}

fn intend(why: KeyReason) -> Vec<Step> {
    vec![Step::Intend {
        data_key: KEY.into(),
        why,
    }]
}

fn expire(id: u64, expires: Timestamp) -> Vec<Step> {
    expire_as(id, expires, ExpireReason::Overlap)
}

fn expire_as(id: u64, expires: Timestamp, why: ExpireReason) -> Vec<Step> {
    vec![Step::Expire {
        data_key: KEY.into(),
        control_plane: "default".into(),
        id: KeyId::from(id),
        expires,
        why,
    }]
}

#[test]
fn the_list_of_keys_says_whether_the_key_in_force_is_what_pods_ask_for() {
    let end = at(90 * DAY);
    let row = |change: fn(&mut PreAuthKey)| {
        let mut row = listed(7, end);
        change(&mut row);
        Case::new().with(|case| case.issued = Some(vec![row]))
    };
    for (why, change, want) in [
        ("its own", (|_| {}) as fn(&mut PreAuthKey), None),
        (
            "a person's",
            |row| row.user = Some(UserId::from(2)),
            Some(KeyReason::NotOwned),
        ),
        (
            "another namespace's",
            |row| row.user = Some(UserId::from(3)),
            Some(KeyReason::NotOwned),
        ),
        (
            "adopted for it",
            |row| row.user = Some(UserId::from(4)),
            None,
        ),
        (
            "tags alone",
            |row| row.user = None,
            Some(KeyReason::NotOwned),
        ),
        (
            "other tags",
            |row| row.tags = vec!["tag:admin".into()],
            Some(KeyReason::Changed),
        ),
        (
            "works once",
            |row| row.reusable = false,
            Some(KeyReason::Changed),
        ),
        (
            "stays behind",
            |row| row.ephemeral = false,
            Some(KeyReason::Changed),
        ),
        (
            "another end",
            |row| row.expiration = Some(at(80 * DAY)),
            Some(KeyReason::Lost),
        ),
        (
            "another id",
            |row| row.id = KeyId::from(8),
            Some(KeyReason::Lost),
        ),
    ] {
        let steps = row(change).steps(0);
        assert_eq!(steps, want.map(intend).unwrap_or_default(), "{why}");
    }
    // What a person put there is the person's choice.
    let hers = row(|row| row.user = Some(UserId::from(2))).with(|case| {
        case.key.current.as_mut().unwrap().origin = crate::record::Origin::Foreign;
    });
    assert_eq!(hers.steps(0), []);
}

#[test]
fn a_key_of_ninety_days_is_due_at_day_eighty_to_the_second() {
    let case = Case::new();
    let plan = case.plan(at(80 * DAY - 1));
    assert_eq!(plan.steps, []);
    assert_eq!(plan.renew_at, Some(at(80 * DAY)));
    assert_eq!(plan.states[KEY], KeyState::Ready);
    assert_eq!(case.steps(80 * DAY), intend(KeyReason::Due));
    assert_eq!(case.plan(at(80 * DAY)).states[KEY], KeyState::Ready);
}

#[test]
fn says_why_a_key_is_made() {
    let table: [(&str, Case, Vec<Step>); 13] = [
        (
            "no key yet",
            Case::new().with(|case| case.key.current = None),
            intend(KeyReason::First),
        ),
        (
            "the value was taken out",
            Case::new().with(|case| case.filled = false),
            intend(KeyReason::ValueLost),
        ),
        (
            "the server forgot it",
            Case::new().with(|case| case.issued = Some(Vec::new())),
            intend(KeyReason::Lost),
        ),
        (
            "somebody ended it",
            Case::new().with(|case| case.issued = Some(vec![listed(7, at(5))])),
            intend(KeyReason::Lost),
        ),
        (
            "its number is another key's, in a new database",
            Case::new().with(|case| case.issued = Some(vec![listed(7, at(91 * DAY))])),
            intend(KeyReason::Lost),
        ),
        (
            "the server has it",
            Case::new().with(|case| case.issued = Some(vec![listed(7, at(90 * DAY))])),
            vec![],
        ),
        (
            "other tags",
            Case::new()
                .with(|case| case.demand.get_mut(KEY).unwrap().asked.tags = vec!["tag:web".into()]),
            intend(KeyReason::Changed),
        ),
        (
            "not ephemeral any more",
            Case::new().with(|case| case.demand.get_mut(KEY).unwrap().asked.ephemeral = false),
            intend(KeyReason::Changed),
        ),
        (
            "another user",
            Case::new().with(|case| case.demand.get_mut(KEY).unwrap().asked.user = "x.api".into()),
            intend(KeyReason::Changed),
        ),
        (
            "a person asked",
            Case::new().with(|case| case.request(7)),
            intend(KeyReason::Requested),
        ),
        (
            "a person asked for what was done since",
            Case::new().with(|case| case.request(6)),
            vec![],
        ),
        (
            "a longer buffer only moves the due time",
            Case::new().with(|case| {
                case.demand.get_mut(KEY).unwrap().buffer = Duration::from_secs(89 * 86_400)
            }),
            vec![],
        ),
        (
            "another expiration counts from the next key on",
            Case::new().with(|case| {
                case.demand.get_mut(KEY).unwrap().expiration = Duration::from_secs(86_400)
            }),
            vec![],
        ),
    ];
    for (name, case, steps) in table {
        assert_eq!(case.steps(10), steps, "{name}");
    }
}

#[test]
fn nothing_is_done_where_nothing_may_be_done() {
    let table: [(&str, Case, KeyState); 6] = [
        (
            "foreign Secret",
            Case::new().with(|case| case.ownership = Ownership::NotOurs),
            KeyState::SecretNotOurs,
        ),
        (
            "paused Secret",
            Case::new().with(|case| case.ownership = Ownership::Paused),
            KeyState::Paused,
        ),
        (
            "paused everywhere",
            Case::new().with(|case| case.rotation.paused = true),
            KeyState::Paused,
        ),
        (
            "over the quota",
            Case::new().with(|case| {
                case.key.current = None;
                case.over_quota.insert(KEY.into());
            }),
            KeyState::QuotaExceeded,
        ),
        (
            "no API key",
            Case::new().with(|case| {
                case.process.held.insert(
                    KEY.into(),
                    Blocked {
                        state: KeyState::NoCredentials,
                        until: None,
                    },
                );
            }),
            KeyState::NoCredentials,
        ),
        (
            "failed a moment ago",
            Case::new().with(|case| {
                case.process.held.insert(
                    KEY.into(),
                    Blocked {
                        state: KeyState::Degraded,
                        until: Some(at(99 * DAY)),
                    },
                );
            }),
            KeyState::Degraded,
        ),
    ];
    for (name, mut case, state) in table {
        case.key.current = None;
        let plan = case.plan(at(85 * DAY));
        assert_eq!(plan.steps, [], "{name}");
        assert_eq!(plan.states[KEY], state, "{name}");
    }
}

#[test]
fn an_intent_is_followed_by_its_writer_and_respected_by_others() {
    let due = 80 * DAY;
    let with = |intent: Intent| Case::new().with(|case| case.key.intent = Some(intent));
    let mint = |intent: Intent| {
        vec![Step::Create {
            data_key: KEY.into(),
            intent,
            why: KeyReason::Due,
        }]
    };
    let fresh = |writer, op| Intent {
        started_at: at(due),
        ..intent(writer, op)
    };

    assert_eq!(
        with(fresh("me", "live")).steps(due),
        mint(fresh("me", "live"))
    );
    assert_eq!(
        with(fresh("me", "failed")).steps(due),
        intend(KeyReason::Due),
        "own, and over"
    );
    let beside = with(fresh("me", "beside"));
    assert_eq!(beside.steps(due), [], "another job is about to make it");
    let other_tags = with(fresh("me", "beside"))
        .with(|case| case.demand.get_mut(KEY).unwrap().asked.tags = vec!["tag:x".into()]);
    assert_eq!(other_tags.steps(due), intend(KeyReason::Changed));
    assert_eq!(with(fresh("other", "live")).steps(due + 119), []);
    assert_eq!(
        with(fresh("other", "live")).plan(at(due)).renew_at,
        Some(at(due + 120))
    );
    assert_eq!(
        with(fresh("other", "live")).steps(due + 120),
        intend(KeyReason::Due),
        "crashed"
    );
    let changed = with(fresh("me", "live"))
        .with(|case| case.demand.get_mut(KEY).unwrap().asked.reusable = false);
    assert_eq!(
        changed.steps(due),
        intend(KeyReason::Changed),
        "asked for something else meanwhile"
    );
}

#[test]
fn an_intent_that_nobody_needs_is_given_up() {
    let give_up = vec![Step::GiveUp {
        data_key: KEY.into(),
    }];
    let case = Case::new().with(|case| case.key.intent = Some(intent("other", "x")));
    assert_eq!(case.steps(119), []);
    assert_eq!(case.steps(120), give_up);
    let undemanded = case.with(|case| {
        case.demand.clear();
        case.key.unused_since = Some(at(1));
    });
    assert_eq!(undemanded.steps(120), give_up);
    let beside = Case::new().with(|case| case.key.intent = Some(intent("me", "beside")));
    assert_eq!(beside.steps(120), [], "the job that follows it will say");
}

#[test]
fn the_key_that_was_unused_for_longest_makes_room_for_a_service_that_has_none() {
    let unused = |since: i64| {
        Case::new().with(|case| {
            case.demand.clear();
            case.key.unused_since = Some(at(since));
            case.excess = 1;
        })
    };
    let retire = [Step::Retire {
        data_key: KEY.into(),
    }];
    assert_eq!(unused(5).steps(5 + 599), [], "a rollout is shorter");
    assert_eq!(unused(5).steps(5 + 600), retire);
    let nobody_waits = unused(5).with(|case| case.excess = 0);
    assert_eq!(nobody_waits.steps(5 + 600), []);
    let referred_to = unused(5).with(|case| case.held = [KEY.to_owned()].into());
    assert!(!referred_to.steps(5 + 600).contains(&retire[0]));
    let used = Case::new().with(|case| case.excess = 1);
    assert_eq!(used.steps(10_000), []);
}

#[test]
fn a_clock_that_is_an_hour_off_does_not_make_a_listed_key_look_ended() {
    let case = Case::new().with(|case| case.issued = Some(vec![listed(7, at(90 * DAY))]));
    for now in [-3_600, 0, 3_600] {
        assert_eq!(case.steps(now), []);
    }
}

#[test]
fn an_id_that_was_given_again_after_a_restore_is_another_key() {
    let case = |ends| Case::new().with(|case| case.issued = Some(vec![listed(7, at(ends))]));
    assert_eq!(case(90 * DAY).steps(0), []);
    assert_eq!(case(89 * DAY).steps(0), intend(KeyReason::Lost));
    assert_eq!(case(91 * DAY).steps(0), intend(KeyReason::Lost));
}

#[test]
fn an_intent_from_the_future_is_not_waited_for() {
    let due = 80 * DAY;
    let ahead = |seconds| {
        let intent = Intent {
            started_at: at(due + seconds),
            ..intent("other", "x")
        };
        Case::new().with(|case| case.key.intent = Some(intent))
    };
    assert_eq!(ahead(120).steps(due), []);
    assert_eq!(ahead(121).steps(due), intend(KeyReason::Due));
}
