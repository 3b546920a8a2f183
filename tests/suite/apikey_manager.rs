//! The manager of the API key against the embedded Headscale's socket and a directory of Secrets, with a controlled clock.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Parser;
use jiff::{SignedDuration, Timestamp};
use sidescale::args::{Args, Command};
use sidescale::clock::Clock;
use sidescale::commands::apikey_manager::Manager;
use sidescale::store::{DirectoryStore, Store};
use sidescale_control_plane::{ApiKeyClient, Endpoint};
use sidescale_core::key_value::KeyValue;
use sidescale_core::objects::ApiKey;
use sidescale_core::secret::StoredSecret;
use sidescale_simulator::{Call, Embedded, Fault, Flavour};
use tokio::task::JoinHandle;

const NAME: &str = "headscale-api-key";
const EXPIRATION: &str = "api-key.headscale.infrado.cloud/expiration";
const CREATED_AT: &str = "api-key.headscale.infrado.cloud/created-at";

struct World {
    headscale: Embedded,
    directory: DirectoryStore,
    store: Store,
    clock: Clock,
    socket: PathBuf,
    url: String,
    root: tempfile::TempDir,
    servers: Vec<JoinHandle<()>>,
}

/// A task that is aborted when its handle is dropped, like a process by SIGKILL.
struct Process(JoinHandle<anyhow::Result<()>>);

impl Drop for Process {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl World {
    async fn new() -> Self {
        let mut world = Self::asleep().await;
        world.wake();
        world
    }

    /// Returns a world in which Headscale answers over TCP, without its socket yet.
    async fn asleep() -> Self {
        let clock = Clock::scaled(Timestamp::from_second(1_700_000_000).unwrap(), 0.0);
        let headscale = Embedded::new(Flavour::Main, clock.reader());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = headscale.router();
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        let root = tempfile::tempdir().unwrap();
        let directory = DirectoryStore::new(root.path().join("secrets"));
        Self {
            headscale,
            store: Store::of(directory.clone()),
            directory,
            clock,
            socket: root.path().join("headscale.sock"),
            url,
            root,
            servers: vec![server],
        }
    }

    /// Creates the socket, as Headscale does late in its start.
    fn wake(&mut self) {
        let _ = std::fs::remove_file(&self.socket);
        let listener = tokio::net::UnixListener::bind(&self.socket).unwrap();
        let headscale = self.headscale.clone();
        let server = tokio::spawn(async move { headscale.serve_socket(listener).await });
        self.servers.push(server);
    }

    fn start(&self, name: &str, more: &[&str]) -> Process {
        let socket = format!("--socket-path={}", self.socket.display());
        let name = format!("--pod-name={name}");
        let line = [
            "sidescale",
            "apikey-manager",
            "--namespace=headscale",
            &socket,
            &name,
        ];
        let parsed = Args::try_parse_from(line.iter().chain(more)).unwrap();
        let Command::ApikeyManager(args) = parsed.command else {
            panic!("another command");
        };
        let manager = Manager::new(*args, "headscale".into(), self.clock.clone());
        let store = self.store.clone();
        Process(tokio::spawn(async move { manager.run(&store).await }))
    }

    async fn secret(&self) -> Option<StoredSecret> {
        self.store.read("headscale", NAME).await.unwrap()
    }

    async fn value(&self) -> Option<String> {
        let secret = self.secret().await?;
        let value = secret.data.get("api-key")?;
        Some(String::from_utf8(value.to_vec()).unwrap())
    }

    /// Waits until the Secret has a key other than `but`, and returns it.
    async fn key(&self, but: Option<&str>) -> String {
        until("a key is written", async || {
            self.value()
                .await
                .filter(|value| Some(value.as_str()) != but)
        })
        .await
    }

    /// Does the same while time passes: changes by others are noticed at the next check.
    async fn key_in_time(&self, but: Option<&str>) -> String {
        until("a key is written", async || {
            self.clock.advance(Duration::from_secs(1));
            self.value()
                .await
                .filter(|value| Some(value.as_str()) != but)
        })
        .await
    }

    /// Returns what Headscale lists over TCP with this key.
    async fn list(&self, key: &str) -> Result<Vec<ApiKey>, String> {
        let endpoint = Endpoint {
            name: "test".into(),
            api_url: self.url.clone(),
            api_key: KeyValue::new(key.to_owned()),
            ca_bundle: None,
            allow_insecure: true,
        };
        let client = ApiKeyClient::new(endpoint).unwrap();
        client.list().await.map_err(|error| error.to_string())
    }

    async fn live(&self, key: &str) -> usize {
        let now = self.clock.now();
        let listed = self.list(key).await.unwrap();
        listed
            .iter()
            .filter(|row| row.expiration.is_some_and(|end| now < end))
            .count()
    }

    fn lists(&self) -> u64 {
        self.headscale.calls(Call::ListApiKeys)
    }
}

async fn until<T>(what: &str, ask: impl AsyncFn() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(
            began.elapsed() < Duration::from_secs(60),
            "{what}: not in a minute"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn the_key_is_there_soon_after_headscale_is_and_works_over_rest() {
    let mut world = World::asleep().await;
    let _manager = world.start("headscale-0", &[]);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(world.secret().await.is_none());
    world.wake();
    let key = world.key(None).await;
    assert_eq!(world.list(&key).await.unwrap().len(), 1);
    let secret = world.secret().await.unwrap();
    assert_eq!(secret.labels["app.kubernetes.io/managed-by"], "sidescale");
    assert_eq!(secret.labels["app.kubernetes.io/component"], "api-key");
    assert_eq!(secret.annotations[EXPIRATION], "2024-02-12T22:13:20Z");
    assert_eq!(secret.annotations[CREATED_AT], "2023-11-14T22:13:20Z");
    assert_eq!(
        secret.annotations["sidescale.io/api-key-checked-by"],
        "headscale-0"
    );
}

#[tokio::test]
async fn ninety_days_are_eighty_and_the_old_key_is_refused() {
    let world = World::new().await;
    let first = world.key_after_start(&[]).await;
    let (_manager, old) = first;
    let due = world.clock.now() + SignedDuration::from_hours(80 * 24);
    for day in [10, 20, 79] {
        world
            .clock
            .set(due - SignedDuration::from_hours(24 * (80 - day)));
        // A check records its time.
        let now = world.clock.now().to_string();
        until("a look", async || {
            let secret = world.secret().await?;
            (secret.annotations["sidescale.io/api-key-checked-at"] == now).then_some(())
        })
        .await;
        assert_eq!(
            world.value().await.as_deref(),
            Some(old.as_str()),
            "day {day}"
        );
    }
    world.clock.set(due + Duration::from_secs(1));
    let new = world.key(Some(&old)).await;
    until("the old key is refused", async || {
        world.list(&old).await.err()
    })
    .await;
    assert_eq!(world.live(&new).await, 1);
    let secret = world.secret().await.unwrap();
    assert_eq!(
        secret.annotations[CREATED_AT],
        (due + Duration::from_secs(1)).to_string()
    );
}

impl World {
    async fn key_after_start(&self, more: &[&str]) -> (Process, String) {
        let process = self.start("headscale-0", more);
        let key = self.key(None).await;
        (process, key)
    }
}

#[tokio::test]
async fn a_short_life_is_renewed_between_two_hours() {
    let world = World::new().await;
    let flags = ["--expiration=1h", "--rotation-buffer=30m"];
    let (_manager, mut key) = world.key_after_start(&flags).await;
    for _ in 0..4 {
        world.clock.advance(Duration::from_secs(1_801));
        let new = world.key(Some(&key)).await;
        assert!(world.list(&new).await.is_ok());
        key = new;
    }
}

#[tokio::test]
async fn whenever_it_is_killed_one_live_key_is_left() {
    let world = World::new().await;
    let flags = ["--expiration=1h", "--rotation-buffer=30m"];
    let mut key = None;
    for round in 0..15 {
        // Killed after the n-th call to Headscale, then started again under its name.
        let before = world.lists();
        let process = world.start("headscale-0", &flags);
        until("some calls", async || {
            (world.lists() > before + round % 5).then_some(())
        })
        .await;
        drop(process);
        let process = world.start("headscale-0", &flags);
        let new = world.key(key.as_deref()).await;
        let old = key.replace(new.clone());
        until("one live key", async || {
            (world.live(&new).await == 1).then_some(())
        })
        .await;
        if let Some(old) = old {
            assert!(world.list(&old).await.is_err());
        }
        drop(process);
        world.clock.advance(Duration::from_secs(1_801));
    }
}

#[tokio::test]
async fn two_replicas_make_one_key() {
    let world = World::new().await;
    let flags = ["--expiration=1h", "--rotation-buffer=30m"];
    let _one = world.start("headscale-0", &flags);
    let _two = world.start("headscale-1", &flags);
    let mut key = world.key(None).await;
    for _ in 0..10 {
        until("one live key", async || {
            (world.live(&key).await == 1).then_some(())
        })
        .await;
        world.clock.advance(Duration::from_secs(1_801));
        key = world.key(Some(&key)).await;
    }
}

#[tokio::test]
async fn a_deleted_secret_comes_back_at_the_next_glance() {
    let world = World::new().await;
    let (_manager, old) = world.key_after_start(&[]).await;
    std::fs::remove_dir_all(
        world
            .directory
            .path("headscale", NAME)
            .canonicalize()
            .unwrap(),
    )
    .unwrap();
    std::fs::remove_file(world.directory.path("headscale", NAME)).unwrap();
    let deleted = world.clock.now();
    let again = world.key_in_time(None).await;
    println!(
        "there again after {}",
        world.clock.now().duration_since(deleted)
    );
    // A key is created at most once an hour: the lost one is still valid.
    assert_eq!(again, old);
    assert_eq!(world.live(&again).await, 1);
}

#[tokio::test]
async fn a_headscale_with_a_new_database_gets_a_new_key_at_once() {
    let mut world = World::new().await;
    let (_manager, old) = world.key_after_start(&[]).await;
    world.headscale = Embedded::new(Flavour::Main, world.clock.reader());
    world.servers.pop().unwrap().abort();
    world.wake();
    world.key_in_time(Some(&old)).await;
}

#[tokio::test]
async fn a_secret_of_somebody_else_is_left_alone_until_it_is_handed_over() {
    let world = World::new().await;
    let mut secret = StoredSecret::absent("headscale", NAME);
    secret.labels.clear();
    secret
        .data
        .insert("api-key".into(), b"theirs".to_vec().into());
    let foreign = world.store.write(&secret).await.unwrap();
    let before = world.lists();
    let _manager = world.start("headscale-0", &[]);
    until("a look", async || (world.lists() > before).then_some(())).await;
    assert_eq!(world.secret().await.unwrap().revision, foreign.revision);
    let mut adopted = foreign;
    adopted
        .annotations
        .insert("sidescale.io/adopt".into(), "true".into());
    world.store.write(&adopted).await.unwrap();
    let key = world.key_in_time(Some("theirs")).await;
    assert_eq!(world.live(&key).await, 1);
}

#[tokio::test]
async fn no_answer_of_headscale_makes_a_second_key_or_loses_the_first() {
    let world = World::new().await;
    let (_manager, old) = world.key_after_start(&[]).await;
    let changes = world.headscale.calls(Call::ChangeApiKey);
    for fault in [
        Fault::Html,
        Fault::Redirect,
        Fault::Status(500),
        Fault::CutBody,
    ] {
        let before = world.lists();
        world
            .headscale
            .break_calls(Some(Call::ListApiKeys), fault.clone());
        until("a call that meets the fault", async || {
            world.clock.advance(Duration::from_secs(600));
            tokio::time::sleep(Duration::from_millis(20)).await;
            (world.lists() > before).then_some(())
        })
        .await;
        assert_eq!(world.value().await.as_deref(), Some(old.as_str()));
        world.headscale.mend();
        assert_eq!(world.live(&old).await, 1);
    }
    // Creating one would have worked the whole time.
    assert_eq!(world.headscale.calls(Call::ChangeApiKey), changes);
}

#[tokio::test]
async fn a_new_key_that_is_refused_where_it_is_used_is_never_written() {
    let world = World::new().await;
    // Another Headscale answers there.
    let other = World::new().await;
    let url = format!("--api-url={}", other.url);
    let before = world.lists();
    let _manager = world.start("headscale-0", &[&url]);
    until("some tries", async || {
        (world.lists() > before + 4).then_some(())
    })
    .await;
    assert_eq!(world.value().await, None);
    // With the right URL it does.
    drop(_manager);
    let url = format!("--api-url={}", world.url);
    let (_manager, key) = world.key_after_start(&[&url]).await;
    until("one live key", async || {
        (world.live(&key).await == 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_wait_ends_where_it_is_told_to() {
    let world = World::asleep().await;
    let mut process = world.start("headscale-0", &["--wait-timeout=300ms"]);
    let ended = tokio::time::timeout(Duration::from_secs(30), &mut process.0).await;
    let error = ended.unwrap().unwrap().unwrap_err().to_string();
    assert!(
        error.contains("--wait-timeout") && error.contains("headscale.sock"),
        "{error}"
    );
    assert!(world.root.path().exists());
}
