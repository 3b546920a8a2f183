//! Users: created, listed, deleted.

use anyhow::{Context as _, Result, bail, ensure};
use sidescale_control_plane::Error;
use sidescale_core::id::UserId;
use sidescale_core::objects::User;
use sidescale_core::release::HeadscaleRelease;

use super::nodes::offline_node;
use super::{Case, Only, Server, new_key, over_tcp};

pub(super) fn cases() -> Vec<Case> {
    vec![
        over_tcp("a_user_is_created_and_listed", |server| {
            Box::pin(a_user_is_created_and_listed(server))
        }),
        over_tcp("a_taken_user_name_is_a_conflict", |server| {
            Box::pin(a_taken_user_name_is_a_conflict(server))
        }),
        over_tcp("of_two_who_create_one_user_one_does", |server| {
            Box::pin(of_two_who_create_one_user_one_does(server))
        }),
        over_tcp("a_user_is_deleted_with_its_keys_alone", |server| {
            Box::pin(a_user_is_deleted_with_its_keys_alone(server))
        }),
        over_tcp("a_user_with_a_node_is_not_deleted", |server| {
            Box::pin(a_user_with_a_node_is_not_deleted(server))
        }),
        over_tcp("an_unknown_user_counts_as_deleted", |server| {
            Box::pin(an_unknown_user_counts_as_deleted(server))
        }),
        Case {
            name: "a_user_of_a_provider_is_told_apart",
            only: Only::EmbeddedTcp("needs an identity provider"),
            run: |server| Box::pin(a_user_of_a_provider_is_told_apart(server)),
        },
    ]
}

async fn a_user_is_created_and_listed(server: &Server) -> Result<()> {
    let (client, mark) = (server.client()?, "sidescale 0b5e… release");
    let user = client.create_user("shop.web", mark).await?;
    ensure!(
        user.name == "shop.web" && user.display_name == mark && !user.from_provider,
        "{user:?}"
    );
    ensure!(
        client.list_users().await?.contains(&user),
        "{user:?} is not listed"
    );
    Ok(())
}

async fn a_taken_user_name_is_a_conflict(server: &Server) -> Result<()> {
    let client = server.client()?;
    let user = client.create_user("shop.taken", "first").await?;
    let again = client.create_user("shop.taken", "second").await;
    let status = server.pick(500, 409);
    ensure!(
        matches!(&again, Err(Error::Conflict { status: got, .. }) if *got == status),
        "answered {again:?}"
    );
    ensure!(
        client.list_users().await?.contains(&user),
        "the first user was changed"
    );
    Ok(())
}

async fn of_two_who_create_one_user_one_does(server: &Server) -> Result<()> {
    let client = server.client()?;
    let create = || client.create_user("shop.race", "");
    let (one, two) = tokio::join!(create(), create());
    let user = match (one, two) {
        (Ok(user), Err(Error::Conflict { .. })) | (Err(Error::Conflict { .. }), Ok(user)) => user,
        other => bail!("answered {other:?}"),
    };
    let users = client.list_users().await?;
    let named: Vec<&User> = users
        .iter()
        .filter(|user| user.name == "shop.race")
        .collect();
    ensure!(named == [&user], "listed {named:?}");
    Ok(())
}

async fn a_user_of_a_provider_is_told_apart(server: &Server) -> Result<()> {
    let embedded = server.embedded.as_ref().context("not our own")?;
    embedded.add_user("shop.oidc", "Somebody", "oidc");
    // Names are unique only among users without a provider.
    let client = server.client()?;
    let ours = client.create_user("shop.oidc", "").await?;
    let users = client.list_users().await?;
    let theirs: Vec<bool> = users
        .iter()
        .filter(|user| user.name == "shop.oidc")
        .map(|user| user.from_provider)
        .collect();
    ensure!(!ours.from_provider && theirs == [true, false], "{users:?}");
    Ok(())
}

/// On a server that would delete everyone's keys with it, the call is not made.
async fn a_user_is_deleted_with_its_keys_alone(server: &Server) -> Result<()> {
    let client = server.client()?;
    let user = client.create_user("shop.goes", "").await?.id;
    let other = client.create_user("shop.stays", "").await?.id;
    let gone = client.create_pre_auth_key(&new_key(user)).await?.key.id;
    let kept = client.create_pre_auth_key(&new_key(other)).await?.key.id;
    let answer = client.delete_user(user, &server.version()).await;
    let keys = client.list_pre_auth_keys().await?;
    let is_listed = |id| keys.iter().any(|key| key.id == id);
    ensure!(is_listed(kept), "another user's key is gone");
    if server.release == HeadscaleRelease::V0_28 {
        ensure!(
            matches!(answer, Err(Error::DeletesAllKeys { .. })),
            "answered {answer:?}"
        );
        ensure!(is_listed(gone), "the user's key is gone");
        return Ok(());
    }
    answer?;
    ensure!(!is_listed(gone), "the user's key is there");
    let users = client.list_users().await?;
    ensure!(
        users.iter().all(|listed| listed.id != user)
            && users.iter().any(|listed| listed.id == other),
        "listed {users:?}"
    );
    Ok(client.delete_user(user, &server.version()).await?)
}

async fn a_user_with_a_node_is_not_deleted(server: &Server) -> Result<()> {
    let client = server.client()?;
    let user = client.create_user("shop.full", "").await?;
    offline_node(server, &user, "inside").await?;
    let answer = client.delete_user(user.id, &server.version()).await;
    match server.release {
        HeadscaleRelease::V0_28 => ensure!(
            matches!(answer, Err(Error::DeletesAllKeys { .. })),
            "answered {answer:?}"
        ),
        HeadscaleRelease::V0_29 | HeadscaleRelease::V0_30 => ensure!(
            matches!(&answer, Err(Error::Refused { message, .. }) if message.contains("user not empty")),
            "answered {answer:?}"
        ),
    }
    let users = client.list_users().await?;
    ensure!(users.contains(&user), "listed {users:?}");
    Ok(())
}

async fn an_unknown_user_counts_as_deleted(server: &Server) -> Result<()> {
    let answer = server
        .client()?
        .delete_user(UserId::from(9999), &server.version())
        .await;
    match server.release {
        HeadscaleRelease::V0_28 => ensure!(
            matches!(answer, Err(Error::DeletesAllKeys { .. })),
            "answered {answer:?}"
        ),
        HeadscaleRelease::V0_29 | HeadscaleRelease::V0_30 => answer?,
    }
    Ok(())
}
