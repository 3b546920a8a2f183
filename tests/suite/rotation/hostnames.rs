//! A hostname that two namespaces ask for: its owner, what the renamer does, and what Events both sides get.

use serde_json::Value;
use sidescale::watch::Hostnames;
use sidescale_rotation::nodes::replicas::{PodRef, ReplicaGroup};
use sidescale_webhook::profile::HostnameOwner;

use super::messages::Log;
use super::*;

mod config_map;

impl World {
    /// Sets the pods of a service that asks for hostname `vault`.
    fn asks_for_vault(&self, namespace: &str, service: &str, pods: usize) {
        let created = self.clock.now();
        let pods = (0..pods).map(|n| PodRef {
            created,
            uid: n as u128,
            name: format!("{service}-{n}").into(),
        });
        let pods: Vec<_> = pods.collect();
        let user = format!("{namespace}.{service}");
        let mut key = key_demand(service);
        key.asked.user.clone_from(&user);
        key.pods = pods.len();
        let data_key = data_key(service, "default");
        let demand = NamespaceDemand {
            secrets: [(SECRET.to_owned(), [(data_key.clone(), key)].into())].into(),
            expected_nodes: [(("default".to_owned(), service.to_owned()), pods.len())].into(),
            replica_groups: vec![ReplicaGroup {
                control_plane: "default".into(),
                user,
                service: service.into(),
                secret: SECRET.into(),
                data_key,
                hostname: Some("vault".into()),
                pods,
            }],
            ..NamespaceDemand::default()
        };
        self.demands.send_modify(|demands| {
            demands
                .namespaces
                .insert(namespace.into(), Arc::new(demand));
        });
    }

    async fn key_in(&self, namespace: &str, service: &str) -> String {
        until("a key that the server accepts", async || {
            let secret = self.store.read(namespace, SECRET).await.unwrap()?;
            let value = secret.data.get(&data_key(service, "default"))?;
            let value = String::from_utf8(value.to_vec()).unwrap();
            self.headscale.accepts(&value).then_some(value)
        })
        .await
    }

    async fn look_times(&self, count: usize) {
        for _ in 0..count {
            self.look().await;
        }
    }

    /// Returns the hostnames in the tailnet.
    fn names(&self) -> Vec<String> {
        self.headscale.given_names().into_values().collect()
    }
}

fn event(log: &Log, reason: &str) -> Option<Value> {
    let mut events = log.lines("Event").into_iter();
    events.find(|event| event["reason"] == reason)
}

#[tokio::test]
async fn a_name_is_given_to_no_other_namespace_while_its_service_is_away() {
    let (log, _logging) = Log::listen();
    let world = World::new().await;
    let process = world.start("a");
    world.asks_for_vault("prod", "vault", 1);
    let key = world.key_in("prod", "vault").await;
    let node = world.headscale.join(&key, "vault").unwrap();
    world.look_times(2).await;

    // A tenant asks for the same, and waits for an opportunity.
    world.asks_for_vault("shop", "web", 1);
    let thief = world.key_in("shop", "web").await;
    world.headscale.join(&thief, "vault").unwrap();
    assert_eq!(world.names(), ["vault", "vault-1"]);
    world.look_times(2).await;
    let (taken, wanted) = until("both Events", async || {
        Some((
            event(&log, "HostnameTaken")?,
            event(&log, "HostnameWanted")?,
        ))
    })
    .await;
    for (event, namespace, other) in [(taken, "shop", "prod"), (wanted, "prod", "shop")] {
        assert_eq!(
            (&event["namespace"], &event["object"]),
            (&namespace.into(), &SECRET.into())
        );
        let note = event["note"].as_str().unwrap();
        assert!(
            note.contains("\"vault\"") && !note.contains(other),
            "{note}"
        );
    }

    // The bystander's pod stops, and its ephemeral node with it.
    world.asks_for_vault("prod", "vault", 0);
    assert!(world.headscale.remove_node(node));
    world.look_times(6).await;
    assert_eq!(world.names(), ["vault-1"]);
    // The next leader knows the owner too, days later.
    drop(process);
    world.clock.advance(DAY * 6);
    let process = world.start("b");
    world.look_times(6).await;
    assert_eq!(world.names(), ["vault-1"]);
    assert_eq!(world.headscale.calls(Call::ChangeNode), 0);

    // It comes back, and gets its hostname.
    world.asks_for_vault("prod", "vault", 1);
    let key = world.key_in("prod", "vault").await;
    let node = world.headscale.join(&key, "vault").unwrap();
    world.look_times(2).await;
    assert_eq!(world.names(), ["vault-1", "vault"]);
    assert_eq!(
        log.lines("Renamed a node back to its requested name"),
        Vec::<Value>::new()
    );

    // It is removed for good.
    world.asks_for_vault("prod", "vault", 0);
    assert!(world.headscale.remove_node(node));
    world.look_times(6).await;
    drop(process);
    world.clock.advance(DAY * 7);
    let _process = world.start("c");
    until("the name", async || {
        world.look().await;
        (world.names() == ["vault"]).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_reserved_name_is_given_to_that_service_alone() {
    let (log, _logging) = Log::listen();
    let mut world = World::new().await;
    let owner = HostnameOwner {
        namespace: "prod".into(),
        service: "vault".into(),
    };
    let reserved = &mut world.policy.reserved_hostnames;
    reserved.insert("vault".into(), owner);
    let _process = world.start("a");
    // Someone else's node has the hostname, and leaves.
    let other = world.key_of_another("alice", "Alice").await;
    let first = world.headscale.join(&other, "vault").unwrap();
    world.asks_for_vault("shop", "web", 1);
    let web = world.key_in("shop", "web").await;
    world.headscale.join(&web, "vault").unwrap();
    world.look_times(2).await;
    assert!(world.headscale.remove_node(first));
    world.look_times(6).await;
    assert_eq!(world.names(), ["vault-1"]);
    let taken = until("the Event", async || event(&log, "HostnameTaken")).await;
    let note = taken["note"].as_str().unwrap();
    assert!(
        note.contains("which the operator reserved for another service"),
        "{note}"
    );

    // The service that it is reserved for comes last, and gets it when it is free.
    let first = world.headscale.join(&other, "vault").unwrap();
    world.asks_for_vault("prod", "vault", 1);
    let key = world.key_in("prod", "vault").await;
    world.headscale.join(&key, "vault").unwrap();
    world.look_times(2).await;
    assert!(world.headscale.remove_node(first));
    until("the name", async || {
        world.look().await;
        (world.names() == ["vault-1", "vault"]).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_next_leader_and_every_replica_know_whose_a_name_is() {
    let (api, client) = config_map::Api::serve().await;
    let world = World::new().await;
    let start = |writer: &str| {
        let notebook = Checkpoint::Cluster {
            client: client.clone(),
            namespace: config_map::NAMESPACE.into(),
            lease: "sidescale".into(),
            hostnames: config_map::NAME.into(),
        };
        let context = Context {
            notebook,
            ..world.context(writer)
        };
        world.start_with(context)
    };
    let replica = Arc::<Hostnames>::default();
    let (watching, of) = (Arc::clone(&replica), client.clone());
    tokio::spawn(async move {
        watching
            .run(of, config_map::NAMESPACE, config_map::NAME)
            .await;
    });
    let is_prods = || {
        let known = replica.get();
        let anothers = |namespace| known.is_anothers("default", "vault", namespace);
        anothers("shop") && !anothers("prod")
    };
    assert!(!is_prods());
    let process = start("a");
    world.asks_for_vault("prod", "vault", 1);
    let key = world.key_in("prod", "vault").await;
    let node = world.headscale.join(&key, "vault").unwrap();
    until("the replica knows", async || {
        world.look().await;
        is_prods().then_some(())
    })
    .await;
    world.asks_for_vault("shop", "web", 1);
    let thief = world.key_in("shop", "web").await;
    world.headscale.join(&thief, "vault").unwrap();

    // While rotation is down, the pod and its node are removed: the next leader has never seen them.
    drop(process);
    world.asks_for_vault("prod", "vault", 0);
    assert!(world.headscale.remove_node(node));
    let _process = start("b");
    world.look_times(6).await;
    assert_eq!(world.names(), ["vault-1"]);
    until("it is written down since when", async || {
        world.look().await;
        (api.patches().len() > 1).then_some(())
    })
    .await;
    assert!(is_prods());
    let written = Value::from(api.patches()).to_string();
    for name in ["vault", "prod", "shop", "web"] {
        assert!(!written.contains(name), "{written}");
    }
}
