//! Rotation on a real API server and a real Headscale, under the shipped account: keys come, and what is left goes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, Namespace, Pod, Secret};
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::json;
use sidescale::clock::Clock;
use sidescale::config;
use sidescale::control_plane::{ControlPlane, Endpoint, NewPreAuthKey, PreAuthKey};
use sidescale::events::Events;
use sidescale::health::{Health, Part};
use sidescale::key_value::KeyValue;
use sidescale::leader::Lease;
use sidescale::metrics::Metrics;
use sidescale::rotation::demand::SecretRef;
use sidescale::rotation::in_cluster::{self, InCluster};
use sidescale::rotation::record::{DATA_KEY, Record};
use sidescale::watch::Namespaces;
use sidescale_webhook::profile::Policy;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::chart::Release;
use crate::support::api::free_ports;
use crate::support::context::Context;
use crate::support::headscale::{self, Headscale};
use crate::support::levels::Level;
use crate::support::processes::Place;
use crate::support::product::{KEYS, label};
use crate::{Case, support};

pub(crate) const CASES: &[Case] = &[Case {
    name: "rotation::new_services_get_keys_and_a_foreign_secret_stays",
    needs: &[Level::Api, Level::Headscale],
    each: true,
    run: makes_keys,
}];

const SERVICES: usize = 10;
const LIMIT: Duration = Duration::from_secs(30);

fn makes_keys(context: &Context, program: Option<&headscale::Program>) -> Result<()> {
    let program = program.context("runs for a Headscale")?;
    let api = context.api()?;
    let name = label("soon", program);
    let [port] = free_ports()?;
    let folder = context.folder.inner(&name)?;
    let headscale = Headscale::start(program, Place::Host, &folder, &format!("127.0.0.1:{port}"))?;
    let release = Release::install(context, &api, &name)?;
    // Its webhook is not served here, and must not hold up the pods whose time is taken.
    let webhook = release.fullname();
    api.kubectl().run(&[
        "delete",
        "mutatingwebhookconfigurations,validatingwebhookconfigurations",
        &webhook,
    ])?;
    let account = release.account(&api)?;
    forget_others(api.kubectl())?;
    for suffix in ["apps", "foreign"] {
        api.namespace(&format!("{name}-{suffix}"), &json!({}))?;
    }
    api.kubectl().apply(&json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": KEYS, "namespace": format!("{name}-foreign")},
        "stringData": {"password": "not ours"},
    }))?;
    let api_key = headscale.create_api_key()?;
    api.kubectl().apply(&json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": "headscale-api-key", "namespace": format!("{name}-headscale")},
        "stringData": {"api-key": api_key},
    }))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let suffixes = ["apps", "foreign"].map(|suffix| format!("{name}-{suffix}"));
    let measured = runtime.block_on(async {
        let world = World {
            admin: client(api.kubectl()).await?,
            account: client(&account).await?,
            url: headscale.url().to_owned(),
            api_key: KeyValue::new(api_key),
            name,
        };
        world.measure(&program.version).await
    });
    // The next run shares the cluster, and would make keys for them.
    for namespace in suffixes {
        let arguments = ["delete", "pods", "--all", "--namespace", &namespace];
        api.kubectl().run(&arguments)?;
    }
    measured
}

/// What other tests have left: every Headscale numbers its keys from 1, so a record of another's would seem to know ours.
pub(crate) fn forget_others(kubectl: &support::kubectl::Kubectl) -> Result<()> {
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

pub(crate) async fn client(kubectl: &support::kubectl::Kubectl) -> Result<kube::Client> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let file = Kubeconfig::read_from(kubectl.kubeconfig())?;
    let config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
    Ok(kube::Client::try_from(config)?)
}

pub(crate) struct World {
    pub(crate) admin: kube::Client,
    pub(crate) account: kube::Client,
    pub(crate) url: String,
    pub(crate) api_key: KeyValue,
    pub(crate) name: String,
}

/// Rotation that was started, and its watch of namespaces.
pub(crate) struct Running {
    rotation: JoinHandle<()>,
    watch: JoinHandle<()>,
    shutdown: CancellationToken,
}

impl Running {
    pub(crate) async fn stop(self) -> Result<()> {
        self.shutdown.cancel();
        self.rotation.await?;
        self.watch.abort();
        Ok(())
    }
}

impl World {
    /// Starts rotation under the shipped account, with a policy of the test's own, and waits until it is up.
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
        let cluster = InCluster {
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
            metrics,
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
            // The second time there is the foreign Secret, which it goes on telling of.
            let up = report.ok || report.detail.contains("SecretNotOurs");
            (up && report.detail.contains("keys ready")).then_some(())
        })
        .await?;
        Ok(Running {
            rotation,
            watch,
            shutdown,
        })
    }

    async fn measure(&self, version: &str) -> Result<()> {
        let running = self.start(|_| {}).await?;
        let mut times = Vec::new();
        for n in 0..SERVICES {
            times.push(self.first_key(&format!("s{n}")).await?);
        }
        let bare = self.bare().await?;
        // A time says something only beside another of the same run: it is printed, and nothing hangs on it.
        let (ours, floor) = (median(&times), median(&bare));
        println!(
            "\ne2e: Headscale {version}, median of {SERVICES}: pod created -> Secret written {ours:.1?}; bare CreateUser + \
             CreatePreAuthKey {floor:.1?}; ratio {:.2}",
            ours.as_secs_f64() / floor.as_secs_f64()
        );
        self.fingerprints_are_kept().await?;
        self.a_foreign_secret_is_left_alone().await?;
        running.stop().await?;
        self.a_deleted_namespace_leaves_no_key_alive(version).await
    }

    /// Deletes the namespace of all those services while nobody rotates: the next start ends their keys, and no other.
    async fn a_deleted_namespace_leaves_no_key_alive(&self, version: &str) -> Result<()> {
        let namespaces: Api<Namespace> = Api::all(self.admin.clone());
        let name = format!("{}-apps", self.name);
        namespaces.delete(&name, &DeleteParams::default()).await?;
        until("the namespace is gone", async || {
            let found = namespaces.get_opt(&name).await.ok()?;
            found.is_none().then_some(())
        })
        .await?;
        let control_plane = self.control_plane()?;
        let alive = async || {
            let keys = control_plane.list_pre_auth_keys().await.ok()?;
            let now = Timestamp::now();
            let live = keys
                .iter()
                .filter(|key| key.expiration.is_some_and(|end| now < end));
            Some(live.count())
        };
        let before = alive().await.context("keys are not listed")?;
        ensure!(
            before == 2 * SERVICES,
            "{before} live keys before the start: ours, and as many of a stranger"
        );
        let began = Instant::now();
        // Ten minutes is what a test has not; nothing is being made here.
        let young = |policy: &mut Policy| policy.rotation.orphaned_keys_after = Duration::ZERO;
        let running = self.start(young).await?;
        until("the keys of the deleted namespace are ended", async || {
            (alive().await? == SERVICES).then_some(())
        })
        .await?;
        println!(
            "e2e: Headscale {version}: {SERVICES} keys of a deleted namespace ended {:.1?} after the start",
            began.elapsed()
        );
        running.stop().await
    }

    /// Makes the first pod of a service; how long after it exists its key is in the Secret.
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
        let receipt = json!({
            "version": "0.1.0", "decision": "inject", "profile": "default", "profileHash": "0", "service": service,
            "controlPlane": "default", "secret": KEYS, "dataKey": format!("{service}-authkey"),
        });
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {
                "name": service,
                "labels": {"sidescale.io/sidecar": "tailscale"},
                "annotations": {
                    "sidescale.io/inject": "tailscale", "sidescale.io/service": service,
                    "sidescale.io/status": receipt.to_string(),
                },
            },
            "spec": {"containers": [{"name": "app", "image": "app"}]},
        }))?;
        let pods: Api<Pod> = Api::namespaced(self.admin.clone(), namespace);
        pods.create(&PostParams::default(), &pod).await?;
        Ok(Instant::now())
    }

    pub(crate) async fn secret(&self, namespace: &str) -> Option<Secret> {
        let secrets: Api<Secret> = Api::namespaced(self.admin.clone(), namespace);
        secrets.get_opt(KEYS).await.ok().flatten()
    }

    pub(crate) fn control_plane(&self) -> Result<ControlPlane> {
        self.control_plane_at(&self.url, self.api_key.clone())
    }

    pub(crate) fn control_plane_at(&self, url: &str, api_key: KeyValue) -> Result<ControlPlane> {
        Ok(ControlPlane::new(Endpoint {
            name: "bare".into(),
            api_url: url.to_owned(),
            api_key,
            ca_bundle: None,
            allow_insecure: true,
        })?)
    }

    async fn bare(&self) -> Result<Vec<Duration>> {
        let control_plane = self.control_plane()?;
        let mut times = Vec::new();
        for n in 0..SERVICES {
            let began = Instant::now();
            let user = control_plane
                .create_user(&format!("bare{n}"), "bare")
                .await?;
            let key = NewPreAuthKey {
                user: user.id,
                reusable: true,
                ephemeral: true,
                expiration: Timestamp::from_second(Timestamp::now().as_second() + 3_600)?,
                tags: Vec::new(),
            };
            control_plane.create_pre_auth_key(&key).await?;
            times.push(began.elapsed());
        }
        Ok(times)
    }

    /// A lost key is known by the sub-second part of its end, so the server has to keep that.
    async fn fingerprints_are_kept(&self) -> Result<()> {
        let listed = self.control_plane()?.list_pre_auth_keys().await?;
        let listed: BTreeMap<_, PreAuthKey> = listed.into_iter().map(|key| (key.id, key)).collect();
        let namespace = format!("{}-apps", self.name);
        let secret = self.secret(&namespace).await.context("no Secret")?;
        let data = secret.data.context("no data")?;
        let name = SecretRef {
            namespace,
            name: secret.metadata.name.unwrap_or_default(),
        };
        let document = data.get(DATA_KEY).map(|document| document.0.as_slice());
        let record = Record::parse(document, &name)?;
        ensure!(
            record.keys.len() == SERVICES,
            "{} records",
            record.keys.len()
        );
        for (data_key, key) in record.keys {
            let current = key
                .current
                .with_context(|| format!("{data_key} has no key"))?;
            let expiration = listed.get(&current.id).and_then(|key| key.expiration);
            ensure!(
                expiration == Some(current.expires) && current.expires.subsec_nanosecond() != 0,
                "{data_key}: the server keeps {expiration:?} of {}",
                current.expires
            );
        }
        Ok(())
    }

    async fn a_foreign_secret_is_left_alone(&self) -> Result<()> {
        let namespace = format!("{}-foreign", self.name);
        let before = self.secret(&namespace).await.context("no Secret")?;
        self.make_pod(&namespace, "api").await?;
        let events: Api<Event> = Api::namespaced(self.admin.clone(), &namespace);
        let note = until("the Event", async || {
            let found = events.list(&ListParams::default()).await.ok()?.items;
            found
                .into_iter()
                .find(|event| event.reason.as_deref() == Some("SecretNotOurs"))?
                .message
        })
        .await?;
        ensure!(
            note.contains("sidescale.io/adopt") && note.contains("authKeySecretName"),
            "{note}"
        );
        let after = self.secret(&namespace).await.context("no Secret")?;
        ensure!(
            after.metadata.resource_version == before.metadata.resource_version,
            "it was written"
        );
        Ok(())
    }
}

fn median(times: &[Duration]) -> Duration {
    let mut times = times.to_vec();
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

pub(crate) async fn until<T>(what: &str, ask: impl AsyncFn() -> Option<T>) -> Result<T> {
    let began = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return Ok(answer);
        }
        ensure!(began.elapsed() < LIMIT, "{what}: not within {LIMIT:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
