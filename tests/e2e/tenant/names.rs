//! A tenant asks for the hostname of another namespace's node: real nodes, logged in by tailscaled's client.

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::events::v1::Event;
use kube::api::{Api, ListParams};
use sidescale_control_plane::Client;
use sidescale_core::id::{KeyId, NodeId, UserId};

use crate::support::processes::{Place, output};
use crate::support::programs::Programs;
use crate::world::{World, until};

/// Properties of a node that a tenant must not change.
#[derive(Debug, PartialEq)]
pub(super) struct Node {
    id: NodeId,
    name: String,
    given_name: String,
    user: Option<UserId>,
    tags: Vec<String>,
    key: Option<KeyId>,
}

/// Returns the nodes that belong to none of these users.
pub(super) async fn nodes(plane: &Client, users: &[UserId]) -> Result<Vec<Node>> {
    let nodes = plane.list_nodes().await?.into_iter();
    let others = nodes.filter(|node| node.user.is_none_or(|user| !users.contains(&user)));
    let mut others: Vec<_> = others
        .map(|node| Node {
            id: node.id,
            name: node.name,
            given_name: node.given_name,
            user: node.user,
            tags: node.tags,
            key: node.pre_auth_key,
        })
        .collect();
    others.sort_by_key(|node| node.id);
    Ok(others)
}

/// Logs a node in with that key.
pub(super) fn join(world: &World, hostname: &str, key: &str) -> Result<()> {
    let joiner = Programs::prepare()?.tailscale("joiner");
    let mut command = Place::Host.command(&joiner);
    command.env("TS_AUTHKEY", key).args([
        format!("--login-server={}", world.url),
        format!("--hostname={hostname}"),
    ]);
    output(&mut command).map(drop)
}

/// Logs a node in with the key of service `web` in that namespace.
pub(super) async fn join_as(world: &World, suffix: &str, hostname: &str) -> Result<()> {
    let secret = world.secret(&format!("{}-{suffix}", world.name)).await;
    let data = secret.and_then(|secret| secret.data).context("no Secret")?;
    let value = data.get("web-authkey").context("no key")?;
    join(world, hostname, std::str::from_utf8(&value.0)?)
}

/// The tenant's node asks for the bystander's hostname: it gets another, and both namespaces have an Event.
pub(super) async fn attack(world: &World, plane: &Client) -> Result<()> {
    join_as(world, "evil", "web").await?;
    for (suffix, reason) in [("evil", "HostnameTaken"), ("apps", "HostnameWanted")] {
        let events: Api<Event> =
            Api::namespaced(world.admin.clone(), &format!("{}-{suffix}", world.name));
        until(reason, async || {
            let events = events.list(&ListParams::default()).await.ok()?;
            let mut events = events.items.into_iter();
            events
                .find(|event| event.reason.as_deref() == Some(reason))
                .map(drop)
        })
        .await?;
    }
    let nodes = plane.list_nodes().await?;
    let named = nodes.iter().filter(|node| node.given_name == "web");
    ensure!(
        nodes.len() == 3 && named.count() == 1,
        "whose name is \"web\": {nodes:?}"
    );
    Ok(())
}
