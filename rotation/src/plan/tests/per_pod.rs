use super::*;
use crate::owner::{KeyHolder, ServiceOwner};
use crate::record::Previous;

const HOUR: i64 = 3_600;

/// A pod with its own key, created at second 0 for an hour.
fn case() -> Case {
    Case::new().with(|case| {
        case.of_pods = true;
        let demand = case.demand.get_mut(KEY).unwrap();
        demand.expiration = Duration::from_secs(3_600);
        demand.buffer = Duration::from_secs(1_200);
        demand.asked.reusable = false;
        let current = case.key.current.as_mut().unwrap();
        current.expires = at(HOUR);
        current.asked.reusable = false;
    })
}

/// A single-use key, as it is listed.
fn row(id: u64, expires: Timestamp) -> PreAuthKey {
    PreAuthKey {
        reusable: false,
        ..listed(id, expires)
    }
}

fn used(used: bool) -> impl FnOnce(&mut Case) {
    move |case| {
        let key = row(7, at(HOUR));
        case.issued = Some(vec![PreAuthKey { used, ..key }]);
    }
}

fn joined(case: &mut Case) {
    case.key.joined_with = Some(KeyId::from(7));
}

fn gone(case: &mut Case) {
    case.demand.clear();
}

fn note_joined(id: u64) -> Vec<Step> {
    let (data_key, id) = (KEY.to_owned(), KeyId::from(id));
    vec![Step::NoteJoined { data_key, id }]
}

/// Its pod asks for another tag.
fn changed(case: &mut Case) {
    case.demand.get_mut(KEY).unwrap().asked.tags = vec!["tag:web".into()];
}

#[test]
fn the_key_of_one_pod_is_made_anew_only_until_the_pod_has_joined() {
    let ended = |case: &mut Case| case.issued = Some(vec![row(7, at(5))]);
    let (due, over) = (HOUR - 1_200, 2 * HOUR);
    let table: [(&str, Case, i64, Vec<Step>); 15] = [
        (
            "no key yet",
            case().with(|case| case.key.current = None),
            0,
            intend(KeyReason::First),
        ),
        ("not due", case(), due - 1, vec![]),
        ("due, and nobody was asked", case(), due, vec![]),
        (
            "due, and not used",
            case().with(used(false)),
            due,
            intend(KeyReason::NotJoined),
        ),
        (
            "over, and not used",
            case().with(used(false)),
            over,
            intend(KeyReason::NotJoined),
        ),
        ("used early", case().with(used(true)), 10, note_joined(7)),
        (
            "used, and over",
            case().with(used(true)),
            over,
            note_joined(7),
        ),
        ("joined, and over", case().with(joined), over, vec![]),
        (
            "joined, and ended by hand",
            case().with(joined).with(ended),
            10,
            vec![],
        ),
        (
            "joined, and asked for otherwise",
            case().with(joined).with(changed),
            10,
            vec![],
        ),
        (
            "ended by hand",
            case().with(ended),
            10,
            intend(KeyReason::Lost),
        ),
        (
            "asked for otherwise",
            case().with(changed),
            10,
            intend(KeyReason::Changed),
        ),
        (
            "a person asked",
            case().with(|case| case.request(7)),
            10,
            intend(KeyReason::Requested),
        ),
        (
            "the value was taken out",
            case().with(|case| case.filled = false),
            10,
            intend(KeyReason::ValueLost),
        ),
        (
            "joined, and the value was taken out: no container could start again",
            case().with(joined).with(|case| case.filled = false),
            over,
            intend(KeyReason::ValueLost),
        ),
    ];
    for (name, case, now, steps) in table {
        let plan = case.plan(at(now));
        assert_eq!(plan.steps, steps, "{name}");
        assert_eq!(plan.renew_at, None, "{name}: its time alone renews nothing");
    }
}

#[test]
fn a_pod_that_is_a_node_by_its_volume_needs_no_key_while_it_is_online() {
    let named = |case: &mut Case| {
        case.demand.get_mut(KEY).unwrap().hostname = Some("db-0".into());
    };
    let online = |host: &'static str| {
        move |case: &mut Case| {
            let holder = KeyHolder::Service(ServiceOwner::new("shop", "api"));
            case.online.push((holder, host.into()));
        }
    };
    let due = at(HOUR - 1_200);
    let plan = case()
        .with(used(false))
        .with(named)
        .with(online("db-0"))
        .plan(due);
    assert_eq!(
        (plan.steps, plan.confirm_at),
        (vec![], Some(at(2 * HOUR - 1_200)))
    );
    for other in [
        case().with(used(false)).with(named),
        case().with(used(false)).with(named).with(online("db-1")),
        case().with(used(false)).with(online("db-0")),
    ] {
        assert_eq!(other.plan(due).steps, intend(KeyReason::NotJoined));
    }
}

/// A pod whose key was renewed may have read the earlier key a moment ago, and join with that.
#[test]
fn a_key_that_was_renewed_ends_when_its_pod_has_not_joined_with_it() {
    let renewed = |used: Option<bool>| {
        case().with(|case| {
            case.key.current.as_mut().unwrap().id = KeyId::from(8);
            case.key.previous.push(Previous {
                revoked: false,
                id: KeyId::from(7),
                expire_at: at(300),
                expires: at(HOUR - 1),
            });
            case.issued = used.map(|used| {
                let old = row(7, at(HOUR - 1));
                vec![PreAuthKey { used, ..old }, row(8, at(HOUR))]
            });
        })
    };
    let unknown = renewed(None).plan(at(300));
    assert_eq!((unknown.steps, unknown.confirm_at), (vec![], Some(at(300))));
    assert_eq!(renewed(None).plan(at(299)).cleanup_at, Some(at(300)));
    assert_eq!(renewed(Some(false)).steps(300), expire(7, at(HOUR - 1)));
    let both = [note_joined(7), expire(7, at(HOUR - 1))].concat();
    assert_eq!(renewed(Some(true)).steps(300), both);
    assert_eq!(
        renewed(None).with(gone).steps(300).len(),
        2,
        "ended, and noted that it is gone"
    );
    // An unused key is expired with its pod, even if the pod has joined with another.
    let mut key = renewed(None).with(joined).key;
    key.retire_own(at(700));
    assert_eq!(key.previous.len(), 2);
}

#[test]
fn the_control_plane_is_asked_when_the_key_of_one_pod_is_due() {
    let due = at(HOUR - 1_200);
    assert_eq!(case().plan(at(0)).confirm_at, Some(due));
    assert_eq!(case().plan(at(9_000)).confirm_at, Some(at(9_000)));
    assert_eq!(case().with(used(false)).plan(at(0)).confirm_at, Some(due));
    assert_eq!(case().with(joined).plan(at(9_000)).confirm_at, None);
    let troubled = case().with(|case| {
        let (state, until) = (KeyState::Degraded, None);
        case.process
            .held
            .insert(KEY.into(), Blocked { state, until });
    });
    assert_eq!(troubled.plan(at(9_000)).confirm_at, None);
    let pass = case().with(used(false)).plan(at(9_000));
    assert_eq!(
        pass.states[KEY],
        KeyState::Degraded,
        "it ended before its pod came"
    );
}

#[test]
fn the_key_of_a_pod_stays_as_long_as_the_pod_and_goes_soon_after() {
    let noted = |since| move |case: &mut Case| case.key.unused_since = Some(at(since));
    let note = |unused_since| {
        let data_key = KEY.to_owned();
        vec![Step::NoteUse {
            data_key,
            unused_since,
        }]
    };
    let retire = vec![Step::Retire {
        data_key: KEY.into(),
    }];
    let held = |case: &mut Case| {
        case.held.insert(KEY.into());
    };
    let table: [(&str, Case, i64, Vec<Step>); 7] = [
        ("there", case().with(joined), 90 * DAY, vec![]),
        ("gone", case().with(gone), 50, note(Some(at(50)))),
        (
            "gone for ten minutes less a second",
            case().with(gone).with(noted(50)),
            649,
            vec![],
        ),
        (
            "gone for ten minutes",
            case().with(gone).with(noted(50)),
            650,
            retire,
        ),
        (
            "there again",
            case().with(joined).with(noted(50)),
            650,
            note(None),
        ),
        (
            "refused by policy",
            case().with(gone).with(held),
            90 * DAY,
            vec![],
        ),
        (
            "not looked at yet",
            case().with(gone).with(|case| case.synced = false),
            90 * DAY,
            vec![],
        ),
    ];
    for (name, case, now, steps) in table {
        assert_eq!(case.steps(now), steps, "{name}");
    }
}

#[test]
fn the_key_of_a_pod_that_is_gone_ends_at_once_unless_it_is_used_up() {
    let retired = |change: fn(&mut Case), now| {
        let mut key = case().with(change).key;
        key.retire_own(at(now));
        key
    };
    let key = retired(|_| {}, 700);
    assert_eq!(
        (key.previous[0].id, key.previous[0].expire_at),
        (KeyId::from(7), at(700))
    );
    for (change, now) in [(joined as fn(&mut Case), 700), (|_: &mut Case| {}, HOUR)] {
        let key = retired(change, now);
        assert!(key.is_empty(), "{key:?}");
    }
    let case = case().with(gone).with(|case| case.key.retire_own(at(700)));
    assert_eq!(case.steps(700), expire(7, at(HOUR)));
}

/// This many pods of a service whose name has this length.
fn crowd(name: usize, pods: usize) -> Case {
    let service = "s".repeat(name);
    let mut one = case().demand.remove(KEY).unwrap();
    one.service.clone_from(&service);
    one.asked.user = format!("shop.{service}");
    let pods = (0..pods).map(|pod| {
        let demand = KeyDemand {
            since: at(pod as i64),
            ..one.clone()
        };
        (format!("{service}-{pod:012x}-authkey"), demand)
    });
    let mut case = case();
    case.demand = pods.collect();
    case
}

#[test]
fn a_secret_takes_the_keys_of_the_oldest_pods_until_it_is_full() {
    let left_out = |case: &Case| {
        let plan = case.plan(at(9_000));
        let too_many = |(_, state): &(&String, &KeyState)| **state == KeyState::QuotaExceeded;
        plan.states
            .iter()
            .filter(too_many)
            .map(|(key, _)| key.clone())
            .collect::<Vec<_>>()
    };
    assert!(left_out(&crowd(3, 1_950)).is_empty());
    let one = left_out(&crowd(3, 2_001));
    assert_eq!(one, ["sss-0000000007d0-authkey"], "the youngest");
    // Long names fill the Secret earlier.
    let long = crowd(200, 2_001);
    let fits = 2_001 - left_out(&long).len();
    assert!((700..1_000).contains(&fits), "{fits}");
    // A pod with a key keeps it, even if it is the youngest.
    let mut late = crowd(3, 2_001);
    late.demand.insert(KEY.into(), demand());
    late.demand.get_mut(KEY).unwrap().since = at(8_000);
    assert!(!left_out(&late).contains(&KEY.to_owned()));
}

#[test]
fn what_a_secret_takes_fits_into_it() {
    for name in [1, 30, 200] {
        let case = crowd(name, 2_001);
        let plan = case.plan(at(9_000));
        let mut record = Record::default();
        let mut bytes = 0;
        for (data_key, state) in &plan.states {
            if *state == KeyState::QuotaExceeded {
                continue;
            }
            let demand = &case.demand[data_key];
            let mut key = KeyRecord::new(&demand.service, "default");
            let times = Timestamp::new(9_000_000_000, 123_456_789).unwrap();
            key.current = Some(Made {
                id: KeyId::from(10_000_000),
                created: times,
                expires: times,
                asked: demand.asked.clone(),
                origin: crate::record::Origin::Ours,
            });
            key.joined_with = Some(KeyId::from(10_000_000));
            record.keys.insert(data_key.clone(), key);
            bytes += 90;
        }
        // As many intents as fit into one write.
        for key in record.keys.values_mut().take(64) {
            let mut intent = intent(&"w".repeat(32), &"o".repeat(32));
            intent.asked.user = format!("shop.{}", "s".repeat(name));
            key.intent = Some(intent);
        }
        bytes += record.document().unwrap().len();
        assert!(bytes < 1 << 20, "{name}: {bytes}");
        assert!(bytes > 700_000, "{name}: {bytes}, half of it is not used");
    }
}

#[test]
fn a_crowd_of_new_pods_is_begun_a_few_at_a_time() {
    let steps = crowd(3, 1_000).steps(9_000);
    let intents = steps
        .iter()
        .filter(|step| matches!(step, Step::Intend { .. }));
    assert_eq!(intents.count(), 64);
}
