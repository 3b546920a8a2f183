//! A tenant with excessive demands: the keys of others stay unchanged, their Events are published, and their new services
//! wait no longer.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::events::v1::Event;
use kube::api::{Api, ListParams, Patch, PatchParams};
use serde_json::{Value, json};
use sidescale_control_plane::Client;
use sidescale_core::objects::PreAuthKey;
use sidescale_rotation::record::DATA_KEY;
use sidescale_rotation::request::ANNOTATION;

use super::{Others, forge, others, tenant};
use crate::support::context::Context;
use crate::support::headscale;
use crate::support::kubectl::Kubectl;
use crate::support::product::{KEYS, label};
use crate::world::{World, client, start_headscale, until};

/// Old keys that the tenant's record names: a quarter of a megabyte.
const PREVIOUS: u64 = 4_000;
/// Pods that each cause an Event, more than one namespace may have.
const LOUD: usize = 100;
/// Services that ask for keys with short lifetimes.
const SHORT: usize = 20;
/// New services of another namespace that are timed, before and during.
const SERVICES: usize = 5;

pub(super) fn run(context: &Context, program: Option<&headscale::Program>) -> Result<()> {
    let program = program.context("runs for a Headscale")?;
    let api = context.api()?;
    let name = label("greed", program);
    let headscale = start_headscale(context, program, &name)?;
    let world = World::install(context, &api, &headscale, &name, &["apps", "evil"], &[])?;
    let tenant = tenant(api.kubectl(), &format!("{name}-evil"))?;
    world.runtime.block_on(attacked(&world, &tenant))
}

async fn attacked(world: &World, tenant: &Kubectl) -> Result<()> {
    let evil = format!("{}-evil", world.name);
    let plane = world.control_plane()?;
    plane.create_user("alice", "Alice").await?;
    let running = world.start(|_| {}).await?;
    let quiet = median(world, "quiet").await?;
    world.make_pod(&evil, "web").await?;
    until("the tenant's own key", async || {
        let record = world.record(&evil).await?;
        // The entry is written before the key is created.
        record.keys.get("web-authkey")?.current.as_ref().map(drop)
    })
    .await?;
    let before = others(world, &plane, &evil).await?;

    long_record(tenant, &evil)?;
    loud_pods(world, &evil).await?;
    short_lives(world, &evil).await?;
    let beside = tokio::select! {
        median = median(world, "beside") => median?,
        edited = edits(tenant, &evil) => return edited.context("edits end by themselves"),
    };
    println!(
        "\ne2e: first keys of another namespace, median of {SERVICES}: {quiet:.1?}, and {beside:.1?} beside the tenant"
    );
    ensure!(
        beside < quiet * 5 + Duration::from_secs(2),
        "{quiet:?} and {beside:?}"
    );
    is_heard(world).await?;
    lives_are_bounded(world, &plane, &evil).await?;
    unchanged(&before, &others(world, &plane, &evil).await?)?;
    running.stop().await
}

/// Returns how long new services of the other namespace wait for their first key.
async fn median(world: &World, name: &str) -> Result<Duration> {
    let mut times = Vec::new();
    for n in 0..SERVICES {
        times.push(world.first_key(&format!("{name}{n}")).await?);
    }
    times.sort();
    Ok(times[SERVICES / 2])
}

/// Writes thousands of old keys, each of which has to be judged.
fn long_record(tenant: &Kubectl, evil: &str) -> Result<()> {
    let past = "2020-01-01T00:00:00Z";
    let previous = (0..PREVIOUS).map(|n| json!({"id": n + 1_000, "expireAt": past}));
    let previous: Vec<Value> = previous.collect();
    forge(
        tenant,
        evil,
        &[("web-authkey", json!({"previous": previous}))],
    )
}

/// Writes its Secret repeatedly.
async fn edits(tenant: &Kubectl, evil: &str) -> Result<()> {
    let secrets: Api<Secret> = Api::namespaced(client(tenant).await?, evil);
    for n in 0.. {
        let patch = json!({"metadata": {"annotations": {"edit": n.to_string()}}});
        let edited = secrets
            .patch(KEYS, &PatchParams::default(), &Patch::Merge(patch))
            .await;
        // Rotation may write at the same time.
        drop(edited);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}

/// Creates pods that each refer to a missing Secret.
async fn loud_pods(world: &World, evil: &str) -> Result<()> {
    for n in 0..LOUD {
        let name = format!("loud-{n}");
        let key = (&*format!("no-{n}"), "such".to_owned());
        let own = |metadata: &mut Value| {
            let receipt = metadata["annotations"]["sidescale.io/status"].take();
            let receipt = receipt.as_str().unwrap_or_default();
            let mut receipt: Value = serde_json::from_str(receipt).unwrap_or_default();
            receipt["ownKey"] = json!(true);
            let annotations = &mut metadata["annotations"];
            annotations["sidescale.io/status"] = json!(receipt.to_string());
            annotations["sidescale.io/auth-key-secret"] = json!(format!("no-{n}/such"));
        };
        world.make_pod_with(evil, &name, &name, key, own).await?;
    }
    Ok(())
}

/// Creates services that each ask for a key of a minute, or for the shortest allowed lifetime.
async fn short_lives(world: &World, evil: &str) -> Result<()> {
    for n in 0..SHORT {
        let name = format!("short-{n}");
        let key = (KEYS, format!("{name}-authkey"));
        let short = |metadata: &mut Value| {
            let annotations = &mut metadata["annotations"];
            let (life, buffer) = if n % 2 == 0 {
                ("1m", "59s")
            } else {
                ("1h", "40m")
            };
            annotations["sidescale.io/auth-key-expiration"] = json!(life);
            annotations["sidescale.io/auth-key-rotation-buffer"] = json!(buffer);
        };
        world.make_pod_with(evil, &name, &name, key, short).await?;
    }
    Ok(())
}

/// Checks that a rotation in the other namespace has its Event there, despite the tenant's many.
async fn is_heard(world: &World) -> Result<()> {
    let apps = format!("{}-apps", world.name);
    let record = world.record(&apps).await.context("no record")?;
    let key = record.keys.get("quiet0-authkey");
    let current = key.and_then(|key| key.current.as_ref()).context("no key")?;
    let secrets: Api<Secret> = Api::namespaced(world.admin.clone(), &apps);
    let request = json!({"quiet0-authkey": {"replaces": current.id.0}}).to_string();
    let patch = json!({"metadata": {"annotations": {ANNOTATION: request}}});
    secrets
        .patch(KEYS, &PatchParams::default(), &Patch::Merge(patch))
        .await?;
    let events: Api<Event> = Api::namespaced(world.admin.clone(), &apps);
    until("the Event of another namespace", async || {
        let events = events.list(&ListParams::default()).await.ok()?;
        let mut events = events.items.into_iter();
        let told = events.find(|event| event.reason.as_deref() == Some("KeyRotated"));
        told.map(drop)
    })
    .await
}

/// Checks that no key of the tenant lives for less than an hour, and that no service had more created than allowed.
async fn lives_are_bounded(world: &World, plane: &Client, evil: &str) -> Result<()> {
    let users = plane.list_users().await?;
    let his = users.iter();
    let his = his.filter(|user| user.name.starts_with(&format!("{evil}.")));
    let his: Vec<_> = his.map(|user| user.id).collect();
    let rows = plane.list_pre_auth_keys().await?;
    let now = Timestamp::now();
    let short = |row: &&PreAuthKey| {
        let created = row.created_at.unwrap_or(now);
        let life = row.expiration.map(|end| end.duration_since(created));
        row.user.is_some_and(|user| his.contains(&user))
            && life.is_none_or(|life| life.as_secs() < 3_500)
    };
    let short: Vec<_> = rows.iter().filter(short).collect();
    ensure!(short.is_empty(), "{short:?}");
    ensure!(rows.len() < 100, "{} rows of {}", rows.len(), world.name);
    Ok(())
}

/// Checks that everything of others is as before; only their own new services were added.
fn unchanged(before: &Others, after: &Others) -> Result<()> {
    for user in &before.users {
        ensure!(after.users.contains(user), "{user:?}");
    }
    for key in &before.keys {
        ensure!(after.keys.contains(key), "{key:?}");
    }
    let values = before.secret.iter();
    // One of them was rotated on purpose.
    for (data_key, value) in values.filter(|(key, _)| *key != DATA_KEY && *key != "quiet0-authkey")
    {
        ensure!(after.secret.get(data_key) == Some(value), "{data_key}");
    }
    Ok(())
}
