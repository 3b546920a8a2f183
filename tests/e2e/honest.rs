//! What honest people do that looks like an attack: everything keeps its key, nothing of ours outlives its overlap, and no key of
//! a person is expired. A real API server and a real Headscale, under the shipped account.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, Pod, Secret};
use kube::api::{Api, DeleteParams, ObjectMeta, Patch, PatchParams, PostParams};
use serde_json::json;
use sidescale::control_plane::{ControlPlane, KeyId, PreAuthKey, User};
use sidescale::rotation::request::ANNOTATION;
use sidescale_webhook::profile::{Namespaces, Policy};

use crate::Case;
use crate::support::context::Context;
use crate::support::headscale::{self, Headscale};
use crate::support::levels::Level;
use crate::support::product::{KEYS, label};
use crate::world::{World, start_headscale, until};

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
    let headscale = start_headscale(context, program, &name)?;
    let world = World::install(context, &api, &headscale, &name, &["apps"], &[])?;
    world.runtime.block_on(async {
        let people = People {
            plane: world.control_plane()?,
            apps: format!("{name}-apps"),
            world: &world,
        };
        people.act(&headscale).await
    })
}

/// An overlap that a test can wait for.
const OVERLAP: Duration = Duration::from_secs(1);

struct People<'a> {
    world: &'a World,
    plane: ControlPlane,
    apps: String,
}

/// Name of this installation for a while.
const ANOTHER: &str = "another name";

fn usual(policy: &mut Policy) {
    policy.rotation.overlap = OVERLAP;
    policy.former_installations = vec![ANOTHER.to_owned()];
}

/// As after a change of the template.
fn named_otherwise(policy: &mut Policy) {
    usual(policy);
    if let Some(plane) = policy.control_planes.get_mut("default") {
        plane.user_template = "x.{namespace}.{service}".to_owned();
    }
}

impl People<'_> {
    async fn act(&self, headscale: &Headscale) -> Result<()> {
        let running = self.world.start(usual).await?;
        self.world.first_key("web").await?;
        let first = self.at_rest("web", None).await?;
        running.stop().await?;

        let running = self.world.start(named_otherwise).await?;
        let renamed = self.at_rest("web", Some(first)).await?;
        let user = format!("x.{}.web", self.apps);
        ensure!(self.user(&user).await?.is_some(), "no user {user}");
        running.stop().await?;

        // An administrator gives the user another name: the key stays what it is.
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
        self.closed().await
    }

    /// The release has another name, and lists the one before.
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

    /// A Secret of before the last rotation is put back.
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

    /// The namespace is deleted while nobody looks and made again, with its Secret out of a backup: the key still works.
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

    /// A user that a person made, with the person's own key, is adopted: ours come and go, hers stays.
    async fn adopted(&self, headscale: &Headscale) -> Result<()> {
        let name = format!("{}.lent", self.apps);
        let user = headscale.create_user(&name)?;
        headscale.create_key(&user)?;
        let hers = self.live_of(&name).await?;
        ensure!(hers.len() == 1, "{hers:?}");
        let running = self
            .world
            .start(|policy| {
                usual(policy);
                if let Some(plane) = policy.control_planes.get_mut("default") {
                    plane.adopt_users = vec![name.clone()];
                }
            })
            .await?;
        self.rotated("lent").await?;
        let after = self.rotated("lent").await?;
        until("ours alone come and go", async || {
            let live = self.live_of(&name).await.ok()?;
            let [one, other] = live[..] else { return None };
            let ours = live.contains(&after);
            (ours && live.contains(&hers[0]) && one != other).then_some(())
        })
        .await?;
        running.stop().await
    }

    /// The control plane is closed to the namespace after it gave a key: that ends all the same once nobody needs it.
    async fn closed(&self) -> Result<()> {
        let pods: Api<Pod> = Api::namespaced(self.world.admin.clone(), &self.apps);
        let now = DeleteParams::default().grace_period(0);
        pods.delete("web", &now).await?;
        let closed = |policy: &mut Policy| {
            usual(policy);
            policy.rotation.unused_keys_after = Duration::from_secs(1);
            // What the restored Secret does not know is an orphan, and ten minutes is what a test has not.
            policy.rotation.orphaned_keys_after = Duration::ZERO;
            if let Some(plane) = policy.control_planes.get_mut("default") {
                plane.namespaces = Some(Namespaces::Names(vec!["nobody".to_owned()]));
            }
        };
        let running = self.world.start(closed).await?;
        until("it is noted that nobody needs it", async || {
            let record = self.world.record(&self.apps).await?;
            record.keys.get("web-authkey")?.unused_since.map(drop)
        })
        .await?;
        running.stop().await?;
        // The next look at everything is an hour off, or at the next start.
        let running = self.world.start(closed).await?;
        until("its keys are expired", async || {
            self.live("web").await.ok()?.is_empty().then_some(())
        })
        .await?;
        running.stop().await
    }

    /// Asks for another key, after a first one where there is none, and waits until it is the only one alive.
    async fn rotated(&self, service: &str) -> Result<KeyId> {
        let Some(before) = self.current(service).await else {
            self.world.make_pod(&self.apps, service).await?;
            return until("a first key", async || self.current(service).await).await;
        };
        let secrets: Api<Secret> = Api::namespaced(self.world.admin.clone(), &self.apps);
        let request = json!({format!("{service}-authkey"): {"replaces": before.0}});
        let patch = json!({"metadata": {"annotations": {ANNOTATION: request.to_string()}}});
        secrets
            .patch(KEYS, &PatchParams::default(), &Patch::Merge(patch))
            .await?;
        let after = until("another key", async || {
            self.current(service).await.filter(|id| *id != before)
        })
        .await?;
        if service != "lent" {
            self.at_rest(service, Some(before)).await?;
        }
        Ok(after)
    }

    /// Waits until the service has one living key, and that is the one in force; another than `not`.
    async fn at_rest(&self, service: &str, not: Option<KeyId>) -> Result<KeyId> {
        let found = until("one key is alive, the one in force", async || {
            let current = self.current(service).await?;
            let live = self.live(service).await.ok()?;
            (live == [current] && Some(current) != not).then_some(current)
        });
        let found = found.await;
        match found {
            Ok(current) => Ok(current),
            Err(error) => {
                let (current, live) = (self.current(service).await, self.live(service).await);
                Err(error.context(format!(
                    "{service}: {live:?} live, {current:?} in force, not {not:?}"
                )))
            }
        }
    }

    async fn current(&self, service: &str) -> Option<KeyId> {
        let record = self.world.record(&self.apps).await?;
        let key = record.keys.get(&format!("{service}-authkey"))?;
        Some(key.current.as_ref()?.id)
    }

    /// The living keys of all users that were created for the service.
    async fn live(&self, service: &str) -> Result<Vec<KeyId>> {
        let owner = format!(" {}/{service}", self.apps);
        self.live_where(|user| user.display_name.ends_with(&owner))
            .await
    }

    async fn live_of(&self, name: &str) -> Result<Vec<KeyId>> {
        self.live_where(|user| user.name == name).await
    }

    async fn live_where(&self, is: impl Fn(&User) -> bool) -> Result<Vec<KeyId>> {
        let users = self.plane.list_users().await?;
        let users: Vec<_> = users
            .iter()
            .filter(|user| is(user))
            .map(|user| user.id)
            .collect();
        let now = Timestamp::now();
        let live = |key: &PreAuthKey| {
            key.expiration.is_some_and(|end| now < end)
                && key.user.is_some_and(|user| users.contains(&user))
        };
        let keys = self.plane.list_pre_auth_keys().await?.into_iter();
        Ok(keys.filter(live).map(|key| key.id).collect())
    }

    async fn is_live(&self, id: KeyId) -> Option<bool> {
        let keys = self.plane.list_pre_auth_keys().await.ok()?;
        let now = Timestamp::now();
        let key = keys.iter().find(|key| key.id == id);
        Some(key.is_some_and(|key| key.expiration.is_some_and(|end| now < end)))
    }

    async fn user(&self, name: &str) -> Result<Option<User>> {
        let users = self.plane.list_users().await?;
        Ok(users.into_iter().find(|user| user.name == name))
    }
}
