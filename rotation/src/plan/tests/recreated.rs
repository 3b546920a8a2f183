//! A record of an earlier namespace of the same name: what the list confirms is kept. Tests.

use super::*;
use crate::record::Origin;

#[test]
fn of_an_earlier_namespace_what_the_list_confirms_is_kept_and_the_rest_created_again() {
    use Origin::{Foreign, Hand, Ours};
    let keep = vec![Step::TakeOver];
    let again = || intend(KeyReason::NotOwned);
    for (who, user, origin, want) in [
        ("its own", 1, Ours, keep.clone()),
        ("its own, put there by hand", 1, Hand, keep.clone()),
        ("of the adopted user", 4, Ours, keep.clone()),
        ("of the adopted user, by hand", 4, Foreign, keep),
        ("a person's", 2, Ours, again()),
        ("a person's, put there by hand", 2, Foreign, again()),
        ("another namespace's", 3, Ours, again()),
        (
            "another namespace's, put there by hand",
            3,
            Foreign,
            again(),
        ),
    ] {
        let case = Case::new().with(|case| {
            case.recreated = true;
            case.key.current.as_mut().unwrap().origin = origin;
            let mut row = listed(7, at(90 * DAY));
            row.user = Some(UserId::from(user));
            case.issued = Some(vec![row]);
        });
        assert_eq!(case.steps(0), want, "{who}");
    }
}

#[test]
fn of_an_earlier_namespace_nothing_is_decided_without_the_list() {
    let case = Case::new().with(|case| case.recreated = true);
    let plan = case.plan(at(0));
    assert_eq!((plan.steps, plan.confirm_at), (vec![], Some(at(0))));
    assert_eq!(
        plan.states[KEY],
        KeyState::Ready,
        "the old value stays until then"
    );
    // In its own namespace, no list is needed for that.
    assert_eq!(Case::new().plan(at(0)).confirm_at, None);
}

#[test]
fn of_an_earlier_namespace_a_key_that_no_pod_needs_goes_unless_it_is_confirmed() {
    let case = |user, change: fn(&mut Case)| {
        let case = Case::new().with(|case| {
            case.recreated = true;
            case.demand.clear();
            case.key.unused_since = Some(at(0));
            let mut row = listed(7, at(90 * DAY));
            row.user = Some(UserId::from(user));
            case.issued = Some(vec![row]);
        });
        case.with(change).steps(1)
    };
    let retire = Step::Retire {
        data_key: KEY.into(),
    };
    assert_eq!(case(1, |_| {}), [Step::TakeOver]);
    assert_eq!(case(2, |_| {}), [retire, Step::TakeOver]);
    // Pods that were not all seen may need it, and pods that refer to it do.
    assert_eq!(case(2, |case| case.synced = false), []);
    let held = case(2, |case| {
        case.held.insert(KEY.to_owned());
        case.key.unused_since = None;
    });
    assert_eq!(held, []);
    // One without a key in force has nothing to confirm.
    let previous = case(2, |case| case.key.retire(at(0), Duration::from_secs(100)));
    assert_eq!(previous, [Step::TakeOver]);
}
