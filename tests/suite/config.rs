//! The configuration file while the process runs: edited as a kubelet does, with valid and invalid content.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State as Shared;
use axum::routing::post;
use axum::{Json, Router};
use jiff::Timestamp;
use serde_json::Value;
use sidescale::clock::Clock;
use sidescale::config::{Current, EditReports, Follower};
use sidescale::events::Events;
use sidescale::health::{Health, Part};
use sidescale::metrics::Metrics;
use tempfile::TempDir;
use tokio::sync::mpsc::UnboundedSender;
use tokio_util::sync::CancellationToken;

const LIMIT: Duration = Duration::from_secs(30);

/// A mounted ConfigMap: its file is a link into a directory that is replaced as a whole.
struct Mounted {
    folder: TempDir,
    versions: u32,
}

impl Mounted {
    fn new(text: &str) -> Self {
        let mut this = Self {
            folder: tempfile::tempdir().unwrap(),
            versions: 0,
        };
        this.swap(text);
        symlink("..data/config.yaml", this.file()).unwrap();
        this
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("config.yaml")
    }

    fn swap(&mut self, text: &str) {
        self.versions += 1;
        let version = format!("..{}", self.versions);
        let folder = self.folder.path();
        std::fs::create_dir(folder.join(&version)).unwrap();
        std::fs::write(folder.join(&version).join("config.yaml"), text).unwrap();
        let fresh = folder.join("..data_tmp");
        symlink(Path::new(&version), &fresh).unwrap();
        std::fs::rename(fresh, folder.join("..data")).unwrap();
    }
}

struct Process {
    metrics: Arc<Metrics>,
    health: Arc<Health>,
    current: Current,
}

impl Process {
    fn start(file: PathBuf) -> Self {
        Self::with(file, Events::log(Clock::scaled(Timestamp::UNIX_EPOCH, 0.0)))
    }

    fn with(file: PathBuf, events: Events) -> Self {
        let (follower, current) = Follower::open(file).unwrap();
        let told = EditReports {
            metrics: Arc::new(Metrics::new().unwrap()),
            health: Arc::default(),
            events,
            config_map: ("sidescale".to_owned(), "sidescale".to_owned()),
        };
        let (metrics, health) = (Arc::clone(&told.metrics), Arc::clone(&told.health));
        tokio::spawn(follower.run(Duration::from_millis(5), told));
        Self {
            metrics,
            health,
            current,
        }
    }

    fn tags(&self) -> Vec<String> {
        self.current.borrow().profiles["default"]
            .allowed_tags
            .clone()
    }

    fn metric(&self, line: &str) -> bool {
        let text = String::from_utf8(self.metrics.text().unwrap()).unwrap();
        text.lines().any(|found| found == line)
    }

    /// Waits until the admin port reports this.
    async fn says(&self, ok: bool, piece: &str) {
        let said = async {
            loop {
                let reports = self.health.reports();
                let report = reports
                    .iter()
                    .find(|(part, _)| *part == Part::Configuration);
                if report
                    .is_some_and(|(_, report)| report.ok == ok && report.detail.contains(piece))
                {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let waited = tokio::time::timeout(LIMIT, said).await;
        assert!(
            waited.is_ok(),
            "want {piece:?}: {:?}",
            self.health.reports()
        );
    }
}

fn with_tag(tag: &str) -> String {
    format!(
        "controlPlanes: {{default: {{loginServer: 'https://hs.example.com'}}}}\nprofiles: {{default: {{allowedTags: ['{tag}']}}}}\n"
    )
}

#[tokio::test]
async fn an_edit_is_taken_and_an_invalid_one_told_while_the_old_one_stays() {
    let mut mounted = Mounted::new(&with_tag("tag:one"));
    let process = Process::start(mounted.file());
    process.says(true, "in effect").await;
    assert_eq!(process.tags(), ["tag:one"]);

    let mut waiting = process.current.clone();
    mounted.swap(&with_tag("tag:two"));
    let changed = tokio::time::timeout(LIMIT, waiting.changed()).await;
    changed.unwrap().unwrap();
    assert_eq!(process.tags(), ["tag:two"]);

    for (text, piece) in [
        (
            with_tag("no tag"),
            "profiles.default.allowedTags is \"no tag\": want tags",
        ),
        ("controlPlanes: [".to_owned(), "parse configuration: "),
        (
            String::new(),
            "controlPlanes.default.loginServer is missing",
        ),
    ] {
        mounted.swap(&text);
        process.says(false, piece).await;
        assert_eq!(
            process.tags(),
            ["tag:two"],
            "{text:?} took the old one away"
        );
        assert!(process.metric("sidescale_config_in_force 0"));
    }
    std::fs::remove_file(mounted.folder.path().join("..data")).unwrap();
    process.says(false, "read configuration ").await;

    mounted.swap(&with_tag("tag:three"));
    process.says(true, "in effect").await;
    assert_eq!(process.tags(), ["tag:three"]);
    assert!(process.metric("sidescale_config_in_force 1"));
    assert!(process.metric(r#"sidescale_config_reloads_total{result="taken"} 2"#));
    assert!(process.metric(r#"sidescale_config_reloads_total{result="refused"} 4"#));
}

#[tokio::test]
async fn each_mistake_is_an_event_of_its_own() {
    let (sender, mut events) = tokio::sync::mpsc::unbounded_channel();
    let event = async |Shared(sender): Shared<UnboundedSender<Value>>, Json(event): Json<Value>| {
        sender.send(event.clone()).unwrap();
        Json(event)
    };
    let router = Router::new()
        .route(
            "/apis/events.k8s.io/v1/namespaces/sidescale/events",
            post(event),
        )
        .with_state(sender);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    let client = kube::Client::try_from(kube::Config::new(url.parse().unwrap())).unwrap();
    let clock = Clock::scaled(Timestamp::UNIX_EPOCH, 0.0);

    let metrics = Arc::new(Metrics::new().unwrap());
    let (told, publisher) = Events::kubernetes(client, "a".into(), clock, metrics);
    tokio::spawn(publisher.run(CancellationToken::new()));

    let mut mounted = Mounted::new(&with_tag("tag:one"));
    let _process = Process::with(mounted.file(), told);
    for tag in ["first mistake", "second mistake"] {
        mounted.swap(&with_tag(tag));
        let event = tokio::time::timeout(LIMIT, events.recv()).await;
        let event = event.expect("an Event").unwrap();
        assert_eq!(event["reason"], "ConfigurationRefused");
        let note = event["note"].as_str().unwrap();
        assert!(note.contains(tag), "{note}");
    }
}

#[test]
fn a_file_that_is_wrong_from_the_start_names_path_and_value() {
    let mounted = Mounted::new("controlPlanes: {default: {loginServer: 'ftp://x'}}\n");
    let error = Follower::open(mounted.file()).unwrap_err();
    let error = sidescale::cluster::chain(&error);
    assert!(
        error.contains("controlPlanes.default.loginServer is \"ftp://x\""),
        "{error}"
    );
    let error = Follower::open(PathBuf::from("/nowhere/config.yaml")).unwrap_err();
    assert!(
        error.to_string().contains("/nowhere/config.yaml"),
        "{error}"
    );
}
