//! Pods with tags, with per-pod keys, and without the label that opted them in.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};
use sidescale_webhook::identity::{POD_SECRET, pod_data_key};

use super::{People, TAG, usual};
use crate::support::product::KEYS;
use crate::world::{until, until_within};

const OPT_IN: &str = "sidescale.io/inject";
/// For five hundred keys, as many as in a soak: each takes Headscale a tenth of a second or more.
const LIMIT: Duration = Duration::from_secs(300);

/// Removes the annotation that opts a pod in.
fn without_annotation(metadata: &mut Value) {
    if let Some(annotations) = metadata["annotations"].as_object_mut() {
        annotations.remove(OPT_IN);
    }
}

impl People<'_> {
    /// A service with tags: its key has them, is renewed with them, and the old one expires.
    pub(super) async fn tagged(&self) -> Result<()> {
        let running = self.world.start(usual).await?;
        let key = (KEYS, "tagged-authkey".to_owned());
        let tag = |metadata: &mut Value| metadata["annotations"]["sidescale.io/tags"] = json!(TAG);
        let made = self
            .world
            .make_pod_with(&self.apps, "tagged", "tagged", key, tag);
        made.await?;
        let first = self.at_rest("tagged", None).await?;
        let after = self.rotated("tagged").await?;
        let rows = self.plane.list_pre_auth_keys().await?;
        let tags = |id| {
            rows.iter()
                .find(|row| row.id == id)
                .map(|row| &row.tags[..])
        };
        for id in [first, after] {
            ensure!(tags(id) == Some(&[TAG.to_owned()]), "{:?}", tags(id));
        }
        running.stop().await
    }

    /// The labels of a namespace and of a pod are removed while pods run: their keys stay, and the namespace's are renewed.
    pub(super) async fn labels_taken_off(&self) -> Result<()> {
        let namespaces: Api<Namespace> = Api::all(self.world.admin.clone());
        let pods: Api<Pod> = Api::namespaced(self.world.admin.clone(), &self.apps);
        let label = |key: &str, value: Option<&str>| {
            Patch::Merge(json!({"metadata": {"labels": {key: value}}}))
        };
        let now = PatchParams::default();
        let opted_in = label(OPT_IN, Some("tailscale"));
        namespaces.patch(&self.apps, &now, &opted_in).await?;
        let running = self.world.start(usual).await?;
        let key = (KEYS, "opted-authkey".to_owned());
        let made = self
            .world
            .make_pod_with(&self.apps, "opted", "opted", key, without_annotation);
        made.await?;
        let first = self.at_rest("opted", None).await?;
        namespaces
            .patch(&self.apps, &now, &label(OPT_IN, None))
            .await?;
        let after = self.rotated("opted").await?;
        ensure!(after != first, "it is renewed");

        let sidecar = "sidescale.io/sidecar";
        let unused = async || {
            let record = self.world.record(&self.apps).await?;
            Some(record.keys.get("opted-authkey")?.unused_since.is_some())
        };
        pods.patch("opted", &now, &label(sidecar, None)).await?;
        until("no pod seems to need it", async || {
            unused().await?.then_some(())
        })
        .await?;
        let live = self.is_live(after).await;
        ensure!(live == Some(true), "a pod has it still: {live:?}");
        let there = label(sidecar, Some("tailscale"));
        pods.patch("opted", &now, &there).await?;
        until("a pod needs it again", async || {
            (!unused().await?).then_some(())
        })
        .await?;
        ensure!(
            self.at_rest("opted", None).await? == after,
            "the same, all the time"
        );
        running.stop().await
    }

    /// The given number of pods of one Job start at once, and each needs a single-use key.
    pub(super) async fn job(&self, pods: usize) -> Result<()> {
        let running = self.world.start(usual).await?;
        let data_key = |n: usize| pod_data_key("job", &format!("{n:012x}"), "default");
        let own = |metadata: &mut Value| {
            metadata["annotations"]["sidescale.io/key-mode"] = json!("per-pod");
        };
        futures::stream::iter(0..pods)
            .map(|n| {
                let (name, key) = (format!("job-{n}"), (POD_SECRET, data_key(n)));
                async move {
                    let made = self.world.make_pod_with(&self.apps, &name, "job", key, own);
                    made.await
                }
            })
            .buffer_unordered(16)
            .try_collect::<Vec<_>>()
            .await?;
        until_within(LIMIT, "a key for each pod", async || {
            let secret = self.world.secret_named(&self.apps, POD_SECRET).await?;
            let data = secret.data?;
            let values = (0..pods).filter_map(|n| data.get(&data_key(n)));
            let values = values.filter(|value| !value.0.is_empty());
            (BTreeSet::from_iter(values.map(|value| &value.0)).len() == pods).then_some(())
        })
        .await?;
        self.job_at_rest(pods).await?;
        running.stop().await
    }

    /// Waits until that many pods of the Job have a live key each, and no other key of it is alive.
    pub(super) async fn job_at_rest(&self, pods: usize) -> Result<()> {
        until_within(LIMIT, "one key is alive for each pod", async || {
            let record = self.world.record_in(&self.apps, POD_SECRET).await?;
            let in_force = record.keys.values();
            let in_force = in_force.filter_map(|key| Some(key.current.as_ref()?.id));
            let live = BTreeSet::from_iter(self.live("job").await.ok()?);
            (live.len() == pods && live == in_force.collect()).then_some(())
        })
        .await
    }
}
