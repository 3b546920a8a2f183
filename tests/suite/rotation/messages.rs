//! Messages when no key can be created: log, Event and readiness, in full, each compared with its file.

use std::fmt::Write as _;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use sidescale_core::secret::StoredSecret;
use sidescale_simulator::{Call, Fault};
use sidescale_webhook::profile::UserPolicy;
use tokio::net::TcpListener;

use super::{SECRET, World, until};

const SITUATIONS: [&str; 18] = [
    "no_api_key",
    "empty_api_key",
    "unknown_api_key",
    "pre_auth_key_as_api_key",
    "api_key_encoded_twice",
    "api_key_of_two_lines",
    "unreachable",
    "login_page",
    "redirect",
    "bad_gateway",
    "too_old",
    "refuses_to_mint",
    "plane_not_configured",
    "foreign_secret",
    "foreign_user",
    "missing_user",
    "damaged_record",
    "newer_record",
];

/// Log so far.
#[derive(Clone, Default)]
pub(super) struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        log.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// Records this thread's log, until the guard is dropped.
    pub(super) fn listen() -> (Self, tracing::subscriber::DefaultGuard) {
        let log = Self::default();
        let pipe = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .json()
            .flatten_event(true)
            .with_target(false)
            .with_writer(move || pipe.clone())
            .finish();
        // Everything in a test runs on its own thread.
        (log, tracing::subscriber::set_default(subscriber))
    }

    /// Returns the lines with that message, with their fields.
    pub(super) fn lines(&self, message: &str) -> Vec<Value> {
        let log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let text = String::from_utf8_lossy(&log).into_owned();
        let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
        lines
            .filter(|line: &Value| line["message"] == message)
            .collect()
    }

    /// Returns everything, as it was written.
    pub(super) fn whole(&self) -> String {
        let log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&log).into_owned()
    }

    /// Returns warnings and Events, in readable form.
    fn told(&self) -> String {
        let log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut told = String::new();
        for line in String::from_utf8_lossy(&log).lines() {
            let mut line: Value = serde_json::from_str(line).unwrap();
            let fields = line.as_object_mut().unwrap();
            fields.remove("timestamp");
            let (level, message) = (fields.remove("level"), fields.remove("message"));
            let (level, message) = (level.unwrap(), message.unwrap());
            if level == "INFO" && message != "Event" {
                continue;
            }
            writeln!(
                told,
                "{} {}",
                level.as_str().unwrap(),
                message.as_str().unwrap()
            )
            .unwrap();
            for (name, value) in fields {
                let value = value
                    .as_str()
                    .map_or_else(|| value.to_string(), str::to_owned);
                writeln!(told, "    {name}: {value}").unwrap();
            }
        }
        told
    }
}

/// Sets up the situation.
async fn prepare(world: &mut World, situation: &str) {
    let plane = world.policy.control_planes.get_mut("default").unwrap();
    match situation {
        "no_api_key" => {}
        "empty_api_key" => world.give_api_key("").await,
        "pre_auth_key_as_api_key" => world.give_api_key("hskey-auth-a-b").await,
        "api_key_encoded_twice" => world.give_api_key("aHNrZXktYXBpLWFiYw==").await,
        "api_key_of_two_lines" => world.give_api_key("Warning: old\nhskey-api-abc").await,
        "unknown_api_key" => world.give_api_key("hskey-api-unknown").await,
        "unreachable" => {
            // A port that was just free: nothing listens there.
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            plane.api_url = format!("http://{}", listener.local_addr().unwrap());
        }
        "login_page" => world.headscale.break_calls(None, Fault::Html),
        "redirect" => world.headscale.break_calls(None, Fault::Redirect),
        "bad_gateway" => world.headscale.break_calls(None, Fault::Status(502)),
        "too_old" => {
            let old = Some(serde_json::json!("v0.27.1"));
            world
                .headscale
                .break_calls(Some(Call::Version), Fault::Field("/version", old));
        }
        "refuses_to_mint" => world
            .headscale
            .break_calls(Some(Call::CreateUser), Fault::Status(403)),
        "plane_not_configured" => {}
        "foreign_secret" => {
            let mut foreign = StoredSecret::absent("shop", SECRET);
            foreign.labels.clear();
            world.store.write(&foreign).await.unwrap();
        }
        "foreign_user" => world.headscale.add_user("shop.api", "Alice", ""),
        "missing_user" => world.policy.rotation.users = UserPolicy::Never,
        "damaged_record" | "newer_record" => {
            let mut secret = StoredSecret::absent("shop", SECRET);
            let document = if situation == "newer_record" {
                &br#"{"version":2}"#[..]
            } else {
                b"{"
            };
            secret
                .data
                .insert("sidescale.json".into(), document.to_vec().into());
            world.store.write(&secret).await.unwrap();
        }
        other => panic!("{other} is no situation"),
    }
}

/// Returns the messages in the situation; no key is created and no Secret written.
async fn told(situation: &str) -> String {
    let (log, _logging) = Log::listen();
    let mut world = match situation {
        with_key if with_key.contains("api_key") => World::without_api_key().await,
        _ => World::new().await,
    };
    prepare(&mut world, situation).await;
    let before = world.secret().await.and_then(|secret| secret.revision);
    let process = world.start("a");
    world.demand(&["api"], |demand| {
        if situation == "plane_not_configured" {
            demand.control_plane = "lab".into();
        }
    });
    let detail = until(situation, async || {
        // The failure of one key alone is not reported yet.
        world.clock.advance(Duration::from_millis(100));
        let (told, detail) = (log.told(), world.detail());
        let all = ["WARN ", "    namespace: shop"].map(|part| told.contains(part));
        (all == [true, true] && !detail.is_empty()).then_some(detail)
    })
    .await;
    drop(process);
    assert_eq!(world.mints(), 0, "{situation}");
    assert_eq!(world.value("api").await, None, "{situation}");
    // The refusal is noticed only when a key is requested, and by then the intent is written.
    if situation == "refuses_to_mint" {
        return readable(&world, &log, &detail);
    }
    let after = world.secret().await.and_then(|secret| secret.revision);
    assert_eq!(after, before, "{situation}: a Secret was written");
    readable(&world, &log, &detail)
}

fn readable(world: &World, log: &Log, detail: &str) -> String {
    let url = &world.policy.control_planes["default"].api_url;
    let told = format!("{}readiness\n    {detail}\n", log.told());
    told.replace(url, "http://ADDRESS")
}

#[tokio::test]
async fn each_trouble_is_told_whole_and_makes_no_key() {
    let mut differing = Vec::new();
    for situation in SITUATIONS {
        let told = told(situation).await;
        assert!(!told.contains("hskey-"), "{told}");
        let path = format!(
            "{}/tests/messages/rotation/{situation}.txt",
            env!("CARGO_MANIFEST_DIR")
        );
        if std::env::var_os("SIDESCALE_BLESS").is_some() {
            std::fs::write(&path, &told).unwrap();
        }
        if std::fs::read_to_string(&path).unwrap_or_default() != told {
            differing.push(format!(
                "{path} differs (SIDESCALE_BLESS=1 writes it):\n{told}"
            ));
        }
    }
    assert!(differing.is_empty(), "{}", differing.join("\n"));
}
