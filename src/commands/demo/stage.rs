//! The environment of the demo: Headscale, rotation, the admin port, and what all its steps share. I/O.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use sidescale_control_plane::{Client, Endpoint};
use sidescale_core::causes;
use sidescale_core::id::KeyId;
use sidescale_core::key_value::KeyValue;
use sidescale_core::secret::StoredSecret;
use sidescale_rotation::demand::{Demands, PodInputs, PodSeen, of_namespace};
use sidescale_rotation::owner::Installation;
use sidescale_simulator::{Call, Embedded, Fault, Flavour};
use sidescale_webhook::profile::Policy;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use super::manifests::{self, Manifests, Sample};
use super::review::{self, HOST, Reviewer};
use super::show::Show;
use super::step::{DemoStep, Failed, PATIENCE, Spoilt};
use crate::clock::Clock;
use crate::controller::context::Context;
use crate::health::Health;
use crate::metrics::Metrics;
use crate::store::{DirectoryStore, Store};
use crate::{admin, controller};

/// Speed of the demo's clock; between the steps it is also set forward.
const FACTOR: f64 = 600.0;

/// Longer than every rotation of the demo.
const API_KEY_LIFE: Duration = Duration::from_secs(400 * 24 * 3600);

/// An injected pod: what determines its key, its uid and its name.
type StagePod = (Arc<PodInputs>, u128, Arc<str>);

/// A key that pods refer to.
#[derive(Clone, Debug)]
pub(super) struct PodKey {
    /// Its name for people.
    pub(super) name: String,
    pub(super) path: PathBuf,
    /// How long before its expiration it is renewed.
    pub(super) buffer: SignedDuration,
    /// The key that was seen last.
    pub(super) id: KeyId,
    pub(super) created: Timestamp,
    pub(super) expires: Timestamp,
}

/// Everything that runs in the demo.
pub(super) struct Stage {
    pub(super) spoilt: Option<Spoilt>,
    pub(super) clock: Clock,
    pub(super) headscale: Embedded,
    pub(super) files: DirectoryStore,
    pub(super) folder: tempfile::TempDir,
    pub(super) client: Option<Client>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) keys: Vec<PodKey>,
    pub(super) injected: Vec<(Sample, Value)>,
    pub(super) minted: u64,
    pub(super) renewed: u64,
    pub(super) manifests: Manifests,
    pub(super) reviewer: Option<Reviewer>,
    pub(super) stop: CancellationToken,
    policy: Option<Arc<Policy>>,
    rotation: Option<tokio::task::JoinHandle<()>>,
}

impl Stage {
    pub(super) fn new(
        files: Vec<(String, String)>,
        spoilt: Option<Spoilt>,
    ) -> Result<Self, Failed> {
        let manifests = manifests::read(&files).map_err(|problem| Failed {
            step: DemoStep::Manifests,
            problem,
        })?;
        let folder = tempfile::Builder::new()
            .prefix("sidescale-demo-")
            .tempdir()
            .map_err(at(DemoStep::Files))?;
        let clock = Clock::scaled(Timestamp::now(), FACTOR);
        Ok(Self {
            spoilt,
            headscale: Embedded::new(Flavour::V0_29, clock.reader()),
            clock,
            files: DirectoryStore::new(folder.path().join("keys")),
            folder,
            client: None,
            metrics: Arc::new(Metrics::new().map_err(at(DemoStep::Metrics))?),
            keys: Vec::new(),
            injected: Vec::new(),
            minted: 0,
            renewed: 0,
            manifests,
            reviewer: None,
            policy: None,
            stop: CancellationToken::new(),
            rotation: None,
        })
    }

    pub(super) fn is_spoilt(&self, step: DemoStep) -> bool {
        self.spoilt.is_some_and(|spoilt| spoilt.step == step)
    }

    /// Polls until something is seen, or the time is up.
    pub(super) async fn see<T>(
        &self,
        step: DemoStep,
        mut look: impl AsyncFnMut() -> Result<T, String>,
    ) -> Result<T, Failed> {
        // Only the broken step is known to fail: the others get the time that a busy machine needs.
        let spoilt = self.spoilt.filter(|spoilt| spoilt.step == step);
        let patience = spoilt.map_or(PATIENCE, |spoilt| spoilt.patience);
        let begun = Instant::now();
        loop {
            match look().await {
                Ok(seen) => return Ok(seen),
                Err(problem) if begun.elapsed() > patience => return Err(Failed { step, problem }),
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    }

    /// Starts a Headscale in memory, and calls it with the client of rotation.
    pub(super) async fn start_headscale(&mut self, show: &mut Show<'_>) -> Result<(), Failed> {
        let step = DemoStep::ControlPlane;
        show.step("A Headscale, in memory").map_err(at(step))?;
        if self.is_spoilt(step) {
            self.headscale.break_calls(Some(Call::Version), Fault::Html);
        }
        let (listener, address) = listen(step).await?;
        let (router, stop) = (self.headscale.router(), self.stop.clone());
        tokio::spawn(async move {
            axum::serve(listener, router)
                .with_graceful_shutdown(stop.cancelled_owned())
                .await
        });
        let url = format!("http://{address}");
        let api_key = self.headscale.create_api_key(API_KEY_LIFE);
        let client = Client::new(Endpoint {
            name: "default".to_owned(),
            api_url: url.clone(),
            api_key: api_key.clone(),
            ca_bundle: None,
            allow_insecure: true,
        });
        let client = client.map_err(at(step))?;
        let version = client.probe().await.map_err(at(step))?;
        show.seen(&format!("{url} is Headscale {version}"))
            .map_err(at(step))?;
        self.client = Some(client);
        let config = format!(
            "controlPlanes: {{default: {{loginServer: \"{url}\", allowInsecure: true}}}}\n"
        );
        let policy =
            crate::config::parse(&config).map_err(|error| failed(step, &causes::all(&error)))?;
        self.keep_api_key(&policy, &api_key).await?;
        self.policy = Some(Arc::new(policy));
        Ok(())
    }

    async fn keep_api_key(&self, policy: &Policy, api_key: &KeyValue) -> Result<(), Failed> {
        let plane = policy
            .control_planes
            .get("default")
            .ok_or_else(|| failed(DemoStep::ControlPlane, "no control plane"))?;
        let mut secret = StoredSecret::absent(&plane.api_key_namespace, &plane.api_key_secret);
        let value = Zeroizing::new(api_key.expose().as_bytes().to_vec());
        secret.data.insert(plane.api_key_data_key.clone(), value);
        let store = Store::of(self.files.clone());
        store
            .write(&secret)
            .await
            .map(drop)
            .map_err(at(DemoStep::Files))
    }

    /// Starts rotation, which creates the keys of the pods.
    pub(super) fn start_rotation(&mut self) -> Result<(), Failed> {
        let step = DemoStep::Mint;
        let policy = Arc::clone(self.policy(step)?);
        let now = self.clock.now();
        let mut pods: BTreeMap<&str, Vec<StagePod>> = BTreeMap::new();
        for (sample, pod) in &self.injected {
            let shape = Arc::new(manifests::shape(&sample.name, pod, &policy));
            pods.entry(&sample.namespace).or_default().push((
                shape,
                uuid::Uuid::new_v4().as_u128(),
                sample.name.as_str().into(),
            ));
        }
        let namespaces = pods.into_iter().map(|(namespace, pods)| {
            let seen = pods.iter().map(|(shape, uid, name)| PodSeen {
                created: now,
                uid: *uid,
                name,
                leaving: false,
                shape,
            });
            let metadata = self.manifests.namespaces.get(namespace);
            let demand = of_namespace(namespace, seen, metadata, &policy);
            (Arc::from(namespace), Arc::new(demand))
        });
        let demands = Demands {
            synced: true,
            namespaces: namespaces.collect(),
            ..Demands::default()
        };
        let context = Context::alone(
            Store::of(self.files.clone()),
            policy,
            self.clock.clone(),
            Arc::clone(&self.metrics),
            Installation::new("demo", &[]),
            "demo".to_owned(),
        );
        let stop = self.stop.clone();
        self.rotation = Some(tokio::spawn(async move {
            // Dropped only with the loop: rotation stops when the sender of demands is dropped.
            let (_sender, demands) = watch::channel(demands);
            let memory = controller::Memory::default();
            controller::run(Arc::new(context), memory, demands, stop).await;
        }));
        Ok(())
    }

    /// Reads the metrics over the admin port.
    pub(super) async fn read_metrics(&mut self, show: &mut Show<'_>) -> Result<(), Failed> {
        let step = DemoStep::Metrics;
        show.step("What the admin port counts").map_err(at(step))?;
        let metrics = if self.is_spoilt(step) {
            Arc::new(Metrics::new().map_err(at(step))?)
        } else {
            Arc::clone(&self.metrics)
        };
        let (listener, address) = listen(step).await?;
        let stop = self.stop.clone().cancelled_owned();
        tokio::spawn(admin::run(
            listener,
            Arc::new(Health::default()),
            metrics,
            stop,
        ));
        let client = reqwest::Client::builder()
            .no_proxy()
            .build()
            .map_err(at(step))?;
        let injected = self.injected.len() as u64;
        let wanted = [
            ("sidescale_reviews_total", "verdict=\"inject\"", injected),
            (
                "sidescale_rotations_total",
                "result=\"minted\"",
                self.minted,
            ),
            (
                "sidescale_rotations_total",
                "result=\"renewed\"",
                self.renewed,
            ),
        ];
        // A count may be updated a moment after its event.
        let lines = self
            .see(step, async || {
                let reply = client.get(format!("http://{address}/metrics")).send().await;
                let text = reply
                    .map_err(|error| causes::innermost(&error))?
                    .text()
                    .await;
                let text = text.map_err(|error| causes::innermost(&error))?;
                let count = |(name, label, want): &(&str, &str, u64)| {
                    let line = text
                        .lines()
                        .find(|line| line.starts_with(name) && line.contains(label));
                    let value = line
                        .and_then(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
                        .unwrap_or_default();
                    match line {
                        Some(line) if value >= *want && *want > 0 => Ok(line.to_owned()),
                        Some(_) | None => Err(format!(
                            "{name} with {label} is {value}: want at least {want}"
                        )),
                    }
                };
                wanted
                    .iter()
                    .map(count)
                    .collect::<Result<Vec<String>, String>>()
            })
            .await?;
        for line in lines {
            show.seen(&line).map_err(at(step))?;
        }
        Ok(())
    }

    /// Returns how to continue while everything runs.
    pub(super) fn invitation(&self) -> Result<Vec<String>, String> {
        let (sample, _) = self.injected.first().ok_or("no pod")?;
        let path = self.folder.path().join("review.json");
        std::fs::write(&path, review::body(sample, &sample.pod).to_string())
            .map_err(|error| error.to_string())?;
        let reviewer = self.reviewer.as_ref().ok_or("no webhook")?;
        let (folder, port) = (self.folder.path().display(), reviewer.port());
        Ok(vec![
            String::new(),
            format!("Keys are in {folder}/keys; until Ctrl-C the webhook answers:"),
            format!(
                "curl --cacert {folder}/ca.crt --resolve {HOST}:{port}:127.0.0.1 -H 'Content-Type: application/json' \
                 --data @{folder}/review.json {}",
                reviewer.url(sample.path.unwrap_or_default())
            ),
        ])
    }

    /// Stops everything; the key files are deleted with the folder.
    pub(super) async fn end(mut self) {
        self.stop.cancel();
        // Rotation may be within a write, and would leave a file behind. It has a grace period of five seconds.
        if let Some(rotation) = self.rotation.take() {
            let _ = rotation.await;
        }
    }

    pub(super) fn control_plane(&self, step: DemoStep) -> Result<&Client, Failed> {
        self.client
            .as_ref()
            .ok_or_else(|| failed(step, "Headscale is not up"))
    }

    pub(super) fn policy(&self, step: DemoStep) -> Result<&Arc<Policy>, Failed> {
        self.policy
            .as_ref()
            .ok_or_else(|| failed(step, "no policy"))
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Converts an error into a failure of this step.
pub(super) fn at<E: std::fmt::Display>(step: DemoStep) -> impl Fn(E) -> Failed {
    move |error| Failed {
        step,
        problem: error.to_string(),
    }
}

pub(super) fn failed(step: DemoStep, problem: &str) -> Failed {
    Failed {
        step,
        problem: problem.to_owned(),
    }
}

/// Formats a duration for people.
pub(super) fn days(span: SignedDuration) -> String {
    let minutes = (span.as_secs() + 30) / 60;
    format!(
        "{} d {:02} h {:02} min",
        minutes / 1440,
        minutes / 60 % 24,
        minutes % 60
    )
}

pub(super) async fn listen(step: DemoStep) -> Result<(TcpListener, SocketAddr), Failed> {
    let listener = TcpListener::bind("127.0.0.1:0").await.map_err(at(step))?;
    let address = listener.local_addr().map_err(at(step))?;
    Ok((listener, address))
}
