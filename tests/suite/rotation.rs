//! Rotation against the embedded Headscale and a directory of keys, with a clock that the tests move.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use sidescale::clock::Clock;
use sidescale::controller::context::{CLOSE_BEHIND, Connector, Context};
use sidescale::controller::{self, Checkpoint, Memory};
use sidescale::events::Events;
use sidescale::health::{Health, Part};
use sidescale::metrics::Metrics;
use sidescale::pods::Pods;
use sidescale::store::{DirectoryStore, Store};
use sidescale_control_plane::{Client, Endpoint};
use sidescale_core::objects::NewPreAuthKey;
use sidescale_core::secret::StoredSecret;
use sidescale_rotation::demand::{Demands, KeyDemand, NamespaceDemand};
use sidescale_rotation::owner::{Installation, ServiceOwner};
use sidescale_rotation::record::{DATA_KEY, KeySpec, Record};
use sidescale_simulator::{Call, Embedded, Fault, Flavour, ServerKey};
use sidescale_webhook::identity::data_key;
use sidescale_webhook::profile::Policy;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

mod api_keys;
mod by_hand;
mod cleanup;
mod edits;
mod gone;
mod greedy;
mod hanging;
mod hostile;
mod hostnames;
mod many;
mod messages;
mod news;
mod nodes;
mod own_keys;
mod passes;
mod poisoned;
mod promises;
mod request;
mod slow_events;
mod sweep;
mod trouble;
mod unstarted;
mod waking;

const SECRET: &str = "headscale-auth-keys";
const INSTALLATION: &str = "0b1a6a5e-8f0c-4a7e-9a39-7a3f3e6c1d55 test";
const DAY: Duration = Duration::from_secs(86_400);

/// A Headscale, a directory of keys and a clock that only tests move.
struct World {
    headscale: Embedded,
    store: Store,
    clock: Clock,
    policy: Policy,
    demands: watch::Sender<Demands>,
    metrics: Arc<Metrics>,
    health: Arc<Health>,
    notebook: Checkpoint,
    _root: tempfile::TempDir,
    _server: JoinHandle<()>,
}

/// A process that rotates; dropping it kills it.
struct Process(JoinHandle<Memory>);

impl Drop for Process {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn installation() -> Installation {
    Installation::new(INSTALLATION, &[])
}

/// Returns the display name of the user of a service in namespace `shop`.
fn owner_tag(service: &str) -> String {
    installation().owner_tag(&ServiceOwner::new("shop", service))
}

impl World {
    /// Returns a world with an API key.
    async fn new() -> Self {
        Self::without_api_key().await.with_api_key().await
    }

    /// Returns a world whose clock runs `factor` times as fast as the machine's.
    async fn faster(factor: f64) -> Self {
        Self::by(factor).await.with_api_key().await
    }

    async fn without_api_key() -> Self {
        Self::by(0.0).await
    }

    async fn with_api_key(self) -> Self {
        self.give_api_key(self.headscale.create_api_key(DAY * 3_650).expose())
            .await;
        self
    }

    async fn by(factor: f64) -> Self {
        let clock = Clock::scaled(Timestamp::from_second(1_700_000_000).unwrap(), factor);
        let (headscale, url, server) = new_headscale(&clock).await;
        let root = in_memory();
        Self {
            store: Store::of(DirectoryStore::new(root.path())),
            policy: Policy::for_login_server(&url).unwrap(),
            demands: watch::Sender::new(Demands {
                synced: true,
                ..Demands::default()
            }),
            metrics: Arc::new(Metrics::new().unwrap()),
            health: Arc::default(),
            notebook: Checkpoint::default(),
            headscale,
            clock,
            _root: root,
            _server: server,
        }
    }

    /// Replaces the Headscale with one that has an empty database.
    async fn lose_database(&mut self) {
        let (headscale, url, server) = new_headscale(&self.clock).await;
        (self.headscale, self._server) = (headscale, server);
        self.policy = Policy::for_login_server(&url).unwrap();
        self.give_api_key(self.headscale.create_api_key(DAY * 3_650).expose())
            .await;
    }

    async fn give_api_key(&self, value: &str) {
        let there = self
            .store
            .read("headscale", "headscale-api-key")
            .await
            .unwrap();
        let mut secret =
            there.unwrap_or_else(|| StoredSecret::absent("headscale", "headscale-api-key"));
        secret
            .data
            .insert("api-key".into(), value.as_bytes().to_vec().into());
        self.store.write(&secret).await.unwrap();
    }

    fn context(&self, writer: &str) -> Context {
        Context {
            store: self.store.clone(),
            connector: Connector::default(),
            policy: Arc::new(self.policy.clone()),
            clock: self.clock.clone(),
            events: Events::log(self.clock.clone()),
            notebook: self.notebook.clone(),
            pods: Pods::none(),
            metrics: Arc::clone(&self.metrics),
            health: Arc::clone(&self.health),
            installation: installation(),
            flags: String::new(),
            writer: writer.into(),
            respect: Duration::from_secs(120),
            close_behind: CLOSE_BEHIND,
        }
    }

    /// Returns Events that are sent to this API server, by their own task.
    fn events(&self, client: kube::Client) -> Events {
        let (clock, metrics) = (self.clock.clone(), Arc::clone(&self.metrics));
        let (events, publisher) = Events::kubernetes(client, "a".into(), clock, metrics);
        tokio::spawn(publisher.run(CancellationToken::new()));
        events
    }

    fn start(&self, writer: &str) -> Process {
        self.start_with(self.context(writer))
    }

    fn start_with(&self, context: Context) -> Process {
        let demands = self.demands.subscribe();
        Process(tokio::spawn(controller::run(
            Arc::new(context),
            Memory::default(),
            demands,
            CancellationToken::new(),
        )))
    }

    fn demand(&self, services: &[&str], change: impl Fn(&mut KeyDemand)) {
        let keys = services.iter().map(|service| {
            let mut demand = key_demand(service);
            change(&mut demand);
            let data_key = data_key(service, &demand.control_plane);
            (data_key, demand)
        });
        let secrets = [(SECRET.to_owned(), keys.collect())].into();
        let demand = NamespaceDemand {
            secrets,
            ..NamespaceDemand::default()
        };
        self.demands.send_modify(|demands| {
            demands.namespaces.insert("shop".into(), Arc::new(demand));
        });
    }

    /// Creates a user and a live key as another installation on the same Headscale would, and returns the key's value.
    async fn key_of_another(&self, user: &str, display_name: &str) -> String {
        let control_plane = Client::new(Endpoint {
            name: "other".into(),
            api_url: self.policy.control_planes["default"].api_url.clone(),
            api_key: self.headscale.create_api_key(DAY),
            ca_bundle: None,
            allow_insecure: true,
        })
        .unwrap();
        let user = control_plane.create_user(user, display_name).await.unwrap();
        let new = NewPreAuthKey {
            user: user.id,
            reusable: true,
            ephemeral: true,
            expiration: sidescale_core::time::after(self.clock.now(), DAY * 30),
            tags: Vec::new(),
        };
        let minted = control_plane.create_pre_auth_key(&new).await.unwrap();
        minted.value.expose().to_owned()
    }

    async fn secret(&self) -> Option<StoredSecret> {
        self.store.read("shop", SECRET).await.unwrap()
    }

    async fn value(&self, service: &str) -> Option<String> {
        let secret = self.secret().await?;
        let value = secret.data.get(&format!("{service}-authkey"))?;
        Some(String::from_utf8(value.to_vec()).unwrap())
    }

    async fn record(&self) -> Record {
        let secret = self.secret().await;
        secret.map_or_else(Record::default, |secret| Record::of(&secret).unwrap())
    }

    fn alive(&self) -> Vec<ServerKey> {
        let now = self.clock.now();
        self.headscale
            .issued()
            .into_iter()
            .filter(|key| key.expiration > now)
            .collect()
    }

    fn mints(&self) -> u64 {
        self.headscale.calls(Call::CreatePreAuthKey)
    }

    fn detail(&self) -> String {
        let reports = self.health.reports();
        let rotation = reports
            .into_iter()
            .find(|(part, _)| *part == Part::Rotation);
        rotation
            .map(|(_, report)| report.detail)
            .unwrap_or_default()
    }

    /// Waits for a key that the server accepts, and returns its value.
    async fn key(&self, service: &str) -> String {
        self.key_other_than(service, "").await
    }

    async fn key_other_than(&self, service: &str, old: &str) -> String {
        until("a key that the server accepts", async || {
            let value = self.value(service).await?;
            (value != old && self.headscale.accepts(&value)).then_some(value)
        })
        .await
    }
}

/// Returns a folder in memory: a directory of keys is written with a sync each time, which is slow on a busy disk.
fn in_memory() -> tempfile::TempDir {
    let made = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
    made.unwrap()
}

async fn new_headscale(clock: &Clock) -> (Embedded, String, JoinHandle<()>) {
    let headscale = Embedded::new(Flavour::V0_29, clock.reader());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = headscale.router();
    let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    (headscale, url, server)
}

fn key_demand(service: &str) -> KeyDemand {
    KeyDemand {
        service: service.into(),
        control_plane: "default".into(),
        asked: KeySpec {
            user: format!("shop.{service}"),
            tags: Vec::new(),
            reusable: true,
            ephemeral: true,
        },
        expiration: DAY * 90,
        buffer: DAY * 10,
        pods: 1,
        differing: 0,
        since: Timestamp::UNIX_EPOCH,
        hostname: None,
    }
}

/// Asks repeatedly until there is an answer.
async fn until<T>(what: &str, ask: impl AsyncFn() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(
            began.elapsed() < Duration::from_secs(20),
            "waited in vain for {what}"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_new_service_gets_its_user_and_key_with_two_calls() {
    let world = World::new().await;
    let _process = world.start("a");
    until("the first connection", async || {
        (world.headscale.calls(Call::ListUsers) > 0).then_some(())
    })
    .await;
    let lists = world.headscale.calls(Call::ListUsers);
    world.demand(&["api"], |_| {});
    let value = world.key("api").await;
    let issued = world.headscale.issued();
    assert_eq!(issued.len(), 1);
    assert_eq!(issued[0].user.as_deref(), Some("shop.api"));
    assert_eq!(issued[0].value.expose(), value);
    let current = world.record().await.keys["api-authkey"]
        .current
        .clone()
        .unwrap();
    assert_eq!(
        (current.id, current.expires),
        (issued[0].id, issued[0].expiration)
    );
    assert_eq!(world.headscale.calls(Call::CreateUser), 1);
    assert!(
        world.headscale.calls(Call::ListUsers) <= lists + 2,
        "users are listed per pass and sweep, not per service"
    );
    let text = until("the count", async || {
        let text = String::from_utf8(world.metrics.text().unwrap()).unwrap();
        text.contains("sidescale_rotations_total{result=\"minted\"} 1")
            .then_some(text)
    })
    .await;
    assert!(!text.contains(&value));
}

#[tokio::test]
async fn a_key_is_renewed_when_due_and_the_old_one_ends_after_the_overlap() {
    let world = World::new().await;
    let _process = world.start("a");
    world.demand(&["api"], |_| {});
    let old = world.key("api").await;
    world.clock.advance(DAY * 80 - Duration::from_secs(60));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(world.value("api").await.unwrap(), old, "a minute too early");
    world.clock.advance(Duration::from_secs(61));
    let new = world.key_other_than("api", &old).await;
    assert!(
        world.headscale.accepts(&old),
        "both are good during the overlap"
    );
    world.clock.advance(Duration::from_secs(3_601));
    until("the end of the old key", async || {
        (!world.headscale.accepts(&old)).then_some(())
    })
    .await;
    assert!(world.headscale.accepts(&new));
    until("a tidy record", async || {
        world.record().await.keys["api-authkey"]
            .previous
            .is_empty()
            .then_some(())
    })
    .await;
    assert_eq!(world.mints(), 2);
}

#[tokio::test]
async fn other_tags_make_another_key_and_another_life_does_not() {
    let world = World::new().await;
    let _process = world.start("a");
    world.demand(&["api"], |_| {});
    let old = world.key("api").await;
    world.demand(&["api"], |demand| demand.expiration = DAY * 30);
    world.demand(&["api"], |demand| {
        demand.asked.tags = vec!["tag:web".into()]
    });
    let new = world.key_other_than("api", &old).await;
    assert!(world.headscale.accepts(&old));
    assert_eq!(world.mints(), 2);
    let issued = world.headscale.issued();
    let made = issued.iter().find(|key| key.value.expose() == new).unwrap();
    assert_eq!(made.tags, ["tag:web"]);
}

#[tokio::test]
async fn a_namespace_full_of_new_services_is_served_at_once() {
    let world = World::new().await;
    let _process = world.start("a");
    let services: Vec<_> = (0..30).map(|n| format!("s{n}")).collect();
    let services: Vec<_> = services.iter().map(String::as_str).collect();
    world.demand(&services, |_| {});
    for service in &services {
        world.key(service).await;
    }
    assert_eq!(world.mints(), 30);
    until("rest", async || {
        let record = world.record().await;
        record
            .keys
            .values()
            .all(|key| key.intent.is_none() && key.abandoned.is_empty())
            .then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_sudden_death_after_any_call_converges() {
    for (call, faults) in [
        (Call::CreateUser, Fault::CutBody),
        (Call::CreatePreAuthKey, Fault::CutBody),
        (Call::CreatePreAuthKey, Fault::Slow(Duration::from_secs(30))),
    ] {
        let world = World::new().await;
        world.headscale.break_calls(Some(call), faults.clone());
        let process = world.start("first");
        world.demand(&["api"], |_| {});
        until("the call", async || {
            (world.headscale.calls(call) > 0).then_some(())
        })
        .await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        drop(process);
        world.headscale.mend();
        world.clock.advance(Duration::from_secs(121));
        let _process = world.start("second");
        let value = world.key("api").await;
        // The lost key, if there is one, is searched for a little later, and expired by its fingerprint.
        until("one living key", async || {
            world.clock.advance(Duration::from_secs(20));
            tokio::time::sleep(Duration::from_millis(20)).await;
            (world.alive().len() == 1).then_some(())
        })
        .await;
        assert_eq!(
            world.alive()[0].value.expose(),
            value,
            "{call:?} {faults:?}"
        );
    }
}

#[tokio::test]
async fn two_that_act_at_once_leave_one_key() {
    let world = World::new().await;
    let _one = world.start("one");
    let _two = world.start("two");
    let services = ["a1", "b1", "c1", "d1", "e1"];
    for n in 1..=services.len() {
        world.demand(&services[..n], |_| {});
        let value = world.key(services[n - 1]).await;
        assert!(world.headscale.accepts(&value));
    }
    for _ in 0..30 {
        world.clock.advance(Duration::from_secs(30));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let values: Vec<_> = world
        .alive()
        .iter()
        .map(|key| key.value.expose().to_owned())
        .collect();
    assert_eq!(values.len(), services.len(), "no key too many stays alive");
    for service in services {
        assert!(
            values.contains(&world.value(service).await.unwrap()),
            "{service}"
        );
    }
}
