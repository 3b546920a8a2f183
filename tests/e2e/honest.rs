//! Legitimate actions that look like an attack: every service keeps its key, no key of ours outlives its overlap, and no key
//! of a person is expired. A real API server and a real Headscale, under the shipped account.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::{Namespace, Pod, Secret};
use kube::api::{Api, DeleteParams, ObjectMeta, Patch, PatchParams, PostParams};
use serde_json::json;
use sidescale_control_plane::Client;
use sidescale_core::id::KeyId;
use sidescale_webhook::profile::{NamespaceScope, Policy};

use crate::Case;
use crate::support::context::Context;
use crate::support::headscale::{self, Headscale};
use crate::support::levels::Level;
use crate::support::product::{KEYS, label};
use crate::support::soak;
use crate::world::{World, start_headscale, until};

mod by_hand;
mod database;
mod keys;
mod pods;

pub(crate) const CASES: &[Case] = &[Case {
    name: "honest::what_people_do_costs_nobody_a_key",
    needs: &[Level::Api, Level::Headscale],
    each: true,
    run,
}];

fn run(context: &Context, program: Option<&headscale::Program>) -> Result<()> {
    let program = program.context("runs for a Headscale")?;
    let api = context.api()?;
    let name = label("honest", program);
    let mut headscale = start_headscale(context, program, &name)?;
    let world = World::install(context, &api, &headscale, &name, &["apps"], &[])?;
    world
        .runtime
        .block_on(async { People::of(&world)?.act(&mut headscale).await })
}

/// An overlap short enough for a test.
const OVERLAP: Duration = Duration::from_secs(1);

struct People<'a> {
    world: &'a World,
    plane: Client,
    apps: String,
}

/// Name of this installation for a while.
const ANOTHER: &str = "another name";

/// A tag that pods may ask for.
const TAG: &str = "tag:honest";

fn usual(policy: &mut Policy) {
    policy.rotation.overlap = OVERLAP;
    if let Some(profile) = policy.profiles.get_mut("default") {
        profile.allowed_tags = vec![TAG.to_owned()];
    }
    policy.former_installations = vec![ANOTHER.to_owned()];
}

/// As after a change of the template.
fn named_otherwise(policy: &mut Policy) {
    usual(policy);
    if let Some(plane) = policy.control_planes.get_mut("default") {
        plane.user_template = "x.{namespace}.{service}".to_owned();
    }
}

impl<'a> People<'a> {
    fn of(world: &'a World) -> Result<Self> {
        Ok(Self {
            plane: world.control_plane()?,
            apps: format!("{}-apps", world.name),
            world,
        })
    }

    async fn act(self, headscale: &mut Headscale) -> Result<()> {
        let running = self.world.start(usual).await?;
        self.world.first_key("web").await?;
        let first = self.at_rest("web", None).await?;
        running.stop().await?;

        let running = self.world.start(named_otherwise).await?;
        let renamed = self.at_rest("web", Some(first)).await?;
        let user = format!("x.{}.web", self.apps);
        ensure!(self.user(&user).await?.is_some(), "no user {user}");
        running.stop().await?;

        // An administrator renames the user: the key stays unchanged.
        let id = self.user(&user).await?.context("no user")?.id.0.to_string();
        headscale.cli(&["users", "rename", "--identifier", &id, "--new-name", "kept"])?;
        let running = self.world.start(named_otherwise).await?;
        self.rotated("db").await?;
        ensure!(self.at_rest("web", None).await? == renamed, "another name");
        running.stop().await?;

        self.release_renamed(renamed).await?;
        self.secret_restored().await?;
        self.namespace_made_again().await?;
        self.adopted(headscale).await?;
        self.tagged().await.context("a key with tags")?;
        self.labels_taken_off().await.context("labels")?;
        self.put_by_hand(headscale).await.context("a key by hand")?;
        let pods = soak::number(24, 500);
        self.job(pods).await.context("a Job")?;
        let restored = self.database_restored(headscale).await;
        restored.context("a database restored")?;
        self.closed().await.context("closed")?;
        let lost = self.database_lost(headscale, pods).await;
        lost.context("a database lost")
    }

    /// The release has another name, and lists the previous one.
    async fn release_renamed(&self, before: KeyId) -> Result<()> {
        let namespaces: Api<Namespace> = Api::all(self.world.admin.clone());
        let system = namespaces.get("kube-system").await?;
        let uid = system.metadata.uid.context("no uid")?;
        let former = format!("{uid} {}", self.world.name);
        let running = self
            .world
            .start(|policy| {
                named_otherwise(policy);
                policy.installation = Some(ANOTHER.to_owned());
                policy.former_installations = vec![former];
            })
            .await?;
        self.rotated("db").await?;
        ensure!(self.at_rest("web", None).await? == before, "a former name");
        let after = self.rotated("web").await?;
        ensure!(after != before, "it was asked for");
        running.stop().await
    }

    /// A Secret from before the last rotation is restored.
    async fn secret_restored(&self) -> Result<()> {
        let running = self.world.start(usual).await?;
        self.rotated("web").await?;
        let old = self.world.secret(&self.apps).await.context("no Secret")?;
        let replaced = self.rotated("web").await?;
        let secrets: Api<Secret> = Api::namespaced(self.world.admin.clone(), &self.apps);
        let patch = json!({"data": old.data});
        secrets
            .patch(KEYS, &PatchParams::default(), &Patch::Merge(patch))
            .await?;
        let now = until("a key that works", async || {
            let id = self.current("web").await?;
            (id != replaced && self.is_live(id).await?).then_some(id)
        })
        .await?;
        ensure!(self.is_live(now).await == Some(true), "it works");
        running.stop().await
    }

    /// The namespace is deleted and created again while rotation is down, with its Secret from a backup: the key still works.
    async fn namespace_made_again(&self) -> Result<()> {
        let namespaces: Api<Namespace> = Api::all(self.world.admin.clone());
        let before = self.current("web").await.context("no key")?;
        let backup = self.world.secret(&self.apps).await.context("no Secret")?;
        namespaces
            .delete(&self.apps, &DeleteParams::default())
            .await?;
        let again = Namespace {
            metadata: ObjectMeta {
                name: Some(self.apps.clone()),
                ..ObjectMeta::default()
            },
            ..Namespace::default()
        };
        until("the namespace is there again", async || {
            namespaces.create(&PostParams::default(), &again).await.ok()
        })
        .await?;
        let secrets: Api<Secret> = Api::namespaced(self.world.admin.clone(), &self.apps);
        let restored = Secret {
            metadata: ObjectMeta {
                name: Some(KEYS.to_owned()),
                labels: backup.metadata.labels,
                ..ObjectMeta::default()
            },
            ..backup
        };
        secrets.create(&PostParams::default(), &restored).await?;
        until("the pod is there again", async || {
            self.world.make_pod(&self.apps, "web").await.ok()
        })
        .await?;
        let running = self.world.start(usual).await?;
        self.rotated("again").await?;
        ensure!(
            self.current("web").await == Some(before),
            "the control plane confirms it"
        );
        running.stop().await
    }

    /// The control plane is closed to the namespace after it created a key: that still expires when no pod needs it.
    async fn closed(&self) -> Result<()> {
        let pods: Api<Pod> = Api::namespaced(self.world.admin.clone(), &self.apps);
        let now = DeleteParams::default().grace_period(0);
        pods.delete("web", &now).await?;
        let closed = |policy: &mut Policy| {
            usual(policy);
            policy.rotation.unused_keys_after = Duration::from_secs(1);
            // A key missing in the restored Secret's record is an orphan, and a test cannot wait ten minutes.
            policy.rotation.orphaned_keys_after = Duration::ZERO;
            if let Some(plane) = policy.control_planes.get_mut("default") {
                plane.namespaces = Some(NamespaceScope::Names(vec!["nobody".to_owned()]));
            }
        };
        let running = self.world.start(closed).await?;
        until("it is noted that nobody needs it", async || {
            let record = self.world.record(&self.apps).await?;
            record.keys.get("web-authkey")?.unused_since.map(drop)
        })
        .await?;
        running.stop().await?;
        // The next sweep is in 15 minutes, or at the next start.
        let running = self.world.start(closed).await?;
        until("its keys are expired", async || {
            self.live("web").await.ok()?.is_empty().then_some(())
        })
        .await?;
        running.stop().await
    }
}
