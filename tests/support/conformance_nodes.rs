//! Nodes: listed, renamed, deleted.

use anyhow::{Context as _, Result, ensure};
use jiff::{SignedDuration, Timestamp};
use reqwest::{Method, StatusCode};
use serde_json::json;
use sidescale_control_plane::Error;
use sidescale_core::id::NodeId;
use sidescale_core::objects::{NewPreAuthKey, Node, User};

use super::{BY_HAND, Case, Only, Server, case, new_key, over_tcp};

pub(super) fn cases() -> Vec<Case> {
    vec![
        over_tcp("nodes_are_listed", |server| {
            Box::pin(nodes_are_listed(server))
        }),
        over_tcp("a_node_is_renamed", |server| {
            Box::pin(a_node_is_renamed(server))
        }),
        over_tcp("a_taken_node_name_is_a_conflict", |server| {
            Box::pin(a_taken_node_name_is_a_conflict(server))
        }),
        over_tcp("a_node_name_that_is_none_is_refused", |server| {
            Box::pin(a_node_name_that_is_none_is_refused(server))
        }),
        over_tcp("a_node_that_was_expired_is_listed_so", |server| {
            Box::pin(a_node_that_was_expired_is_listed_so(server))
        }),
        over_tcp("a_node_is_deleted_and_no_other", |server| {
            Box::pin(a_node_is_deleted_and_no_other(server))
        }),
        over_tcp("an_unknown_node_counts_as_deleted", |server| {
            Box::pin(an_unknown_node_counts_as_deleted(server))
        }),
        over_tcp("an_unknown_node_is_not_found", |server| {
            Box::pin(an_unknown_node_is_not_found(server))
        }),
        case(BY_HAND, "an_unknown_node_is_404_to_delete", |server| {
            Box::pin(an_unknown_node_is_404_to_delete(server))
        }),
        Case {
            name: "a_node_names_the_key_it_joined_with",
            only: Only::EmbeddedTcp("needs a real client: the join story sees it"),
            run: |server| Box::pin(a_node_names_the_key_it_joined_with(server)),
        },
    ]
}

async fn nodes_are_listed(server: &Server) -> Result<()> {
    let user = server.client()?.create_user("shop.nodes", "").await?;
    let node = offline_node(server, &user, "listed").await?;
    ensure!(
        node.name == "listed" && !node.online && node.tags.is_empty() && node.expiry.is_none(),
        "{node:?}"
    );
    ensure!(node.user == Some(user.id), "{node:?}");
    for time in [node.created_at, node.last_seen] {
        let age = Timestamp::now().duration_since(time.context("a time is missing")?);
        ensure!(age.abs() < SignedDuration::from_mins(1), "{node:?}");
    }
    Ok(())
}

async fn a_node_is_renamed(server: &Server) -> Result<()> {
    let client = server.client()?;
    let user = client.create_user("shop.rename", "").await?;
    let node = offline_node(server, &user, "before").await?;
    let renamed = client.rename_node(node.id, "after").await?;
    ensure!(
        renamed.given_name == "after" && renamed.name == "before",
        "{renamed:?}"
    );
    client
        .rename_node(node.id, "after")
        .await
        .context("to the name that it has")?;
    let nodes = client.list_nodes().await?;
    ensure!(
        nodes
            .iter()
            .any(|listed| listed.id == node.id && listed.given_name == "after"),
        "listed as {nodes:?}"
    );
    Ok(())
}

async fn a_taken_node_name_is_a_conflict(server: &Server) -> Result<()> {
    let client = server.client()?;
    let user = client.create_user("shop.nodenames", "").await?;
    offline_node(server, &user, "holder").await?;
    let wants = offline_node(server, &user, "wanting").await?;
    let answer = client.rename_node(wants.id, "holder").await;
    ensure!(
        matches!(&answer, Err(Error::Conflict { message, .. }) if message.contains("not unique")),
        "answered {answer:?}"
    );
    let nodes = client.list_nodes().await?;
    ensure!(
        nodes
            .iter()
            .any(|node| node.id == wants.id && node.given_name == "wanting"),
        "listed as {nodes:?}"
    );
    Ok(())
}

async fn a_node_name_that_is_none_is_refused(server: &Server) -> Result<()> {
    let client = server.client()?;
    let user = client.create_user("shop.labels", "").await?;
    let node = offline_node(server, &user, "labelled").await?;
    for name in ["No_Label", "-ab", "ab-", "a/b", ""] {
        let answer = client.rename_node(node.id, name).await;
        ensure!(
            matches!(&answer, Err(Error::Refused { .. })),
            "{name:?}: answered {answer:?}"
        );
    }
    Ok(())
}

async fn a_node_that_was_expired_is_listed_so(server: &Server) -> Result<()> {
    let client = server.client()?;
    let user = client.create_user("shop.nodeends", "").await?;
    let node = offline_node(server, &user, "ending").await?;
    let kept = offline_node(server, &user, "lasting").await?;
    // Sidescale expires no node: an operator does.
    let path = format!("/api/v1/node/{}/expire", node.id.0);
    let (status, _) = server.raw(Method::POST, &path, Some(json!({}))).await?;
    ensure!(status == StatusCode::OK, "answered {status}");
    let nodes = client.list_nodes().await?;
    let expiry = |id: NodeId| {
        let listed = nodes.iter().find(|node| node.id == id);
        listed.context("is not listed").map(|node| node.expiry)
    };
    let age = Timestamp::now().duration_since(expiry(node.id)?.context("has no end")?);
    ensure!(age.abs() < SignedDuration::from_mins(1), "{nodes:?}");
    ensure!(expiry(kept.id)?.is_none(), "{nodes:?}");
    Ok(())
}

async fn a_node_is_deleted_and_no_other(server: &Server) -> Result<()> {
    let client = server.client()?;
    let user = client.create_user("shop.leaves", "").await?;
    let node = offline_node(server, &user, "leaving").await?;
    let kept = offline_node(server, &user, "staying").await?;
    client.delete_node(node.id).await?;
    let nodes = client.list_nodes().await?;
    ensure!(
        nodes.iter().all(|listed| listed.id != node.id)
            && nodes.iter().any(|listed| listed.id == kept.id),
        "listed as {nodes:?}"
    );
    client.delete_node(node.id).await.context("again")
}

async fn an_unknown_node_counts_as_deleted(server: &Server) -> Result<()> {
    Ok(server.client()?.delete_node(NodeId::from(9999)).await?)
}

async fn an_unknown_node_is_not_found(server: &Server) -> Result<()> {
    let answer = server
        .client()?
        .rename_node(NodeId::from(9999), "anything")
        .await;
    ensure!(
        matches!(&answer, Err(Error::NotFound { message, .. }) if message.contains("node no longer exists")),
        "answered {answer:?}"
    );
    Ok(())
}

async fn an_unknown_node_is_404_to_delete(server: &Server) -> Result<()> {
    let (status, _) = server
        .raw(Method::DELETE, "/api/v1/node/9999", None)
        .await?;
    ensure!(status == StatusCode::NOT_FOUND, "answered {status}");
    Ok(())
}

async fn a_node_names_the_key_it_joined_with(server: &Server) -> Result<()> {
    let embedded = server.embedded.as_ref().context("not our own")?;
    let client = server.client()?;
    let user = client.create_user("shop.joins", "").await?.id;
    let new = NewPreAuthKey {
        tags: vec!["tag:web".to_owned()],
        ..new_key(user)
    };
    let key = client.create_pre_auth_key(&new).await?;
    let node = embedded
        .join(key.value.expose(), "joined")
        .context("the new key is not accepted")?;
    let nodes = client.list_nodes().await?;
    let node = nodes
        .iter()
        .find(|listed| listed.id == node)
        .context("is not listed")?;
    ensure!(
        node.pre_auth_key == Some(key.key.id) && node.online && node.tags == ["tag:web"],
        "{node:?}"
    );
    client.expire_pre_auth_key(key.key.id).await?;
    ensure!(
        embedded.join(key.value.expose(), "late").is_none(),
        "an expired key is accepted"
    );
    Ok(())
}

/// Returns a listed node without a client.
pub(super) async fn offline_node(server: &Server, user: &User, name: &str) -> Result<Node> {
    let client = server.client()?;
    if let Some(embedded) = &server.embedded {
        let key = client.create_pre_auth_key(&new_key(user.id)).await?;
        let node = embedded
            .join(key.value.expose(), name)
            .context("the new key is not accepted")?;
        embedded.set_online(node, false);
    } else {
        register_node(server, &user.name, name).await?;
    }
    let nodes = client.list_nodes().await?;
    let node = nodes.into_iter().find(|node| node.given_name == name);
    node.context("is not listed")
}

/// Makes a real server list a node without a client.
async fn register_node(server: &Server, user: &str, name: &str) -> Result<()> {
    // 0.28 wants the bare 24 characters, newer ones a prefix.
    let key = format!("{name:x<24}");
    for key in [key.clone(), format!("hskey-authreq-{key}")] {
        let debug = json!({"user": user, "key": key, "name": name, "routes": []});
        let (status, _) = server
            .raw(Method::POST, "/api/v1/debug/node", Some(debug))
            .await?;
        if status != StatusCode::OK {
            continue;
        }
        let register = format!("/api/v1/node/register?user={user}&key={key}");
        let (status, said) = server.raw(Method::POST, &register, None).await?;
        ensure!(
            status == StatusCode::OK,
            "registering the node: {status} {said}"
        );
        return Ok(());
    }
    anyhow::bail!("the server makes no node for tests")
}
