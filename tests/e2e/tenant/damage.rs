//! A tenant forges receipts, and damages its record: neither affects anyone else.

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Secret;
use kube::api::Api;
use serde_json::{Value, json};
use sidescale_core::key_value::KeyValue;
use sidescale_rotation::record::DATA_KEY;

use super::{Others, others};
use crate::support::kubectl::Kubectl;
use crate::support::product::KEYS;
use crate::world::{World, injected_pod};

/// Creates pods whose receipts name what the tenant may not have, and an unreadable record.
pub(super) async fn attack(
    world: &World,
    tenant: &Kubectl,
    evil: &str,
    (closed, before): (&str, &Others),
) -> Result<()> {
    let plane = world.control_plane()?;
    for (name, field, value) in [
        ("plane", "controlPlane", "closed"),
        ("secret", "secret", "headscale-api-key"),
        ("key", "dataKey", "web-authkey"),
        ("service", "service", "../apps/web"),
        ("profile", "profile", "no-such"),
    ] {
        let pod = injected_pod(name, name, (KEYS, format!("{name}-authkey")), |metadata| {
            forge(metadata, field, value);
        })?;
        let pod = serde_json::to_string(&pod)?;
        tenant.feed(&["create", "--namespace", evil, "--filename=-"], &pod)?;
    }
    let damaged = json!({"stringData": {DATA_KEY: "{\"version\":99"}}).to_string();
    let file = "--patch-file=/dev/stdin";
    tenant.feed(
        &["patch", "secret", KEYS, "--namespace", evil, file],
        &damaged,
    )?;

    // Pods that come after both are served, and nothing else has changed.
    world.first_key("late").await?;
    let after = others(world, &plane, evil).await?;
    let kept = before.users.iter().all(|user| after.users.contains(user))
        && before.keys.iter().all(|key| after.keys.contains(key));
    ensure!(kept, "{before:?}\n{after:?}");
    let value = |others: &Others| others.secret.get("web-authkey").cloned();
    ensure!(
        value(before) == value(&after),
        "the bystander's key changed"
    );
    ensure!(
        world
            .secret_named(evil, "headscale-api-key")
            .await
            .is_none(),
        "a receipt chose a Secret"
    );
    let secrets: Api<Secret> =
        Api::namespaced(world.admin.clone(), &format!("{}-headscale", world.name));
    let secret = secrets.get("closed-api-key").await?;
    let key = secret.data.context("no data")?.remove("api-key");
    let key = KeyValue::new(String::from_utf8(key.context("no key")?.0)?);
    let users = world.control_plane_at(closed, key)?.list_users().await?;
    ensure!(
        users.is_empty(),
        "a receipt chose a control plane: {users:?}"
    );
    Ok(())
}

fn forge(metadata: &mut Value, field: &str, value: &str) {
    let annotation = &mut metadata["annotations"]["sidescale.io/status"];
    let receipt = annotation.as_str().unwrap_or_default();
    let mut receipt: Value = serde_json::from_str(receipt).unwrap_or_default();
    receipt[field] = json!(value);
    *annotation = json!(receipt.to_string());
}
