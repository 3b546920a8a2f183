//! Faults: refusals, crashes, other writers, new databases. Pure.

use super::*;

#[test]
fn a_key_that_is_refused_where_it_is_used_never_gets_into_the_secret() {
    let mut world = World::new();
    let mut keeper = keeper("a");
    let refuse = |action: &Action, done| match action {
        Action::Verify { .. } => ActionOutcome::Refused,
        _ => done,
    };
    let rest = world.run_with(&mut keeper, refuse);
    assert!(matches!(rest.state, TokenState::Contended(_)), "{rest:?}");
    assert!(!world.secret.data.contains_key(DATA_KEY));
    assert_eq!(world.listed.len(), 2);
    // The next accepted key is written, and the others are expired.
    world.now = rest.until;
    world.run(&mut keeper);
    let live = world.listed.iter().filter(|row| row.is_live(world.now));
    assert_eq!(
        live.map(|row| row.id).collect::<Vec<_>>(),
        [ApiKeyId::from(3)]
    );
}

#[test]
fn a_write_that_is_refused_makes_no_second_key() {
    let mut world = World::new();
    let mut keeper = keeper("a");
    for _ in 0..20 {
        let action = keeper.next(world.now, &world.secret, &world.listed, 1);
        let done = match &action {
            Action::Write(write) if matches!(write.change, Change::Store(_)) => {
                ActionOutcome::Failed
            }
            action => world.act(action),
        };
        keeper.absorb(world.now, action, done);
        world.now = after(world.now, Duration::from_secs(300));
    }
    assert_eq!(world.listed.len(), 1);
    world.run(&mut keeper);
    assert_eq!(world.listed.len(), 1);
    assert_eq!(world.secret.data[DATA_KEY].as_slice(), value(1).as_bytes());
}

#[test]
fn another_writers_intent_is_respected_for_a_while() {
    let mut world = World::new();
    let mut first = keeper("a");
    let action = first.next(world.now, &world.secret, &world.listed, 1);
    let done = world.act(&action);
    first.absorb(world.now, action, done);
    let rest = world.run(&mut keeper("b"));
    assert_eq!(
        (rest.state, rest.until),
        (TokenState::Yields("a".into()), at(120))
    );
    // The same name again means that the container restarted: its former work is lost.
    let mut restarted = World {
        now: at(1),
        secret: world.secret.clone(),
        listed: Vec::new(),
        calls: Vec::new(),
    };
    assert_eq!(restarted.run(&mut keeper("a")).state, TokenState::Good);
    world.now = at(120);
    world.called();
    assert_eq!(world.run(&mut keeper("b")).state, TokenState::Good);
    assert_eq!(
        world.called(),
        ["intend first", "create", "verify 1", "store 1"]
    );
    // The first wakes up late: the key of its old intent is expired.
    assert!(matches!(
        first.next(world.now, &world.secret, &world.listed, 1),
        Action::Rest(_)
    ));
}

#[test]
fn the_key_of_a_crashed_run_is_found_by_its_end_and_ended() {
    let mut world = World::new();
    let mut crashed = keeper("a");
    for _ in 0..2 {
        let action = crashed.next(world.now, &world.secret, &world.listed, 1);
        let done = world.act(&action);
        crashed.absorb(world.now, action, done);
    }
    assert_eq!(world.called(), ["intend first", "create"]);
    // A foreign key expires at nearly the same time.
    let near = world.listed[0].expires.unwrap() + Duration::from_micros(1);
    world.create(near);
    let rest = world.run(&mut keeper("a"));
    assert_eq!(
        world.called(),
        ["intend first", "create", "verify 3", "store 3", "expire 1"]
    );
    assert_eq!(rest.others, 1);
    world.now = after(world.now, record::ABANDONED_FOR);
    world.run(&mut keeper("a"));
    assert_eq!(world.called(), ["Tidy"]);
}

#[test]
fn a_secret_deleted_after_an_hour_comes_back_with_a_new_key_and_the_old_is_ended() {
    let mut world = World::new();
    let mut keeper = keeper("a");
    world.run(&mut keeper);
    world.now = at(HOUR);
    world.secret = StoredSecret::absent("headscale", "headscale-api-key");
    world.called();
    world.run(&mut keeper);
    assert_eq!(
        world.called(),
        [
            "intend first",
            "create",
            "verify 2",
            "store 2",
            "expire 1",
            "Tidy"
        ]
    );
}

#[test]
fn a_new_database_gives_old_ids_to_keys_of_others() {
    let mut world = World::new();
    let mut keeper = keeper("a");
    world.run(&mut keeper);
    let theirs = row(1, "ofsomebody00", at(30 * DAY));
    world.listed = vec![theirs];
    world.called();
    world.run(&mut keeper);
    assert_eq!(
        world.called(),
        [
            "intend unknown_to_headscale",
            "create",
            "verify 2",
            "store 2"
        ]
    );
    assert!(world.listed.iter().all(|row| row.is_live(world.now)));
}

#[test]
fn whoever_keeps_undoing_it_sees_one_key_an_hour_and_it_is_put_back() {
    let undoings: [fn(&mut World); 3] = [
        |world| world.secret = StoredSecret::absent("headscale", "headscale-api-key"),
        // An older state, with an expired key.
        |world| world.put(&value(1), &OURS, &[(EXPIRATION, "2023-11-14T22:13:20Z")]),
        |world| world.put("theirs", &OURS, &[]),
    ];
    for undo in undoings {
        let mut world = World::new();
        let mut keeper = keeper("a");
        let first = world.create(at(-1));
        assert_eq!(first, value(1));
        let mut made = Vec::new();
        for second in 0..3 * HOUR {
            world.now = at(second);
            let before = world.listed.len();
            undo(&mut world);
            let rest = world.run(&mut keeper);
            let live = world.listed.iter().filter(|row| row.is_live(world.now));
            let live: Vec<_> = live.map(|row| value(row.id.0.number().unwrap())).collect();
            let held = world.secret.data[DATA_KEY].as_slice();
            assert_eq!(
                live,
                [std::str::from_utf8(held).unwrap()],
                "second {second}"
            );
            if world.listed.len() > before {
                made.push(second);
            }
            let fight = second % HOUR >= 2;
            assert_eq!(
                matches!(rest.state, TokenState::Contended(_)),
                fight,
                "second {second}"
            );
        }
        assert_eq!(made, [0, HOUR, 2 * HOUR]);
    }
}

#[test]
fn a_key_that_was_put_back_keeps_its_times_and_is_renewed_when_it_is_due() {
    let mut world = World::new();
    let mut keeper = keeper("a");
    let before = world.run(&mut keeper);
    world.now = at(1_800);
    world.secret = StoredSecret::absent("headscale", "headscale-api-key");
    world.called();
    let rest = world.run(&mut keeper);
    assert_eq!(world.called(), ["PutBack"]);
    assert_eq!((rest.state, rest.due), (TokenState::Good, before.due));
    assert_eq!(world.note(CREATED_AT), "2023-11-14T22:13:20Z");
    world.now = rest.due.unwrap();
    world.run(&mut keeper);
    assert_eq!(
        world.called(),
        [
            "intend due",
            "create",
            "verify 2",
            "store 2",
            "expire 1",
            "Tidy"
        ]
    );
}

#[test]
fn a_key_that_was_ended_at_headscale_is_never_put_back() {
    let mut world = World::new();
    let mut keeper = keeper("a");
    world.run(&mut keeper);
    world.now = at(60);
    world.listed[0].expires = Some(at(30));
    world.secret = StoredSecret::absent("headscale", "headscale-api-key");
    world.called();
    world.run(&mut keeper);
    assert_eq!(
        world.called(),
        ["intend first", "create", "verify 2", "store 2"]
    );
}

#[test]
fn an_overlap_keeps_the_old_key_good_for_as_long() {
    let mut world = World::new();
    let policy = TokenPolicy {
        overlap: Duration::from_secs(300),
        ..policy()
    };
    let mut keeper = TokenKeeper::new("a".into(), policy);
    world.now = world.run(&mut keeper).due.unwrap();
    world.now = world.run(&mut keeper).due.unwrap_or(at(80 * DAY));
    world.called();
    let mut world = World::new();
    world.run(&mut keeper);
    world.now = at(81 * DAY);
    let rest = world.run(&mut keeper);
    assert_eq!(rest.until, after(world.now, Duration::from_secs(300)));
    assert!(!world.called().iter().any(|call| call.starts_with("expire")));
    world.now = rest.until;
    world.run(&mut keeper);
    assert_eq!(world.called(), ["expire 1", "Tidy"]);
}

#[test]
fn who_stands_in_renews_what_still_works_past_due_and_nothing_else() {
    let stand_in = || {
        let policy = TokenPolicy {
            stand_in: Some(hours(2)),
            ..policy()
        };
        TokenKeeper::new("rotation".into(), policy)
    };
    let mut world = World::new();
    world.run(&mut keeper("a"));
    world.called();
    let due = world.run(&mut keeper("a")).due.unwrap();
    let two = Duration::from_secs(2 * 3_600);
    // From here on the manager's last check is 80 days old.
    for (now, renewed) in [
        (due, false),
        (due + two - Duration::from_secs(1), false),
        (due + two, true),
    ] {
        let mut world = World {
            now,
            secret: world.secret.clone(),
            listed: world.listed.clone(),
            calls: Vec::new(),
        };
        world.run(&mut stand_in());
        assert_eq!(
            world.called().contains(&"store 2".to_owned()),
            renewed,
            "{now}"
        );
        if renewed {
            // Both come to rest on the same key.
            let rest = world.run(&mut keeper("a"));
            assert_eq!((rest.state, world.called().len()), (TokenState::Good, 0));
        }
    }
    // A manager that has checked recently keeps the key.
    world.now = due + two;
    form::check_in(
        &mut world.secret,
        "a",
        world.now - Duration::from_secs(3_600),
    );
    let rest = world.run(&mut stand_in());
    assert_eq!(
        (rest.state, world.called().len()),
        (TokenState::Attended("a".into()), 0)
    );
    // A key that does not work cannot create a key.
    let mut world = World::new();
    let ours = [("app.kubernetes.io/managed-by", "sidescale")];
    world.put(&value(9), &ours, &[]);
    let rest = world.run(&mut stand_in());
    assert_eq!(
        (rest.state, world.called().len()),
        (TokenState::LeftToOthers(TokenReason::Unknown), 0)
    );
}

#[test]
fn who_stands_in_keeps_to_the_life_that_the_manager_gave() {
    let told = |policy: TokenPolicy, stand_in| TokenPolicy { stand_in, ..policy };
    let short = || TokenPolicy {
        expiration: hours(24),
        buffer: hours(12),
        ..policy()
    };
    let mut world = World::new();
    world.run(&mut TokenKeeper::new("a".into(), short()));
    let made = world.now;
    let stand_in = || TokenKeeper::new("rotation".into(), told(policy(), Some(hours(2))));
    // The manager is gone since it created the key. A third of a day before the expiration, and two hours for the
    // manager.
    for (hour, renewed) in [(3, false), (13, false), (17, false), (19, true)] {
        let mut world = World {
            now: made + hours(hour),
            secret: world.secret.clone(),
            listed: world.listed.clone(),
            calls: Vec::new(),
        };
        world.run(&mut stand_in());
        let stored = world.called().contains(&"store 2".to_owned());
        assert_eq!(stored, renewed, "after {hour} hours");
        if renewed {
            let end = world.listed.last().unwrap().expires.unwrap();
            let life = end.duration_since(world.now).as_secs();
            assert!((24 * 3_600..24 * 3_600 + 120).contains(&life), "{life}");
        }
    }
}
