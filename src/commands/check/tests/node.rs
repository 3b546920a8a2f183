//! The pod's node, and what its sidecar logs without one.

use super::*;

#[test]
fn says_how_the_node_does() {
    let log = "kubectl logs --namespace shop web-7c9d8b-x2x4z --container tailscale";
    hold(&[
        (
            |world| world.held.nodes[0].online = false,
            Level::Fail,
            "node",
            "web (node 3) is offline, last seen 5m ago",
            log,
        ),
        (
            |world| world.held.nodes.clear(),
            Level::Fail,
            "node",
            "no node web, although the pod is 24h old: it never joined, or was removed",
            "killall containerboot",
        ),
        (
            |world| {
                world.held.nodes.clear();
                world.facts.now = at(69 * DAY + 60);
            },
            Level::Warn,
            "node",
            "no node web yet; the pod is 60s old",
            log,
        ),
        // The node of the previous pod does not count.
        (
            |world| {
                world.held.nodes[0].created_at = Some(at(60 * DAY));
            },
            Level::Fail,
            "node",
            "no node web",
            log,
        ),
        (
            |world| world.held.nodes[0].given_name = "web-1".into(),
            Level::Ok,
            "node",
            "web-1 (node 3) is online, because another node has the name web",
            "",
        ),
        (
            |world| {
                world.env("TS_HOSTNAME", "$(POD_NAME)");
                world.held.nodes[0].name = POD.into();
            },
            Level::Ok,
            "node",
            "is online",
            "",
        ),
        (
            |world| world.facts.injected = Observed::Saw(replicas(3)),
            Level::Warn,
            "node",
            "1 of 3 pods named web are online",
            log,
        ),
        (
            |world| {
                world.facts.injected = Observed::Saw(replicas(3));
                world.held.nodes = vec![node(3), node(4), node(5)];
            },
            Level::Ok,
            "node",
            "3 nodes named web are online, for 3 pods",
            "",
        ),
    ]);
}

#[test]
fn finds_the_pods_node_by_key_or_user_as_rotation_does() {
    hold(&[
        (
            |world| {
                world.held.nodes[0].pre_auth_key = Some(KeyId::from(99));
                world.held.nodes[0].user = Some(UserId::from(2));
            },
            Level::Fail,
            "node",
            "no node web",
            "kubectl logs --namespace shop web-7c9d8b-x2x4z --container tailscale",
        ),
        // The row of its key was deleted: its user tells whose it is, as it does for rotation.
        (
            |world| world.held.nodes[0].pre_auth_key = Some(KeyId::from(99)),
            Level::Ok,
            "node",
            "web (node 3) is online",
            "",
        ),
    ]);
}

#[test]
fn says_why_the_control_server_does_not_let_it_in() {
    hold(&[
        (
            |world| {
                world.held.nodes.clear();
                world.facts.log = Observed::Saw(Some(Refused::Expired));
            },
            Level::Fail,
            "log",
            "rejects its key: it has expired",
            "sidescale rotate --now shop/web --namespace tailnet, then kubectl exec",
        ),
        (
            |world| {
                world.held.nodes.clear();
                world.facts.log = Observed::Saw(Some(Refused::Unreachable));
            },
            Level::Fail,
            "log",
            "cannot reach the control server at https://headscale.example.com",
            "curl https://headscale.example.com/health",
        ),
        // Its log may explain the problem before it is late.
        (
            |world| {
                world.held.nodes.clear();
                world.facts.now = at(69 * DAY + 60);
                world.facts.log = Observed::Saw(Some(Refused::Tags));
            },
            Level::Fail,
            "log",
            "does not permit its tags",
            "tagOwners",
        ),
        // A past refusal does not matter.
        (
            |world| world.facts.log = Observed::Saw(Some(Refused::Expired)),
            Level::Ok,
            "node",
            "is online",
            "",
        ),
        (
            |world| world.facts.log = Observed::Blind("get pods/log: forbidden (403)".into()),
            Level::Warn,
            "log",
            "not checked: get pods/log: forbidden (403)",
            "",
        ),
    ]);
}

#[test]
fn of_a_pod_whose_key_works_once_only_another_pod_joins_again() {
    let delete = "kubectl delete pod --namespace shop web-7c9d8b-x2x4z";
    let mut world = World::well();
    world.joined();
    world.held.nodes.clear();
    world.facts.log = Observed::Saw(Some(Refused::Used));
    for finding in world.judged() {
        let next = finding.next.unwrap_or_default();
        assert!(
            !next.contains("killall") && !next.contains("rotate"),
            "{next}"
        );
        match finding.check {
            "log" => assert_eq!(next, delete),
            "node" => assert!(next.contains(delete), "{next}"),
            _ => {}
        }
    }
}

fn replicas(count: usize) -> Vec<kube::api::ObjectMeta> {
    let pods = (0..count).map(|number| {
        let mut pod = pod();
        pod["metadata"]["name"] = json!(format!("web-{number}"));
        if number > 0 {
            pod["metadata"]["uid"] = json!(format!("00000000-0000-0000-0000-00000000000{number}"));
        }
        serde_json::from_value(pod["metadata"].take()).unwrap()
    });
    pods.collect()
}
