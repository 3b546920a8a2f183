//! Room in a Secret's bytes. Tests.

use super::*;
use crate::plan::room::TAKES_NEW;

const NEW: &str = "new-authkey";

/// A key in force, the demand for a new one, and three keys unused since these times.
fn case(bytes: usize, unused: [i64; 3]) -> Case {
    Case::new().with(|case| {
        case.bytes = bytes;
        let new = KeyDemand {
            service: "new".into(),
            since: at(1),
            ..demand()
        };
        case.demand.insert(NEW.to_owned(), new);
        for (n, since) in unused.into_iter().enumerate() {
            let mut key = KeyRecord::new(&format!("old{n}"), "default");
            key.current = Some(made(100 + n as u64));
            key.unused_since = Some(at(since));
            case.others.insert(format!("old{n}-authkey"), key);
        }
    })
}

/// The keys with a new intent, and those that are retired.
fn steps(plan: &Plan) -> (Vec<&str>, Vec<&str>) {
    let begun = plan.steps.iter().filter_map(|step| match step {
        Step::Intend { data_key, .. } => Some(data_key.as_str()),
        _ => None,
    });
    let retired = plan.steps.iter().filter_map(|step| match step {
        Step::Retire { data_key } => Some(data_key.as_str()),
        _ => None,
    });
    (begun.collect(), retired.collect())
}

#[test]
fn a_secret_that_is_nearly_full_takes_no_new_service_and_lets_unused_keys_go() {
    let (new, two) = ([NEW].as_slice(), ["old1-authkey", "old0-authkey"]);
    let none: &[&str] = &[];
    // Bytes of the Secret; keys with a new intent; keys that are retired, longest unused first.
    for (bytes, begun, retired) in [
        (1_000, new, 0),
        (TAKES_NEW - 1_000, new, 0),
        (TAKES_NEW - 100, none, 1),
        (TAKES_NEW, none, 2),
        (TAKES_NEW + 100_000, none, 2),
    ] {
        let plan = case(bytes, [500, 400, 700]).plan(at(1_100));
        assert_eq!(
            steps(&plan),
            (begun.to_vec(), two[..retired].to_vec()),
            "{bytes}"
        );
        let full = begun.is_empty();
        let state = if full {
            KeyState::QuotaExceeded
        } else {
            KeyState::Degraded
        };
        assert_eq!((plan.states[NEW], plan.full), (state, full), "{bytes}");
        assert_eq!(plan.states[KEY], KeyState::Ready, "who has a key keeps it");
    }
}

#[test]
fn a_full_secret_renews_the_keys_that_it_has() {
    let plan = case(TAKES_NEW, [0; 3]).plan(at(80 * DAY));
    assert_eq!(steps(&plan).0, [KEY]);
    // A key with an intent is still created.
    let begun = case(TAKES_NEW, [0; 3]).with(|case| {
        let mut key = KeyRecord::new("new", "default");
        key.intent = Some(intent("me", "live"));
        case.others.insert(NEW.to_owned(), key);
    });
    let minted = begun
        .plan(at(0))
        .steps
        .into_iter()
        .find_map(|step| match step {
            Step::Create { data_key, .. } => Some(data_key),
            _ => None,
        });
    assert_eq!(minted.as_deref(), Some(NEW));
}

#[test]
fn no_key_is_taken_out_for_bytes_before_its_pods_were_all_seen() {
    let unseen = case(TAKES_NEW, [0; 3]).with(|case| case.synced = false);
    assert_eq!(steps(&unseen.plan(at(10_000))).1, Vec::<&str>::new());
    // A key that was already retired goes with its overlap, and no other is retired for it.
    let leaving = case(TAKES_NEW, [0; 3]).with(|case| {
        for key in case.others.values_mut().take(2) {
            key.retire(at(9_900), Duration::from_secs(3_600));
        }
    });
    assert_eq!(steps(&leaving.plan(at(10_000))).1, Vec::<&str>::new());
}
