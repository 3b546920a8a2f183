use sidescale_core::key_state::KeyState;
use sidescale_core::notice::About;
use sidescale_core::time::after;

use super::*;

fn stopped() -> (Events, Clock) {
    let clock = Clock::scaled(Timestamp::UNIX_EPOCH, 0.0);
    (Events::log(clock.clone()), clock)
}

fn notice() -> Notice {
    Notice {
        namespace: "shop".into(),
        about: About::secret("headscale-auth-keys"),
        warning: true,
        reason: "SecretNotOurs",
        note: String::new(),
    }
}

#[test]
fn says_the_same_once_in_ten_minutes() {
    let (events, clock) = stopped();
    let notice = notice();
    assert!(events.publish(&notice));
    assert!(!events.publish(&notice));
    assert!(events.publish(&Notice {
        reason: "UserNotOurs",
        ..notice.clone()
    }));
    clock.advance(WINDOW);
    assert!(events.publish(&notice));
}

#[test]
fn what_is_said_every_few_minutes_is_said_again() {
    let (events, clock) = stopped();
    let said: Vec<bool> = (0..7)
        .map(|_| {
            let said = events.publish(&refused("a"));
            clock.advance(WINDOW / 3);
            said
        })
        .collect();
    assert_eq!(said, [true, false, false, true, false, false, true]);
}

#[test]
fn a_second_mistake_in_the_configuration_is_news_and_another_count_is_none() {
    let (events, _) = stopped();
    assert!(events.publish(&refused("a")));
    assert!(events.publish(&refused("b")));
    assert!(!events.publish(&refused("a")));
    let of_secret = |note| Notice {
        about: About::secret("headscale-auth-keys"),
        ..refused(note)
    };
    assert!(events.publish(&of_secret("1 pod")));
    assert!(!events.publish(&of_secret("2 pods")));
}

fn refused(note: &str) -> Notice {
    Notice {
        namespace: "sidescale".into(),
        about: About::ConfigMap("sidescale-config".into()),
        warning: true,
        reason: "ConfigurationRefused",
        note: note.to_owned(),
    }
}

#[test]
fn two_parts_of_an_object_are_told_apart() {
    let (events, clock) = stopped();
    let hour = Duration::from_secs(3_600);
    let topic = |part| Topic::new("shop", &About::secret("keys"), part, "Lost");
    assert!(events.claim(hour, &topic("web")));
    assert!(events.claim(hour, &topic("db")));
    assert!(!events.claim(hour, &topic("web")));
    clock.advance(WINDOW);
    assert!(!events.claim(hour, &topic("web")));
    let again = events.again(&topic("web"));
    assert_eq!(again, Some(after(Timestamp::UNIX_EPOCH, hour)));
    events.over(&topic("web"));
    assert!(events.claim(hour, &topic("web")));
}

/// A tenant who causes only noise.
#[test]
fn keys_that_end_and_control_planes_are_told_whatever_else_there_is() {
    let (events, _) = stopped();
    let pod = |n| Notice {
        about: About::pod(&format!("web-{n}"), n),
        reason: "SecretMissing",
        ..notice()
    };
    let said = (0..10_000).filter(|n| events.publish(&pod(*n))).count();
    assert_eq!(said, BUDGET);
    for reason in URGENT {
        assert!(events.publish(&Notice { reason, ..notice() }), "{reason}");
    }
    for state in KeyState::ALL {
        let of_control_plane = match state {
            KeyState::Degraded
            | KeyState::NoCredentials
            | KeyState::InvalidCredentials
            | KeyState::Unsupported => true,
            KeyState::Ready
            | KeyState::SecretNotOurs
            | KeyState::UserNotOurs
            | KeyState::UserMissing
            | KeyState::Contended
            | KeyState::QuotaExceeded
            | KeyState::Throttled
            | KeyState::TooManyRows
            | KeyState::Paused => false,
        };
        let urgent = URGENT.contains(&state.as_str());
        assert_eq!(urgent, of_control_plane, "{}", state.as_str());
    }
    let elsewhere = Notice {
        namespace: "lab".into(),
        ..pod(1)
    };
    assert!(events.publish(&elsewhere));
}

#[test]
fn lines_of_the_log_have_a_budget_of_their_own() {
    let (events, clock) = stopped();
    let secret = About::secret("headscale-auth-keys");
    let topic = |n: usize| Topic::new("shop", &secret, &format!("key-{n}"), "Degraded");
    let hour = Duration::from_secs(3_600);
    let line = |n: usize| events.may_log(hour, &topic(n));
    assert_eq!((0..10_000).filter(|n| line(*n)).count(), BUDGET);
    assert!(events.publish(&notice()));
    clock.advance(WINDOW);
    assert!(!line(0), "within the hour");
    assert!(line(BUDGET));
}

#[tokio::test]
async fn what_has_no_room_in_the_queue_is_news_again() {
    let client = Client::new(
        tower::service_fn(async |_: http::Request<kube::client::Body>| {
            Err::<http::Response<kube::client::Body>, _>(std::io::Error::other("away"))
        }),
        "default",
    );
    let metrics = Arc::new(Metrics::new().unwrap());
    let clock = Clock::scaled(Timestamp::UNIX_EPOCH, 0.0);
    let (events, publisher) = Events::kubernetes(client, "a".into(), clock, metrics);
    assert!(events.publish(&notice()));
    assert!(!events.publish(&notice()));
    drop(publisher);
    let other = Notice {
        reason: "UserNotOurs",
        ..notice()
    };
    assert!(events.publish(&other) && events.publish(&other));
}

#[test]
fn a_pod_is_named_with_its_uid_and_a_secret_without() {
    let uid = uuid::Uuid::parse_str("6f1c2f0e-7a38-4a8e-9a53-2d9d0a8f3c11").unwrap();
    let pod = reference(&About::pod("api-0", uid.as_u128()), "shop");
    assert_eq!(
        (pod.kind.as_deref(), pod.uid),
        (Some("Pod"), Some(uid.to_string()))
    );
    let secret = reference(&About::secret("keys"), "shop");
    assert_eq!((secret.kind.as_deref(), secret.uid), (Some("Secret"), None));
}

#[test]
fn cuts_a_long_note_between_characters() {
    assert_eq!(cut(&"ä".repeat(600)).len(), 1000);
    assert_eq!(cut("short"), "short");
}
