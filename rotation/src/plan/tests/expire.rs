//! Old keys are expired, and nothing else.

use super::*;
use crate::record::Previous;

#[test]
fn a_previous_key_ends_after_its_overlap_unless_it_is_the_one_in_force() {
    let previous = |id| Previous {
        revoked: false,
        id: KeyId::from(id),
        expire_at: at(3_600),
        expires: at(90 * DAY),
    };
    let case = Case::new().with(|case| case.key.previous = vec![previous(3)]);
    assert_eq!(case.steps(3_599), []);
    assert_eq!(case.plan(at(3_599)).cleanup_at, Some(at(3_600)));
    assert_eq!(case.steps(3_600), expire(3, at(90 * DAY)));
    let undemanded = case.with(|case| {
        case.demand.clear();
        case.key.unused_since = Some(at(1));
    });
    assert_eq!(
        undemanded.steps(3_600),
        expire(3, at(90 * DAY)),
        "with or without pods"
    );

    let in_force = Case::new().with(|case| case.key.previous = vec![previous(7)]);
    assert_eq!(
        in_force.steps(4_000),
        [Step::ForgetPrevious {
            data_key: KEY.into(),
            id: KeyId::from(7)
        }]
    );
}

#[test]
fn a_key_that_no_pod_needs_is_noted_and_taken_out_a_week_later() {
    const WEEK: i64 = 7 * 86_400;
    let data_key = || KEY.to_owned();
    let note = |unused_since| {
        vec![Step::NoteUse {
            data_key: data_key(),
            unused_since,
        }]
    };
    let case = Case::new();
    let idle = |since: Option<i64>| {
        Case::new().with(|case| {
            case.demand.clear();
            case.key.unused_since = since.map(at);
        })
    };
    assert_eq!(idle(None).steps(5), note(Some(at(5))));
    assert_eq!(idle(Some(5)).steps(5 + WEEK - 1), []);
    assert_eq!(
        idle(Some(5)).plan(at(6)).cleanup_at,
        Some(at(5 + WEEK)),
        "asked again in time"
    );
    assert_eq!(
        idle(Some(5)).steps(5 + WEEK),
        [Step::Retire {
            data_key: data_key()
        }]
    );
    let needed = case.with(|case| case.key.unused_since = Some(at(5)));
    assert_eq!(needed.steps(6), note(None));
    let unseen = idle(Some(5)).with(|case| case.synced = false);
    assert_eq!(unseen.steps(5 + WEEK), [], "the pods were not all seen");
    let nothing = idle(Some(5)).with(|case| case.key.current = None);
    assert_eq!(
        nothing.steps(6),
        [Step::Forget {
            data_key: data_key()
        }]
    );
}

#[test]
fn a_key_that_a_person_revokes_does_not_wait_for_its_overlap() {
    let previous = |id| Previous {
        revoked: false,
        id: KeyId::from(id),
        expire_at: at(3_600),
        expires: at(90 * DAY),
    };
    let case = Case::new().with(|case| {
        case.key.previous = vec![previous(3), previous(4)];
        case.request(4);
    });
    assert_eq!(
        case.steps(10),
        expire_as(4, at(90 * DAY), ExpireReason::Revoked)
    );
    // The request is done once its key was created.
    let asked = Case::new().with(|case| {
        case.key.previous = vec![previous(3)];
        case.key.revoke_previous(at(20));
    });
    assert_eq!(
        asked.steps(20),
        expire_as(3, at(90 * DAY), ExpireReason::Revoked)
    );
}

#[test]
fn the_key_of_a_lost_intent_is_ended_by_its_fingerprint() {
    let lost = intent("other", "lost");
    let expires = lost.expires;
    let abandoned = |keys: Vec<PreAuthKey>| {
        let lost = lost.clone();
        Case::new().with(move |case| {
            case.key.abandoned = vec![Abandoned {
                since: at(0),
                intent: lost,
            }];
            case.issued = Some([vec![listed(7, at(90 * DAY))], keys].concat());
        })
    };
    let near = Timestamp::new(90 * DAY, 123_457_000).unwrap();
    assert_eq!(
        abandoned(vec![listed(9, expires)]).steps(20),
        expire_as(9, expires, ExpireReason::LostIntent)
    );
    assert_eq!(
        abandoned(vec![listed(9, near)]).steps(20),
        [],
        "somebody else's"
    );
    let foreign = PreAuthKey {
        user: Some(UserId::from(2)),
        ..listed(9, expires)
    };
    assert_eq!(abandoned(vec![foreign]).steps(20), [], "another user's");
    let forget = vec![Step::ForgetAbandoned {
        data_key: KEY.into(),
        op: "lost".into(),
    }];
    assert_eq!(abandoned(vec![]).steps(599), [], "it may still come");
    assert_eq!(abandoned(vec![]).steps(600), forget);
    let in_force = abandoned(vec![]).with(|case| {
        case.key.current = Some(Made { expires, ..made(9) });
        case.issued = Some(vec![listed(9, expires)]);
    });
    assert_eq!(in_force.steps(20), [], "never the one in force");
    let unlisted = abandoned(vec![]).with(|case| case.issued = None);
    assert_eq!(unlisted.plan(at(1)).confirm_at, Some(at(15)));
}

#[test]
fn an_answer_that_is_not_what_was_asked_is_named() {
    let intent = intent("me", "live");
    let good = listed(9, intent.expires);
    assert_eq!(mismatch(&good, UserId::from(1), &intent), None);
    let table = [
        (
            PreAuthKey {
                user: Some(UserId::from(2)),
                ..good.clone()
            },
            "user",
        ),
        (
            PreAuthKey {
                user: None,
                ..good.clone()
            },
            "user",
        ),
        (
            PreAuthKey {
                reusable: false,
                ..good.clone()
            },
            "reusable",
        ),
        (
            PreAuthKey {
                ephemeral: false,
                ..good.clone()
            },
            "ephemeral",
        ),
        (
            PreAuthKey {
                tags: vec!["tag:x".into()],
                ..good.clone()
            },
            "aclTags",
        ),
        (
            PreAuthKey {
                expiration: None,
                ..good.clone()
            },
            "expiration",
        ),
        (
            PreAuthKey {
                expiration: Some(at(1)),
                ..good.clone()
            },
            "expiration",
        ),
        (
            PreAuthKey {
                used: true,
                ..good.clone()
            },
            "used",
        ),
    ];
    for (key, field) in table {
        assert_eq!(mismatch(&key, UserId::from(1), &intent), Some(field));
    }
}

#[test]
fn a_previous_key_that_was_put_off_by_a_clock_ahead_ends_sooner() {
    let previous = |expire_at| Previous {
        revoked: false,
        id: KeyId::from(3),
        expire_at,
        expires: at(90 * DAY),
    };
    let put_off =
        |expire_at| Case::new().with(|case| case.key.previous = vec![previous(expire_at)]);
    assert_eq!(put_off(at(3_600)).steps(0), []);
    let back = Step::BringBack {
        data_key: KEY.into(),
    };
    assert_eq!(put_off(at(400 * DAY)).steps(0), std::slice::from_ref(&back));
    let lost = |since| {
        Case::new().with(|case| {
            let intent = intent("other", "lost");
            case.key.abandoned = vec![Abandoned { since, intent }];
        })
    };
    assert_eq!(lost(at(600)).steps(0), []);
    assert_eq!(lost(at(601)).steps(0), [back]);
}
