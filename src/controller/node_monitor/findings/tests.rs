use sidescale_core::id::NodeId;

use super::*;
use crate::clock::Clock;
use crate::cluster;
use crate::events::Events;

#[test]
fn a_stranger_is_told_with_the_command_that_ends_its_key() {
    let place = PodOwner {
        namespace: "shop".into(),
        service: "api".into(),
        secret: "headscale-auth-keys".into(),
        data_key: "api-authkey".into(),
    };
    let finding = NodeFinding {
        state: NodeState::Uninvited,
        user: "shop.api".into(),
        place: Some(place.clone()),
        count: 1,
        of: 3,
        pods: Vec::new(),
        nodes: vec![NodeId::from(4), NodeId::from(7), NodeId::from(9)],
        expecting: false,
    };
    for (namespace, release) in [("sidescale", "sidescale"), ("tailnet", "prod")] {
        let flags = cluster::flags(namespace, release);
        let note = uninvited("default", &finding, &place, &flags);
        assert!(
            note.contains("9, 7, 4") && note.contains("--identifier ID"),
            "{note}"
        );
        let (_, rest) = note.split_once("Expire that key: ").unwrap();
        let (command, _) = rest.split_once(';').unwrap();
        let want = format!("sidescale rotate --now --revoke shop/api{flags}");
        assert_eq!(command, want);
    }
}

#[test]
fn a_pod_is_told_of_once_an_hour_and_another_one_at_once() {
    let place = PodOwner {
        namespace: "shop".into(),
        service: "api".into(),
        secret: "keys".into(),
        data_key: "api-authkey".into(),
    };
    let member = |uid: u128| PodRef {
        created: Timestamp::UNIX_EPOCH,
        uid,
        name: format!("api-{uid}").into(),
    };
    let finding = |state, count, pods: &[u128]| NodeFinding {
        state,
        user: "shop.api".into(),
        place: None,
        count,
        of: 9,
        pods: pods.iter().copied().map(member).collect(),
        nodes: Vec::new(),
        expecting: false,
    };
    let clock = Clock::scaled(Timestamp::UNIX_EPOCH, 0.0);
    let events = Events::log(clock.clone());
    let told = |finding: &NodeFinding, place: &PodOwner| {
        let topics = topics(finding, place);
        topics
            .iter()
            .filter(|topic| events.claim(TELL_EVERY, topic))
            .count()
    };
    use NodeState::{Late, Lost, Uninvited};
    let other = PodOwner {
        data_key: "db-authkey".into(),
        ..place.clone()
    };
    // The minute, what is found and where, and how much is reported.
    let table = [
        (0, finding(Lost, 1, &[1]), &place, 1),
        (1, finding(Lost, 1, &[1]), &place, 0),
        (1, finding(Lost, 2, &[1, 2]), &place, 1),
        (1, finding(Late, 2, &[1, 2]), &place, 2),
        (2, finding(Lost, 1, &[3, 4]), &place, 1),
        (2, finding(Lost, 1, &[3, 4]), &other, 1),
        (3, finding(Uninvited, 1, &[]), &place, 1),
        (3, finding(Uninvited, 1, &[]), &place, 0),
        (59, finding(Lost, 1, &[1]), &place, 0),
        (60, finding(Lost, 1, &[1]), &place, 1),
        (
            61,
            finding(Lost, 8, &[11, 12, 13, 14, 15, 16, 17, 18]),
            &place,
            MOST_TOLD,
        ),
    ];
    for (minute, finding, place, want) in table {
        clock.set(after(
            Timestamp::UNIX_EPOCH,
            Duration::from_secs(minute * 60),
        ));
        assert_eq!(told(&finding, place), want, "{minute}: {finding:?}");
    }
}

#[test]
fn what_headscale_calls_a_user_is_quoted() {
    let place = PodOwner {
        namespace: "shop".into(),
        service: "api; id".into(),
        secret: "keys".into(),
        data_key: "api-authkey".into(),
    };
    let finding = NodeFinding {
        state: NodeState::Uninvited,
        user: "shop.api\n$(id)".into(),
        place: None,
        count: 1,
        of: 3,
        pods: Vec::new(),
        nodes: Vec::new(),
        expecting: false,
    };
    let note = uninvited("default", &finding, &place, "");
    assert!(note.contains(r#"user "shop.api\n$(id)" of"#), "{note}");
    assert!(!note.contains("--revoke shop/api; id"), "{note}");
}

#[test]
fn a_pod_whose_key_worked_once_is_mended_by_another_pod() {
    let pod = PodRef {
        created: Timestamp::UNIX_EPOCH,
        uid: 1,
        name: "api-x".into(),
    };
    for (secret, command) in [
        (
            "headscale-auth-keys",
            "kubectl exec -n shop api-x -c tailscale -- killall containerboot",
        ),
        (POD_SECRET, "kubectl delete pod -n shop api-x"),
    ] {
        let place = PodOwner {
            namespace: "shop".into(),
            service: "api".into(),
            secret: secret.into(),
            data_key: "api-0123456789ab-authkey".into(),
        };
        let now = Timestamp::UNIX_EPOCH;
        for note in [lost(&place, &pod), late(&place, &pod, "running", now)] {
            assert!(note.ends_with(command), "{note}");
        }
    }
}
