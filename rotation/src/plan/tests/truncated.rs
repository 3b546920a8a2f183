//! A list with only the newest keys of a control plane: a key that it lacks may still exist. Tests.

use sidescale_core::key_prefix::KeyPrefix;

use super::*;
use crate::owner::{KeyClaim, ServiceOwner};
use crate::record::Previous;

/// A list that has only this key, and not those before it.
fn truncated(case: &mut Case) {
    case.truncated = true;
    let mut youngest = listed(1_000, at(90 * DAY));
    youngest.user = Some(UserId::from(2));
    case.issued = Some(vec![youngest]);
}

/// The same case without the mark, to show that only the mark makes the difference.
fn whole(case: &mut Case) {
    truncated(case);
    case.truncated = false;
}

fn lost(case: &mut Case) {
    case.key.abandoned = vec![Abandoned {
        since: at(0),
        intent: intent("me", "lost"),
    }];
}

#[test]
fn a_key_that_a_truncated_list_does_not_have_is_not_replaced_for_that() {
    assert_eq!(Case::new().with(truncated).steps(0), []);
    assert_eq!(Case::new().with(whole).steps(0), intend(KeyReason::Lost));
    // The keys that it has count: another expiry, another user, and a key that is due.
    let row = |change: fn(&mut PreAuthKey)| {
        let case = Case::new().with(truncated);
        let mut row = listed(7, at(90 * DAY));
        change(&mut row);
        case.with(|case| case.issued = Some(vec![row])).steps(0)
    };
    assert_eq!(row(|_| {}), []);
    let ended = row(|row| row.expiration = Some(at(1)));
    assert_eq!(ended, intend(KeyReason::Lost));
    assert_eq!(
        row(|row| row.user = Some(UserId::from(3))),
        intend(KeyReason::NotOwned)
    );
    let due = Case::new().with(truncated).steps(80 * DAY);
    assert_eq!(due, intend(KeyReason::Due));
}

#[test]
fn by_a_truncated_list_nothing_is_forgotten_and_old_keys_are_still_expired() {
    let forget = Step::ForgetAbandoned {
        data_key: KEY.into(),
        op: "lost".into(),
    };
    let keeps = |case: Case| !case.steps(DAY).contains(&forget);
    assert!(keeps(Case::new().with(lost).with(truncated)));
    assert!(!keeps(Case::new().with(lost).with(whole)));
    let old = Case::new().with(truncated).with(|case| {
        case.key.previous = vec![Previous {
            id: KeyId::from(1_000),
            expire_at: at(10),
            expires: at(90 * DAY),
            revoked: false,
        }];
    });
    assert_eq!(old.steps(10), expire(1_000, at(90 * DAY)));
}

#[test]
fn a_value_that_a_truncated_list_does_not_have_is_left_until_it_is_known() {
    let by_hand = |case: &mut Case| {
        case.key.current = None;
        case.value = Some(StoredValue {
            prefix: KeyPrefix::of(&format!("hskey-auth-abcdefghijkl-{}", "s".repeat(64))),
            flaw: None,
        });
    };
    let plan = Case::new().with(by_hand).with(truncated).plan(at(0));
    // Another list would show no more.
    assert_eq!((plan.steps, plan.confirm_at), (vec![], None));
    assert_eq!(plan.states[KEY], KeyState::Degraded);
    let replaced = Case::new().with(by_hand).with(whole).steps(0);
    assert_eq!(replaced, intend(KeyReason::Refused(Flaw::Unknown)));
}

#[test]
fn whether_a_single_pod_has_joined_a_truncated_list_does_not_say() {
    let own = |case: &mut Case| case.of_pods = true;
    let steps = |case: Case| case.with(own).steps(80 * DAY);
    assert_eq!(steps(Case::new().with(truncated)), []);
    assert_eq!(steps(Case::new().with(whole)), intend(KeyReason::Lost));
}

#[test]
fn of_a_claim_a_truncated_list_says_what_it_has_and_nothing_else() {
    let owner = ServiceOwner::new("shop", "api");
    for (truncated, id, end, want) in [
        (false, 7, 90, Some(Claimed::Owned)),
        (false, 7, 91, Some(Claimed::NotOwned)),
        (false, 8, 90, Some(Claimed::NotListed)),
        (true, 7, 90, Some(Claimed::Owned)),
        (true, 7, 91, Some(Claimed::NotOwned)),
        (true, 8, 90, None),
    ] {
        let issued = IssuedKeys {
            keys: [(KeyId::from(7), listed(7, at(90 * DAY)))]
                .into_iter()
                .collect::<std::collections::BTreeMap<_, _>>()
                .into(),
            truncated,
            users: case::users().into(),
            online: std::collections::BTreeSet::new(),
        };
        let claim = KeyClaim {
            owner: &owner,
            id: KeyId::from(id),
            expires: at(end * DAY),
        };
        let claimed = issued.claimed(&claim, "shop.api");
        assert_eq!(claimed, want, "{truncated} {id} {end}");
    }
}
