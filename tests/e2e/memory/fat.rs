//! Pods with 256 KiB of annotations or a megabyte of labels and Secrets of a megabyte, read by a process that becomes the leader.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::Client;
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use serde_json::json;
use sidescale_webhook::identity::POD_SECRET;
use tokio::runtime::Runtime;

use super::{MIB, check};
use crate::chart::Release;
use crate::serve::Replica;
use crate::support::api::ControlPlane;
use crate::support::context::Context;
use crate::support::product::KEYS;
use crate::support::{headscale, soak, wait};
use crate::world::{client, forget_others, injected_pod};

const NAMESPACES: usize = 10;

/// Total size that a pod's annotations may have.
const ANNOTATIONS: usize = 255 << 10;

/// A pod's labels take a megabyte: as many as fit into etcd's limit together with their field's owners.
const LABELS: usize = (1 << 20) / (5 + 63);

/// Size that a Secret may have.
const SECRET: usize = (1 << 20) - 1024;

/// Maximum difference of the two peaks.
const DIFFERENCE: u64 = 10 * MIB;

/// Maximum at the peak.
const MOST: u64 = 128 * MIB;

/// Maximum additional delay until a pod of another namespace is seen.
const LATER: Duration = Duration::from_secs(2);

/// The part that makes a pod large.
#[derive(Clone, Copy)]
enum Fat {
    Annotations,
    Labels,
}

pub(super) fn run(context: &Context, _: Option<&headscale::Program>) -> Result<()> {
    let api = context.api()?;
    let suffixes: Vec<_> = (0..NAMESPACES).map(|n| format!("fat-{n}")).collect();
    let mut suffixes: Vec<_> = suffixes.iter().map(String::as_str).collect();
    suffixes.push("apps");
    let name = "memory-fat";
    let stage = Stage::install(context, &api, name, &suffixes)?;
    let many = soak::number(150, 300);
    let tenant = Tenant { stage: &stage };
    let outcome = (|| {
        let apps = format!("{name}-apps");
        stage.runtime.block_on(stage.make_bystander(&apps, "web"))?;
        let quiet = lead(context, &api, &stage)?;
        stage.runtime.block_on(async {
            tenant.make_secrets().await?;
            tenant.make_pods(0..30, Fat::Annotations).await
        })?;
        let few = lead(context, &api, &stage)?;
        let made = tenant.make_pods(30..many, Fat::Annotations);
        stage.runtime.block_on(made)?;
        let more = lead(context, &api, &stage)?;
        let made = tenant.make_pods(many..many + 30, Fat::Labels);
        stage.runtime.block_on(made)?;
        let labelled = lead(context, &api, &stage)?;
        println!(
            "\ne2e: a new leader: {quiet}; {few} beside 30 fat pods; {more} beside {many}; {labelled} with 30 more whose \
             labels are a megabyte"
        );
        for beside in [&few, &more, &labelled] {
            ensure!(
                beside.peak < MOST && beside.peak.abs_diff(few.peak) < DIFFERENCE,
                "{few} and {beside}"
            );
            let started = cfg!(debug_assertions) || beside.start < quiet.start + LATER;
            ensure!(
                started && beside.seen < quiet.seen + LATER,
                "{quiet} and {beside}"
            );
            check(beside.peak)?;
        }
        Ok(())
    })();
    stage.runtime.block_on(tenant.remove())?;
    outcome
}

/// A process that became the leader.
struct Leader {
    /// Its peak memory, in bytes.
    peak: u64,
    /// Time from its start until it knew all pods. A debug build takes ten times as long to read them, so there is no limit.
    start: Duration,
    /// Time until it then saw a new pod of another namespace.
    seen: Duration,
}

impl std::fmt::Display for Leader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (peak, start, seen) = (self.peak / MIB, self.start, self.seen);
        write!(
            f,
            "{peak} MiB, starts in {start:.1?}, sees a pod in {seen:.1?}"
        )
    }
}

/// Starts a process and waits until it has seen the pod that needs a key and its memory no longer grows.
fn lead(context: &Context, api: &ControlPlane, stage: &Stage) -> Result<Leader> {
    let folder = context.folder.inner(&stage.release.name)?;
    let began = Instant::now();
    let mut replica = Replica::start(api, &stage.release, &folder)?;
    let limit = Duration::from_secs(60);
    let keys = |replica: &Replica, least: f64| {
        let keys = replica.metric("sidescale_keys", &[])?;
        ensure!(keys >= least, "{keys} keys");
        Ok(())
    };
    wait::until("the new leader has seen all pods", limit, || {
        keys(&replica, 1.0)
    })?;
    let start = began.elapsed();
    let (mut peak, mut since) = (replica.peak()?, Instant::now());
    wait::until("its memory grows no more", limit, || {
        let now = replica.peak()?;
        if now > peak {
            (peak, since) = (now, Instant::now());
        }
        ensure!(since.elapsed() > Duration::from_secs(2), "{now} bytes");
        Ok(())
    })?;
    let apps = format!("{}-apps", stage.release.name);
    let began = Instant::now();
    stage.runtime.block_on(stage.make_bystander(&apps, "api"))?;
    wait::until("the new pod is seen", limit, || keys(&replica, 2.0))?;
    let seen = began.elapsed();
    let pods: Api<Pod> = Api::namespaced(stage.admin.clone(), &apps);
    let now = DeleteParams::default().grace_period(0);
    stage.runtime.block_on(pods.delete("api", &now))?;
    replica.stop()?;
    Ok(Leader { peak, start, seen })
}

/// A release whose process the test starts itself, and an administrator.
struct Stage {
    release: Release,
    runtime: Runtime,
    admin: Client,
}

impl Stage {
    /// Installs the chart and creates namespaces `<name>-<suffix>`.
    fn install(
        context: &Context,
        api: &ControlPlane,
        name: &str,
        suffixes: &[&str],
    ) -> Result<Self> {
        let release = Release::install(context, api, name)?;
        forget_others(api.kubectl())?;
        for suffix in suffixes {
            api.namespace(&format!("{name}-{suffix}"), &json!({}))?;
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()?;
        let admin = runtime.block_on(client(api.kubectl()))?;
        Ok(Self {
            release,
            runtime,
            admin,
        })
    }

    /// Creates a pod that needs a key: when the demand appears, all pods were seen.
    async fn make_bystander(&self, namespace: &str, service: &str) -> Result<()> {
        let key = (KEYS, format!("{service}-authkey"));
        let pod = injected_pod(service, service, key, |_| {})?;
        let pods: Api<Pod> = Api::namespaced(self.admin.clone(), namespace);
        pods.create(&PostParams::default(), &pod).await?;
        Ok(())
    }
}

struct Tenant<'a> {
    stage: &'a Stage,
}

impl Tenant<'_> {
    fn namespace(&self, n: usize) -> String {
        format!("{}-fat-{}", self.stage.release.name, n % NAMESPACES)
    }

    /// Creates two in each namespace, with names used for keys, and with our label.
    async fn make_secrets(&self) -> Result<()> {
        for n in 0..2 * NAMESPACES {
            let name = if n < NAMESPACES { KEYS } else { POD_SECRET };
            let secret: Secret = serde_json::from_value(json!({
                "metadata": {"name": name, "labels": {"app.kubernetes.io/managed-by": "sidescale"}},
                "stringData": {"fat": "x".repeat(SECRET)},
            }))?;
            let secrets: Api<Secret> =
                Api::namespaced(self.stage.admin.clone(), &self.namespace(n));
            secrets
                .create(&PostParams::default(), &secret)
                .await
                .context("a Secret of a megabyte")?;
        }
        Ok(())
    }

    async fn make_pods(&self, numbers: std::ops::Range<usize>, fat: Fat) -> Result<()> {
        let mut metadata = json!({
            "labels": {"sidescale.io/sidecar": "tailscale"},
            "annotations": {"sidescale.io/inject": "tailscale"},
        });
        match fat {
            Fat::Annotations => metadata["annotations"]["fat"] = json!("x".repeat(ANNOTATIONS)),
            Fat::Labels => {
                for n in 0..LABELS {
                    metadata["labels"][format!("{n:05}")] = json!("x".repeat(63));
                }
            }
        }
        let metadata = &metadata;
        let made = futures::stream::iter(numbers).map(|n| async move {
            let mut metadata = metadata.clone();
            metadata["name"] = json!(format!("fat-{n}"));
            let pod: Pod = serde_json::from_value(json!({
                "metadata": metadata,
                // A node that does not exist: it is never scheduled.
                "spec": {
                    "nodeSelector": {"none": "such"},
                    "containers": [{"name": "app", "image": "app"}],
                },
            }))?;
            let pods: Api<Pod> = Api::namespaced(self.stage.admin.clone(), &self.namespace(n));
            pods.create(&PostParams::default(), &pod).await?;
            anyhow::Ok(())
        });
        made.buffer_unordered(8).try_collect().await
    }

    /// The other tests of this run list the same pods and Secrets.
    async fn remove(&self) -> Result<()> {
        let (now, all) = (
            DeleteParams::default().grace_period(0),
            ListParams::default(),
        );
        let apps = format!("{}-apps", self.stage.release.name);
        let pods: Api<Pod> = Api::namespaced(self.stage.admin.clone(), &apps);
        pods.delete_collection(&now, &all).await?;
        for n in 0..NAMESPACES {
            let (admin, namespace) = (self.stage.admin.clone(), self.namespace(n));
            let pods: Api<Pod> = Api::namespaced(admin.clone(), &namespace);
            pods.delete_collection(&now, &all).await?;
            let secrets: Api<Secret> = Api::namespaced(admin, &namespace);
            for name in [KEYS, POD_SECRET] {
                secrets.delete(name, &now).await?;
            }
        }
        Ok(())
    }
}
