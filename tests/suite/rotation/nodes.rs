//! Rotation lists the nodes of the tailnet: which joined, were lost, or are unexpected, and their hostnames.

use std::cell::Cell;

use clap::Parser as _;
use sidescale::args::{Args, Command};
use sidescale::cluster;
use sidescale_core::id::NodeId;
use sidescale_rotation::nodes::replicas::{PodRef, ReplicaGroup};

use super::by_hand::put;
use super::messages::Log;
use super::*;

/// More than the time between two node lists.
const LOOK: Duration = Duration::from_secs(16);

impl World {
    /// Sets pods of service `api`, each by the second of its creation and its uid.
    fn pods(&self, pods: &[(u64, u128)]) {
        let began = 1_700_000_000;
        let member = |(second, uid): &(u64, u128)| PodRef {
            created: Timestamp::from_second(began + i64::try_from(*second).unwrap()).unwrap(),
            uid: *uid,
            name: format!("api-{uid}").into(),
        };
        self.fleet(pods.iter().map(member).collect());
    }

    /// Sets a pod of service `api` that was created just now.
    pub(super) fn one_pod(&self, name: &str, uid: u128) {
        let created = self.clock.now();
        let name = name.into();
        self.fleet(vec![PodRef { created, uid, name }]);
    }

    fn fleet(&self, pods: Vec<PodRef>) {
        let count = pods.len();
        let fleet = ReplicaGroup {
            control_plane: "default".into(),
            user: "shop.api".into(),
            service: "api".into(),
            secret: SECRET.into(),
            data_key: "api-authkey".into(),
            hostname: Some("api".into()),
            pods,
        };
        let guest = ("default".to_owned(), "api".to_owned());
        let key = ("api-authkey".to_owned(), key_demand("api"));
        let demand = NamespaceDemand {
            secrets: [(SECRET.to_owned(), [key].into())].into(),
            expected_nodes: [(guest, count)].into(),
            replica_groups: vec![fleet],
            ..NamespaceDemand::default()
        };
        self.demands.send_modify(|demands| {
            demands.namespaces.insert("shop".into(), Arc::new(demand));
        });
    }

    /// Returns the number in a state, from the admin port.
    fn in_state(&self, state: &str) -> Option<u64> {
        let text = String::from_utf8(self.metrics.text().unwrap()).unwrap();
        let line = format!("sidescale_nodes{{state=\"{state}\"}} ");
        text.lines()
            .find_map(|text| text.strip_prefix(&line))
            .map(|count| count.parse().unwrap())
    }

    /// Moves the clock from node list to node list until that many are in that state.
    pub(super) async fn looks_until(&self, state: &str, count: u64) {
        until(&format!("{count} {state}"), async || {
            if self.in_state(state) == Some(count) {
                return Some(());
            }
            self.look().await;
            None
        })
        .await;
    }

    /// Moves the clock to the next node list, and waits for it.
    pub(super) async fn look(&self) {
        let looks = self.headscale.calls(Call::ListNodes);
        self.clock.advance(LOOK);
        let moved = Cell::new(Instant::now());
        until("the next look", async || {
            // On a busy machine a list takes long, and the pause after it is longer.
            if moved.get().elapsed() > Duration::from_secs(1) {
                self.clock.advance(LOOK);
                moved.set(Instant::now());
            }
            (self.headscale.calls(Call::ListNodes) > looks).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_rollout_ends_with_the_name_of_the_service() {
    let world = World::new().await;
    world
        .headscale
        .add_user("other.api", "sidescale other test other/api", "");
    let _process = world.start("a");
    world.pods(&[(0, 1)]);
    let key = world.key("api").await;
    let old = world.headscale.join(&key, "api").unwrap();
    world.looks_until("Joined", 1).await;
    // The new pod starts beside the old one, which then stops.
    world.pods(&[(60, 2)]);
    let new = world.headscale.join(&key, "api").unwrap();
    assert_eq!(world.headscale.given_names()[&new], "api-1");
    world.headscale.set_online(old, false);
    world.look().await;
    assert!(
        world.headscale.given_names().contains_key(&old),
        "it may come back"
    );
    until("the name", async || {
        world.look().await;
        let names = world.headscale.given_names();
        (names == [(new, "api".to_owned())].into()).then_some(())
    })
    .await;
    let changes = world.headscale.calls(Call::ChangeNode);
    assert_eq!(changes, 2, "one removal and one name");
}

#[tokio::test]
async fn what_another_cluster_made_is_left_alone() {
    let world = World::new().await;
    let _process = world.start("a");
    world.pods(&[(0, 1)]);
    let key = world.key("api").await;
    // Another cluster's rotation on the same Headscale: its own mark, its own user and key.
    let other = world
        .key_of_another("prod.api", "sidescale another-cluster test prod/api")
        .await;
    // Its node was first and has the hostname; one of its nodes is offline for good, and one has no pod here.
    let first = world.headscale.join(&other, "api").unwrap();
    let away = world.headscale.join(&other, "api").unwrap();
    world.headscale.set_online(away, false);
    let ours = world.headscale.join(&key, "api").unwrap();
    world.looks_until("Joined", 1).await;
    for _ in 0..12 {
        world.look().await;
    }
    let names = world.headscale.given_names();
    let names: Vec<_> = names
        .iter()
        .map(|(id, name)| (*id, name.as_str()))
        .collect();
    assert_eq!(names, [(first, "api"), (away, "api-1"), (ours, "api-2")]);
    assert_eq!(world.headscale.calls(Call::ChangeNode), 0);
    assert_eq!(world.in_state("Uninvited"), Some(0));
}

#[tokio::test]
async fn a_pod_whose_node_is_removed_is_lost_until_its_container_joins_anew() {
    let world = World::new().await;
    let _process = world.start("a");
    world.pods(&[(0, 1)]);
    let key = world.key("api").await;
    let node = world.headscale.join(&key, "api").unwrap();
    world.looks_until("Joined", 1).await;
    assert!(world.headscale.remove_node(node));
    let looks = world.headscale.calls(Call::ListNodes);
    world.looks_until("Lost", 1).await;
    let looks = world.headscale.calls(Call::ListNodes) - looks;
    assert!(
        looks <= 3,
        "{looks} looks: two, and the one that was under way"
    );
    assert_eq!(world.in_state("Joined"), Some(0));
    world.headscale.join(&key, "api").unwrap();
    world.looks_until("Joined", 1).await;
    assert_eq!(world.in_state("Lost"), Some(0));
}

#[tokio::test]
async fn who_joins_with_a_key_of_ours_and_is_no_pod_is_uninvited() {
    let world = World::new().await;
    let _process = world.start("a");
    world.pods(&[(0, 1)]);
    let key = world.key("api").await;
    world.headscale.join(&key, "api").unwrap();
    let laptop = world.headscale.join(&key, "laptop").unwrap();
    world.looks_until("Uninvited", 1).await;
    assert_eq!(world.in_state("Joined"), Some(1));
    world.headscale.set_online(laptop, false);
    world.looks_until("Uninvited", 0).await;
}

#[tokio::test]
async fn the_command_against_a_stranger_is_one_that_the_command_line_takes() {
    for (namespace, release) in [("sidescale", "sidescale"), ("tailnet", "prod")] {
        let (log, _listening) = Log::listen();
        let world = World::new().await;
        let context = Context {
            flags: cluster::flags(namespace, release),
            ..world.context("a")
        };
        let _process = world.start_with(context);
        world.pods(&[(0, 1)]);
        let key = world.key("api").await;
        world.headscale.join(&key, "api").unwrap();
        world.headscale.join(&key, "laptop").unwrap();
        world.looks_until("Uninvited", 1).await;
        let lines = log.lines("Unexpected nodes online");
        let note = lines[0]["note"].as_str().unwrap();
        let (_, rest) = note.split_once("Expire that key: ").unwrap();
        let (command, _) = rest.split_once(';').unwrap();
        let Command::Rotate(args) = Args::try_parse_from(command.split(' ')).unwrap().command
        else {
            panic!("{command}");
        };
        assert_eq!(args.targets, ["shop/api".parse().unwrap()]);
        assert!(args.revoke && args.now);
        assert_eq!(args.release.namespace, namespace);
        assert_eq!(args.release.access.release_name, release);
    }
}

#[tokio::test]
async fn a_control_plane_that_is_away_makes_nobody_lost_and_changes_nothing() {
    let world = World::new().await;
    let _process = world.start("a");
    world.pods(&[(0, 1)]);
    let key = world.key("api").await;
    let node: NodeId = world.headscale.join(&key, "api").unwrap();
    world.looks_until("Joined", 1).await;
    for fault in [
        Fault::Html,
        Fault::CutBody,
        Fault::Status(503),
        Fault::Unauthorized,
    ] {
        world
            .headscale
            .break_calls(Some(Call::ListNodes), fault.clone());
        let looks = world.headscale.calls(Call::ListNodes);
        until("looks that meet the fault", async || {
            world.clock.advance(LOOK);
            settle().await;
            (world.headscale.calls(Call::ListNodes) >= looks + 2).then_some(())
        })
        .await;
        assert_eq!(world.in_state("Lost"), Some(0), "{fault:?}");
        world.headscale.mend();
    }
    world.looks_until("Joined", 1).await;
    assert_eq!(world.headscale.given_names()[&node], "api");
}

#[tokio::test]
async fn who_joined_with_anothers_key_is_not_lost_when_a_control_plane_comes_back() {
    let world = World::new().await;
    let process = world.start("a");
    world.pods(&[(0, 1)]);
    world.key("api").await;
    let hers = world.key_of_another("alice", "Alice").await;
    put(&world, &hers).await;
    until("the adoption", async || {
        world.clock.advance(Duration::from_secs(1));
        tokio::time::sleep(Duration::from_millis(20)).await;
        let record = world.record().await;
        (!record.keys["api-authkey"].lent.is_empty()).then_some(())
    })
    .await;
    world.headscale.join(&hers, "api").unwrap();
    world.looks_until("Joined", 1).await;
    // From now on listing fails: there is a file in place of a Secret.
    let damaged = world._root.path().join("broken");
    std::fs::create_dir(&damaged).unwrap();
    std::fs::write(damaged.join(SECRET), "").unwrap();
    let returns = async || {
        world.headscale.break_calls(None, Fault::Status(503));
        for _ in 0..3 {
            world.clock.advance(LOOK);
            settle().await;
        }
        world.headscale.mend();
        for _ in 0..6 {
            world.look().await;
            settle().await;
        }
        (world.in_state("Joined"), world.in_state("Lost"))
    };
    assert_eq!(returns().await, (Some(1), Some(0)));
    // A process that never saw the Secrets judges no pod.
    drop(process);
    let _process = world.start("b");
    assert_eq!(returns().await, (Some(0), Some(0)));
    std::fs::remove_dir_all(&damaged).unwrap();
    world.looks_until("Joined", 1).await;
    assert_eq!(world.in_state("Lost"), Some(0));
}

async fn settle() {
    tokio::time::sleep(Duration::from_millis(100)).await;
}

#[tokio::test]
async fn a_restart_of_ours_forgets_neither_who_had_joined_nor_who_never_did() {
    let world = World::new().await;
    let process = world.start("a");
    world.pods(&[(0, 1)]);
    let key = world.key("api").await;
    let node = world.headscale.join(&key, "api").unwrap();
    world.looks_until("Joined", 1).await;
    // The checkpoint is as of a minute ago: it covers only pods that were surely seen.
    for _ in 0..6 {
        world.look().await;
    }
    drop(process);
    assert!(world.headscale.remove_node(node));
    let process = world.start("b");
    world.looks_until("Lost", 1).await;
    assert_eq!(world.in_state("Late"), Some(0));
    drop(process);

    // It stops, and another one starts that never joins: the next process reports it as late.
    world.pods(&[(300, 2)]);
    let process = world.start("c");
    world.looks_until("Late", 1).await;
    for _ in 0..6 {
        world.look().await;
    }
    drop(process);
    let _process = world.start("d");
    for _ in 0..4 {
        world.look().await;
    }
    assert_eq!(world.in_state("Late"), Some(1));
    assert_eq!(world.in_state("Lost"), Some(0));
}
