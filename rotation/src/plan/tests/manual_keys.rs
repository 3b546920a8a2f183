//! Values that a person put into a Secret.

use sidescale_core::key_prefix::KeyPrefix;

use super::*;
use crate::record::Origin;

fn text(prefix: &str) -> String {
    format!("hskey-auth-{prefix}-{}", "s".repeat(64))
}

fn value(prefix: &str) -> Option<StoredValue> {
    StoredValue::of(text(prefix).as_bytes())
}

fn row(id: u64, prefix: &str, end: i64) -> PreAuthKey {
    PreAuthKey {
        prefix: KeyPrefix::of(&text(prefix)),
        created_at: Some(at(0)),
        ..listed(id, at(end))
    }
}

const OURS: &str = "aaaaaaaaaaaa";
const HAND: &str = "bbbbbbbbbbbb";

/// Our key 7 and a person's key 8 are listed; the value is the person's.
fn case() -> Case {
    Case::new().with(|case| {
        case.issued = Some(vec![row(7, OURS, 90 * DAY), row(8, HAND, 30 * DAY)]);
        case.value = value(HAND);
    })
}

fn adopted_key(origin: Origin) -> Made {
    Made {
        id: KeyId::from(8),
        expires: at(30 * DAY),
        origin,
        ..made(8)
    }
}

fn adopted(origin: Origin) -> Vec<Step> {
    vec![Step::Adopt {
        data_key: KEY.into(),
        key: adopted_key(origin),
    }]
}

/// Pods ask for a single-use key.
fn single(case: &mut Case) {
    case.demand.get_mut(KEY).unwrap().asked.reusable = false;
}

/// Returns [`case`] with a changed list.
fn rows(change: fn(&mut Vec<PreAuthKey>)) -> Case {
    case().with(|case| change(case.issued.as_mut().unwrap()))
}

#[test]
fn a_living_key_put_there_by_hand_wins() {
    let table: [(&str, Case, Vec<Step>); 9] = [
        (
            "ours stands there",
            case().with(|case| case.value = value(OURS)),
            vec![],
        ),
        ("a person's", case(), adopted(Origin::Hand)),
        (
            "a stranger's",
            rows(|rows| rows[1].user = Some(UserId::from(9))),
            adopted(Origin::Foreign),
        ),
        (
            "of another namespace's user",
            rows(|rows| rows[1].user = Some(UserId::from(3))),
            adopted(Origin::Foreign),
        ),
        (
            "of an adopted user",
            rows(|rows| rows[1].user = Some(UserId::from(4))),
            adopted(Origin::Foreign),
        ),
        (
            "and ours is gone",
            rows(|rows| drop(rows.remove(0))),
            adopted(Origin::Hand),
        ),
        (
            "and nobody made one yet",
            case().with(|case| case.key.current = None),
            adopted(Origin::Hand),
        ),
        (
            "one for one node, for a pod of its own",
            rows(|rows| rows[1].reusable = false).with(single),
            vec![Step::Adopt {
                data_key: KEY.into(),
                key: Made {
                    asked: KeySpec {
                        reusable: false,
                        ..asked()
                    },
                    ..adopted_key(Origin::Hand)
                },
            }],
        ),
        (
            "a server whose list shows no prefix",
            rows(|rows| rows.iter_mut().for_each(|row| row.prefix = None)),
            vec![],
        ),
    ];
    for (what, case, want) in table {
        assert_eq!(case.steps(10), want, "{what}");
    }
}

#[test]
fn what_is_no_key_to_use_is_replaced() {
    let table: [(&str, Case, Flaw); 7] = [
        (
            "one that has ended",
            rows(|rows| rows[1].expiration = Some(at(1))),
            Flaw::Ended,
        ),
        (
            "one that is not listed",
            rows(|rows| drop(rows.remove(1))),
            Flaw::Unknown,
        ),
        (
            "one that is not listed, where nobody made one yet",
            rows(|rows| rows.clear()).with(|case| case.key.current = None),
            Flaw::Unknown,
        ),
        (
            "one for one node, which pods share",
            rows(|rows| rows[1].reusable = false),
            Flaw::Once,
        ),
        (
            "one for one node that has joined",
            rows(|rows| {
                rows[1].reusable = false;
                rows[1].used = true;
            })
            .with(single),
            Flaw::UsedUp,
        ),
        (
            "one of another form",
            case().with(|case| case.value = StoredValue::of(b"tskey-auth-abc")),
            Flaw::Form,
        ),
        (
            "one that is cut",
            case().with(|case| case.value = StoredValue::of(&text(HAND).as_bytes()[1..])),
            Flaw::Form,
        ),
    ];
    for (what, case, want) in table {
        assert_eq!(case.steps(10), intend(KeyReason::Refused(want)), "{what}");
    }
}

#[test]
fn without_a_list_a_value_is_refused_by_its_form_alone() {
    let unlisted = |change: fn(&mut Case)| case().with(|case| case.issued = None).with(change);
    assert_eq!(unlisted(|_| {}).steps(10), []);
    let api_key = unlisted(|case| case.value = StoredValue::of(b"hskey-api-abcdefghijkl-s"));
    let flaw = api_key.value.as_ref().and_then(|value| value.flaw).unwrap();
    assert_eq!(api_key.steps(10), intend(KeyReason::Refused(flaw)));
    assert_eq!(api_key.plan(at(10)).states[KEY], KeyState::Degraded);
    // A value where no key was created yet may be a person's: the list is requested first.
    let first = unlisted(|case| case.key.current = None);
    let plan = first.plan(at(10));
    assert_eq!((plan.steps, plan.confirm_at), (vec![], Some(at(10))));
    let away = first_held(KeyState::InvalidCredentials);
    assert_eq!(away.plan(at(10)).states[KEY], KeyState::InvalidCredentials);
}

fn first_held(state: KeyState) -> Case {
    case().with(|case| {
        case.issued = None;
        case.key.current = None;
        let held = Blocked { state, until: None };
        case.process.held.insert(KEY.to_owned(), held);
    })
}

#[test]
fn a_persons_key_is_due_when_two_thirds_of_its_life_are_over() {
    let mine = |life: i64| {
        case().with(|case| {
            case.value = value(OURS);
            case.issued = None;
            case.key.current = Some(Made {
                expires: at(life),
                origin: Origin::Hand,
                ..made(7)
            });
        })
    };
    let hour = 3_600;
    assert_eq!(mine(hour).steps(hour * 2 / 3 - 1), []);
    assert_eq!(mine(hour).steps(hour * 2 / 3), intend(KeyReason::Due));
    assert_eq!(
        mine(90 * DAY).steps(80 * DAY - 1),
        [],
        "no sooner than ours"
    );
    assert_eq!(mine(90 * DAY).steps(80 * DAY), intend(KeyReason::Due));
}
