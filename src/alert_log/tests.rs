use super::*;

const MINUTE: u64 = 60;

fn at(second: u64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + i64::try_from(second).unwrap()).unwrap()
}

fn alert<'a>(namespace: &'a str, object: &'a str, class: AlertClass) -> Alert<'a> {
    Alert {
        namespace,
        object,
        reason: "Late",
        class,
        every: WINDOW,
    }
}

/// Returns how many of so many alerts, each about another object, are reported.
fn reported(
    log: &mut AlertLog,
    now: Timestamp,
    namespace: &str,
    class: AlertClass,
    n: usize,
) -> usize {
    let objects = (0..n).map(|n| format!("Pod/{class:?}-{n}"));
    objects
        .filter(|object| log.admit(now, &alert(namespace, object, class)) == AlertVerdict::Report)
        .count()
}

#[test]
fn a_namespace_with_ten_thousand_objects_silences_nobody_else() {
    let mut log = AlertLog::default();
    let noisy = reported(&mut log, at(0), "noisy", AlertClass::Problem, 10_000);
    assert_eq!(noisy, BUDGET);
    for (class, n) in [
        (AlertClass::News, NEWS),
        (AlertClass::Problem, BUDGET - NEWS),
        (AlertClass::Line, BUDGET),
    ] {
        assert_eq!(reported(&mut log, at(1), "quiet", class, n), n, "{class:?}");
    }
    let noisy = reported(
        &mut log,
        at(10 * MINUTE),
        "noisy",
        AlertClass::Problem,
        10_000,
    );
    assert_eq!(noisy, BUDGET, "the budget comes back");
}

#[test]
fn each_class_has_its_own_room() {
    // The alerts, in that order, and how many of them are reported.
    let table: [&[(AlertClass, usize, usize)]; 5] = [
        &[
            (AlertClass::News, 100, NEWS),
            (AlertClass::Problem, 100, BUDGET - NEWS),
        ],
        &[
            (AlertClass::Problem, 100, BUDGET),
            (AlertClass::News, 100, 0),
        ],
        &[
            (AlertClass::Problem, NEWS - 1, NEWS - 1),
            (AlertClass::News, 100, 1),
        ],
        &[
            (AlertClass::Line, 100, BUDGET),
            (AlertClass::Problem, 100, BUDGET),
        ],
        &[
            (AlertClass::Problem, 100, BUDGET),
            (AlertClass::Line, 100, BUDGET),
            (AlertClass::Urgent, 100, 100),
        ],
    ];
    for row in table {
        let mut log = AlertLog::default();
        for (class, asked, want) in row {
            let got = reported(&mut log, at(0), "shop", *class, *asked);
            assert_eq!(got, *want, "{class:?} of {row:?}");
        }
    }
}

#[test]
fn an_urgent_alert_always_passes_and_is_not_repeated() {
    let mut log = AlertLog::default();
    reported(&mut log, at(0), "shop", AlertClass::Problem, 10_000);
    let urgent = Alert {
        reason: "KeyExpired",
        ..alert("shop", "Secret/keys", AlertClass::Urgent)
    };
    assert_eq!(log.admit(at(1), &urgent), AlertVerdict::Report);
    assert_eq!(log.admit(at(2), &urgent), AlertVerdict::Repeat);
    assert_eq!(
        log.admit(at(1 + 10 * MINUTE), &urgent),
        AlertVerdict::Report
    );
}

#[test]
fn one_alert_is_reported_once_in_its_period() {
    let hourly = Alert {
        every: Duration::from_secs(3_600),
        ..alert("shop", "Pod/web", AlertClass::Problem)
    };
    let other = Alert {
        reason: "Lost",
        ..hourly
    };
    let elsewhere = Alert {
        namespace: "lab",
        ..hourly
    };
    // The minute, the alert, and whether it is reported.
    let table = [
        (0, hourly, true),
        (0, other, true),
        (0, elsewhere, true),
        (1, hourly, false),
        (59, hourly, false),
        (60, hourly, true),
        (61, other, true),
        (119, hourly, false),
        (120, hourly, true),
    ];
    let mut log = AlertLog::default();
    for (minute, alert, want) in table {
        let got = log.admit(at(minute * MINUTE), &alert);
        let want = if want {
            AlertVerdict::Report
        } else {
            AlertVerdict::Repeat
        };
        assert_eq!(got, want, "{minute}: {alert:?}");
    }
}

#[test]
fn the_first_alert_that_is_dropped_is_named_once_in_ten_minutes() {
    let mut log = AlertLog::default();
    let mut firsts = Vec::new();
    for minute in 0..25 {
        for n in 0..100 {
            let object = format!("Pod/{minute}-{n}");
            let verdict = log.admit(
                at(minute * MINUTE),
                &alert("shop", &object, AlertClass::Problem),
            );
            if verdict == (AlertVerdict::OverBudget { first: true }) {
                firsts.push(minute);
            }
        }
    }
    assert_eq!(firsts, [0, 10, 20]);
}

#[test]
fn a_clock_that_is_set_back_silences_nobody() {
    let once = alert("shop", "Pod/web", AlertClass::Problem);
    for (back, want) in [
        (30, AlertVerdict::Repeat),
        (60, AlertVerdict::Repeat),
        (61, AlertVerdict::Report),
        (86_400 * 365, AlertVerdict::Report),
    ] {
        let mut log = AlertLog::default();
        assert_eq!(log.admit(at(86_400 * 366), &once), AlertVerdict::Report);
        reported(
            &mut log,
            at(86_400 * 366),
            "noisy",
            AlertClass::Problem,
            100,
        );
        let now = at(86_400 * 366 - back);
        assert_eq!(log.admit(now, &once), want, "{back} s back");
        let more = reported(&mut log, now, "noisy", AlertClass::Problem, 1_000);
        assert_eq!(more > 0, want == AlertVerdict::Report, "{back} s back");
    }
}

#[test]
fn what_did_not_get_out_is_reported_again() {
    let mut log = AlertLog::default();
    let once = alert("shop", "Pod/web", AlertClass::Problem);
    assert_eq!(log.again("shop", "Pod/web", "Late"), None);
    assert_eq!(log.admit(at(0), &once), AlertVerdict::Report);
    let again = log.again("shop", "Pod/web", "Late");
    assert_eq!(again, Some(at(10 * MINUTE)));
    log.forget("shop", "Pod/web", "Late");
    assert_eq!(log.again("shop", "Pod/web", "Late"), None);
    assert_eq!(log.admit(at(1), &once), AlertVerdict::Report);
}

#[test]
fn what_was_over_and_comes_back_is_reported_after_ten_minutes() {
    let hourly = Alert {
        every: Duration::from_secs(3_600),
        ..alert("shop", "Pod/web", AlertClass::Problem)
    };
    let mut log = AlertLog::default();
    assert_eq!(log.admit(at(0), &hourly), AlertVerdict::Report);
    log.over("shop", "Pod/web", "Late");
    log.over("shop", "Pod/other", "Late");
    assert_eq!(log.admit(at(9 * MINUTE), &hourly), AlertVerdict::Repeat);
    assert_eq!(log.admit(at(10 * MINUTE), &hourly), AlertVerdict::Report);
    assert_eq!(log.admit(at(20 * MINUTE), &hourly), AlertVerdict::Repeat);
}

#[test]
fn remembers_no_more_than_it_has_room_for() {
    let mut log = AlertLog::default();
    let first = alert("ns-0", "Pod/web", AlertClass::Problem);
    for n in 0..3 * MOST_NAMESPACES {
        let namespace = format!("ns-{n}");
        let now = at(n as u64 / 100);
        assert_eq!(
            log.admit(now, &alert(&namespace, "Pod/web", AlertClass::Problem)),
            AlertVerdict::Report
        );
        assert!(log.namespaces.len() <= MOST_NAMESPACES);
    }
    assert_eq!(
        log.admit(at(31), &first),
        AlertVerdict::Report,
        "the oldest is forgotten"
    );
    let last = format!("ns-{}", 3 * MOST_NAMESPACES - 1);
    let last = alert(&last, "Pod/web", AlertClass::Problem);
    assert_eq!(log.admit(at(31), &last), AlertVerdict::Repeat);

    reported(&mut log, at(31), "ns-0", AlertClass::Urgent, 10_000);
    assert_eq!(log.namespaces["ns-0"].alerts.len(), MOST_OF_ONE);

    let much_later = at(86_400);
    log.admit(much_later, &first);
    assert_eq!(log.namespaces.len(), 1, "what is over is forgotten");
    assert_eq!(log.namespaces["ns-0"].alerts.len(), 1);
}
