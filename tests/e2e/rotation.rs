//! Rotation on a real API server and a real Headscale, under the shipped account: keys are created, and leftovers deleted.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, Namespace};
use kube::api::{Api, DeleteParams, ListParams};
use serde_json::json;
use sidescale_core::objects::{NewPreAuthKey, PreAuthKey};
use sidescale_webhook::profile::Policy;

use crate::Case;
use crate::support::context::Context;
use crate::support::headscale;
use crate::support::levels::Level;
use crate::support::product::{KEYS, label};
use crate::world::{World, start_headscale, until};

pub(crate) const CASES: &[Case] = &[Case {
    name: "rotation::new_services_get_keys_and_a_foreign_secret_stays",
    needs: &[Level::Api, Level::Headscale],
    each: true,
    run: makes_keys,
}];

const SERVICES: usize = 10;

fn makes_keys(context: &Context, program: Option<&headscale::Program>) -> Result<()> {
    let program = program.context("runs for a Headscale")?;
    let api = context.api()?;
    let name = label("soon", program);
    let headscale = start_headscale(context, program, &name)?;
    let world = World::install(context, &api, &headscale, &name, &["apps", "foreign"], &[])?;
    api.kubectl().apply(&json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": KEYS, "namespace": format!("{name}-foreign")},
        "stringData": {"password": "not ours"},
    }))?;
    world.runtime.block_on(world.measure(&program.version))
}

impl World {
    async fn measure(&self, version: &str) -> Result<()> {
        let running = self.start(|_| {}).await?;
        let mut times = Vec::new();
        for n in 0..SERVICES {
            times.push(self.first_key(&format!("s{n}")).await?);
        }
        let bare = self.bare().await?;
        // A time is only meaningful beside another of the same run: it is printed, and not checked.
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

    /// Deletes the namespace of all those services while rotation is down: the next start expires their keys, and no others.
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
        // A test cannot wait ten minutes; no key is being created here.
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

    /// A lost key is identified by the sub-second part of its expiry, so the server has to store that.
    async fn fingerprints_are_kept(&self) -> Result<()> {
        let listed = self.control_plane()?.list_pre_auth_keys().await?;
        let listed: BTreeMap<_, PreAuthKey> = listed.into_iter().map(|key| (key.id, key)).collect();
        let namespace = format!("{}-apps", self.name);
        let record = self.record(&namespace).await.context("no record")?;
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
