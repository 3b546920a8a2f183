//! Pods with 256 KiB of annotations and Secrets of a megabyte, read by a process that begins to lead.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use serde_json::json;
use sidescale_webhook::identity::POD_SECRET;

use super::{MIB, Stage, check};
use crate::serve::Replica;
use crate::support::api::ControlPlane;
use crate::support::context::Context;
use crate::support::product::KEYS;
use crate::support::{headscale, soak, wait};
use crate::world::injected_pod;

const NAMESPACES: usize = 10;

/// What its annotations may take together.
const ANNOTATIONS: usize = 255 << 10;

/// Is what a Secret may take.
const SECRET: usize = (1 << 20) - 1024;

/// The two peaks differ by less.
const DIFFERENCE: u64 = 10 * MIB;

/// Is the most at the peak.
const MOST: u64 = 128 * MIB;

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
        stage.runtime.block_on(async {
            tenant.make_bystander(&format!("{name}-apps")).await?;
            tenant.make_secrets().await?;
            tenant.make_pods(0..30).await
        })?;
        let few = peak(context, &api, &stage)?;
        stage.runtime.block_on(tenant.make_pods(30..many))?;
        let more = peak(context, &api, &stage)?;
        println!(
            "\ne2e: peak of a new leader: {} MiB beside 30 fat pods, {} MiB beside {many}",
            few / MIB,
            more / MIB
        );
        ensure!(more.abs_diff(few) < DIFFERENCE, "{few} and {more} bytes");
        ensure!(few.max(more) < MOST, "{few} and {more} bytes");
        check(more)
    })();
    stage.runtime.block_on(tenant.remove())?;
    outcome
}

/// Starts a process, waits until it has seen the pod that needs a key and takes no more memory, and gives its peak.
fn peak(context: &Context, api: &ControlPlane, stage: &Stage) -> Result<u64> {
    let folder = context.folder.inner(&stage.release.name)?;
    let mut replica = Replica::start(api, &stage.release, &folder)?;
    let limit = Duration::from_secs(60);
    wait::until("the new leader has seen all pods", limit, || {
        let keys = replica.metric("sidescale_keys", &[])?;
        ensure!(keys >= 1.0, "{keys} keys");
        Ok(())
    })?;
    let (mut peak, mut since) = (replica.peak()?, Instant::now());
    wait::until("its memory grows no more", limit, || {
        let now = replica.peak()?;
        if now > peak {
            (peak, since) = (now, Instant::now());
        }
        ensure!(since.elapsed() > Duration::from_secs(2), "{now} bytes");
        Ok(())
    })?;
    replica.stop()?;
    Ok(peak)
}

struct Tenant<'a> {
    stage: &'a Stage,
}

impl Tenant<'_> {
    fn namespace(&self, n: usize) -> String {
        format!("{}-fat-{}", self.stage.release.name, n % NAMESPACES)
    }

    /// A pod that needs a key: that it does shows that all pods were seen.
    async fn make_bystander(&self, namespace: &str) -> Result<()> {
        let key = (KEYS, "web-authkey".to_owned());
        let pod = injected_pod("web", "web", key, |_| {})?;
        let pods: Api<Pod> = Api::namespaced(self.stage.admin.clone(), namespace);
        pods.create(&PostParams::default(), &pod).await?;
        Ok(())
    }

    /// Two in each namespace, under names that keys are kept under, with our label.
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

    async fn make_pods(&self, numbers: std::ops::Range<usize>) -> Result<()> {
        let made = futures::stream::iter(numbers).map(|n| async move {
            let pod: Pod = serde_json::from_value(json!({
                "metadata": {
                    "name": format!("fat-{n}"),
                    "labels": {"sidescale.io/sidecar": "tailscale"},
                    "annotations": {
                        "sidescale.io/inject": "tailscale",
                        "fat": "x".repeat(ANNOTATIONS),
                    },
                },
                // A node that is not there: it is never scheduled.
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
