//! Rotation under the shipped account, run by the test itself: a real API server and a real Headscale (I/O).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::{Api, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};
use sidescale::clock::Clock;
use sidescale::commands::serve::in_cluster::{self, InCluster};
use sidescale::config;
use sidescale::events::Events;
use sidescale::fences::FencesState;
use sidescale::health::{Health, Part};
use sidescale::leader::Lease;
use sidescale::metrics::Metrics;
use sidescale::watch::Namespaces;
use sidescale_control_plane::{Client, Endpoint};
use sidescale_core::key_state::KeyState;
use sidescale_core::key_value::KeyValue;
use sidescale_core::secret::SecretRef;
use sidescale_rotation::record::{DATA_KEY, Record};
use sidescale_webhook::profile::Policy;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::chart::Release;
use crate::support::api::{self, free_ports};
use crate::support::context::Context;
use crate::support::headscale::{self, Headscale};
use crate::support::kubectl::Kubectl;
use crate::support::processes::Place;
use crate::support::product::KEYS;

const LIMIT: Duration = Duration::from_secs(30);

/// A release whose webhook is not served and whose rotation the test runs, and its Headscale.
pub(crate) struct World {
    pub(crate) admin: kube::Client,
    pub(crate) account: kube::Client,
    pub(crate) kubectl: Kubectl,
    pub(crate) runtime: Runtime,
    pub(crate) url: String,
    pub(crate) api_key: KeyValue,
    pub(crate) name: String,
    /// Its own namespaces, which begin with its name.
    namespaces: Vec<String>,
    _release: Release,
}

impl Drop for World {
    /// The next test shares the cluster, and would create keys for these pods.
    fn drop(&mut self) {
        for namespace in &self.namespaces {
            let arguments = ["delete", "pods", "--all", "--namespace", namespace];
            let _ = self.kubectl.run(&arguments);
        }
    }
}

/// A running rotation, and its watch of namespaces.
pub(crate) struct Running {
    rotation: JoinHandle<()>,
    watch: JoinHandle<()>,
    shutdown: CancellationToken,
    metrics: Arc<Metrics>,
}

impl Running {
    pub(crate) async fn stop(self) -> Result<()> {
        self.shutdown.cancel();
        self.rotation.await?;
        self.watch.abort();
        Ok(())
    }

    /// Returns how many keys that pods need are in this state.
    pub(crate) fn keys(&self, state: KeyState) -> i64 {
        let keys = &self.metrics.rotation.keys;
        keys.with_label_values(&[state.as_str()]).get()
    }
}

/// Starts the test's own Headscale on this machine.
pub(crate) fn start_headscale(
    context: &Context,
    program: &headscale::Program,
    name: &str,
) -> Result<Headscale> {
    let [port] = free_ports()?;
    let (folder, address) = (context.folder.inner(name)?, format!("127.0.0.1:{port}"));
    Headscale::start(program, Place::Host, &folder, &address)
}

impl World {
    /// Installs the chart with more arguments for helm, creates namespaces `<name>-<suffix>`, and provides the API key.
    pub(crate) fn install(
        context: &Context,
        api: &api::ControlPlane,
        headscale: &Headscale,
        name: &str,
        suffixes: &[&str],
        values: &[&str],
    ) -> Result<Self> {
        let kubectl = api.kubectl().clone();
        let release = Release::install_with(context, api, name, values)?;
        // Its webhook is not served here, and must not delay the timed pods.
        let webhook = release.fullname();
        let kinds = "mutatingwebhookconfigurations,validatingwebhookconfigurations";
        kubectl.run(&["delete", kinds, &webhook])?;
        forget_others(&kubectl)?;
        let namespaces = suffixes.iter().map(|suffix| format!("{name}-{suffix}"));
        let namespaces = Vec::from_iter(namespaces);
        for namespace in &namespaces {
            api.namespace(namespace, &json!({}))?;
        }
        let account = release.account(api)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()?;
        let world = Self {
            admin: runtime.block_on(client(&kubectl))?,
            account: runtime.block_on(client(&account))?,
            kubectl,
            runtime,
            url: headscale.url().to_owned(),
            api_key: KeyValue::new(headscale.create_api_key()?),
            name: name.to_owned(),
            namespaces,
            _release: release,
        };
        world.give_api_key("headscale-api-key", world.api_key.expose())?;
        Ok(world)
    }

    /// Writes an API key into a Secret of the namespace for API keys.
    pub(crate) fn give_api_key(&self, secret: &str, value: &str) -> Result<()> {
        let applied = self.kubectl.apply(&json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": secret, "namespace": format!("{}-headscale", self.name)},
            "stringData": {"api-key": value},
        }));
        applied.map(drop)
    }

    /// Starts rotation under the shipped account, with the test's own policy, and waits until it is ready.
    pub(crate) async fn start(&self, change: impl FnOnce(&mut Policy)) -> Result<Running> {
        let mut policy = Policy::for_login_server(&self.url)?;
        let plane = policy
            .control_planes
            .get_mut("default")
            .context("no control plane")?;
        plane.api_key_namespace = format!("{}-headscale", self.name);
        change(&mut policy);
        let policy = config::fixed(Arc::new(policy));
        let health = Arc::<Health>::default();
        let namespaces = Arc::<Namespaces>::default();
        let (metrics, shutdown) = (Arc::new(Metrics::new()?), CancellationToken::new());
        let (events, publisher) = Events::kubernetes(
            self.account.clone(),
            "test".into(),
            Clock::wall(),
            Arc::clone(&metrics),
        );
        tokio::spawn(publisher.run(shutdown.clone()));
        // No kubelet runs here, and none is woken.
        let (_, fences) = watch::channel(FencesState::default());
        let cluster = InCluster {
            fences,
            client: self.account.clone(),
            lease: Lease {
                namespace: self.name.clone(),
                name: format!("{}-sidescale", self.name),
                identity: "test".into(),
            },
            hostnames: format!("{}-sidescale-hostnames", self.name),
            release: self.name.clone(),
            policy: policy.clone(),
            namespaces: Arc::clone(&namespaces),
            metrics: Arc::clone(&metrics),
            health: Arc::clone(&health),
            clock: Clock::wall(),
            events,
        };
        let rotation = tokio::spawn(in_cluster::run(cluster, shutdown.clone()));
        let watch = tokio::spawn({
            let client = self.account.clone();
            async move { namespaces.run(client, policy).await }
        });
        until("rotation is up", async || {
            let reports: BTreeMap<Part, _> = health.reports().into_iter().collect();
            let report = reports.get(&Part::Rotation)?;
            // The second time the foreign Secret exists, which it keeps reporting.
            let up = report.ok || report.detail.contains("SecretNotOurs");
            (up && report.detail.contains("keys ready")).then_some(())
        })
        .await?;
        Ok(Running {
            rotation,
            watch,
            shutdown,
            metrics,
        })
    }

    /// Creates the first pod of a service; returns how long after that its key is in the Secret.
    pub(crate) async fn first_key(&self, service: &str) -> Result<Duration> {
        let namespace = format!("{}-apps", self.name);
        let began = self.make_pod(&namespace, service).await?;
        let data_key = format!("{service}-authkey");
        until("the key is written", async || {
            let secret = self.secret(&namespace).await?;
            secret
                .data?
                .get(&data_key)
                .filter(|value| !value.0.is_empty())
                .map(drop)
        })
        .await?;
        Ok(began.elapsed())
    }

    pub(crate) async fn make_pod(&self, namespace: &str, service: &str) -> Result<Instant> {
        let key = (KEYS, format!("{service}-authkey"));
        self.make_pod_with(namespace, service, service, key, |_| {})
            .await
    }

    /// Creates an [`injected_pod`].
    pub(crate) async fn make_pod_with(
        &self,
        namespace: &str,
        name: &str,
        service: &str,
        key: (&str, String),
        change: impl FnOnce(&mut Value),
    ) -> Result<Instant> {
        let pod = injected_pod(name, service, key, change)?;
        let pods: Api<Pod> = Api::namespaced(self.admin.clone(), namespace);
        pods.create(&PostParams::default(), &pod).await?;
        Ok(Instant::now())
    }

    pub(crate) async fn secret(&self, namespace: &str) -> Option<Secret> {
        self.secret_named(namespace, KEYS).await
    }

    pub(crate) async fn secret_named(&self, namespace: &str, name: &str) -> Option<Secret> {
        let secrets: Api<Secret> = Api::namespaced(self.admin.clone(), namespace);
        secrets.get_opt(name).await.ok().flatten()
    }

    pub(crate) fn control_plane(&self) -> Result<Client> {
        self.control_plane_at(&self.url, self.api_key.clone())
    }

    pub(crate) fn control_plane_at(&self, url: &str, api_key: KeyValue) -> Result<Client> {
        Ok(Client::new(Endpoint {
            name: "bare".into(),
            api_url: url.to_owned(),
            api_key,
            ca_bundle: None,
            allow_insecure: true,
        })?)
    }

    /// Returns the record of the keys that a namespace's pods share.
    pub(crate) async fn record(&self, namespace: &str) -> Option<Record> {
        self.record_in(namespace, KEYS).await
    }

    /// Returns the record of the keys in a Secret.
    pub(crate) async fn record_in(&self, namespace: &str, secret: &str) -> Option<Record> {
        let name = SecretRef::new(namespace, secret);
        let secret = self.secret_named(namespace, secret).await?;
        let document = secret.data?.remove(DATA_KEY)?;
        Record::parse(Some(&document.0), &name).ok()
    }
}

/// Returns a pod as the webhook leaves it, with its key and a change to its metadata.
pub(crate) fn injected_pod(
    name: &str,
    service: &str,
    (secret, data_key): (&str, String),
    change: impl FnOnce(&mut Value),
) -> Result<Pod> {
    let receipt = json!({
        "version": "0.1.0", "decision": "inject", "profile": "default", "profileHash": "0", "service": service,
        "controlPlane": "default", "secret": secret, "dataKey": data_key,
    });
    let mut metadata = json!({
        "name": name,
        "labels": {"sidescale.io/sidecar": "tailscale"},
        "annotations": {
            "sidescale.io/inject": "tailscale", "sidescale.io/service": service,
            "sidescale.io/status": receipt.to_string(),
        },
    });
    change(&mut metadata);
    Ok(serde_json::from_value(json!({
        "metadata": metadata, "spec": {"containers": [{"name": "app", "image": "app"}]},
    }))?)
}

/// Deletes what other tests have left: every Headscale numbers its keys from 1, so another's record would seem to know ours.
pub(crate) fn forget_others(kubectl: &Kubectl) -> Result<()> {
    let named = format!("--field-selector=metadata.name={KEYS}");
    let everywhere = ["delete", "--all-namespaces", "--ignore-not-found"];
    for those in [
        ["pods", "--selector=sidescale.io/sidecar"],
        ["secrets", &named],
    ] {
        kubectl.run(&[&everywhere[..], &those].concat())?;
    }
    Ok(())
}

pub(crate) async fn client(kubectl: &Kubectl) -> Result<kube::Client> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let file = Kubeconfig::read_from(kubectl.kubeconfig())?;
    let config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
    Ok(kube::Client::try_from(config)?)
}

pub(crate) async fn until<T>(what: &str, ask: impl AsyncFn() -> Option<T>) -> Result<T> {
    until_within(LIMIT, what, ask).await
}

pub(crate) async fn until_within<T>(
    limit: Duration,
    what: &str,
    ask: impl AsyncFn() -> Option<T>,
) -> Result<T> {
    let began = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return Ok(answer);
        }
        ensure!(began.elapsed() < limit, "{what}: not within {limit:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
