//! Pre-auth keys: created as asked, listed without their value, expired and deleted by id.

use anyhow::{Context as _, Result, bail, ensure};
use jiff::{SignedDuration, Timestamp};
use reqwest::{Method, StatusCode};
use serde_json::json;
use sidescale_control_plane::{Api, Error};
use sidescale_core::id::{KeyId, UserId};
use sidescale_core::objects::NewPreAuthKey;

use super::{Case, Server, new_key, over_tcp};

pub(super) fn cases() -> Vec<Case> {
    vec![
        over_tcp("a_key_is_created_as_asked", |server| {
            Box::pin(a_key_is_created_as_asked(server))
        }),
        over_tcp("a_key_with_tags_is_created_as_asked", |server| {
            Box::pin(a_key_with_tags_is_created_as_asked(server))
        }),
        over_tcp("a_list_of_keys_shows_no_value", |server| {
            Box::pin(a_list_of_keys_shows_no_value(server))
        }),
        over_tcp("a_key_for_an_unknown_user_is_refused", |server| {
            Box::pin(a_key_for_an_unknown_user_is_refused(server))
        }),
        over_tcp("a_key_with_a_bad_tag_is_refused", |server| {
            Box::pin(a_key_with_a_bad_tag_is_refused(server))
        }),
        over_tcp("a_key_is_expired_by_id_and_no_other", |server| {
            Box::pin(a_key_is_expired_by_id_and_no_other(server))
        }),
        over_tcp("an_expired_key_is_expired_again", |server| {
            Box::pin(an_expired_key_is_expired_again(server))
        }),
        over_tcp("an_unknown_key_counts_as_expired", |server| {
            Box::pin(an_unknown_key_counts_as_expired(server))
        }),
        over_tcp("a_key_is_deleted_by_id_and_no_other", |server| {
            Box::pin(a_key_is_deleted_by_id_and_no_other(server))
        }),
        over_tcp("an_unknown_key_counts_as_deleted", |server| {
            Box::pin(an_unknown_key_counts_as_deleted(server))
        }),
    ]
}

async fn a_key_is_created_as_asked(server: &Server) -> Result<()> {
    let client = server.client()?;
    let user = client.create_user("shop.keys", "").await?.id;
    for (reusable, ephemeral) in [(true, true), (true, false), (false, true), (false, false)] {
        let new = NewPreAuthKey {
            reusable,
            ephemeral,
            ..new_key(user)
        };
        let minted = client.create_pre_auth_key(&new).await?;
        let value = minted.value.expose();
        ensure!(
            value.starts_with("hskey-auth-") && value.len() == 88,
            "a value of another form"
        );
        ensure!(!minted.key.used, "the new key is used");
        let age =
            Timestamp::now().duration_since(minted.key.created_at.context("no time of creation")?);
        ensure!(age.abs() < SignedDuration::from_mins(1), "made {age:?} ago");
        let listed = client.list_pre_auth_keys().await?;
        let listed = listed
            .iter()
            .find(|key| key.id == minted.key.id)
            .context("is not listed")?;
        ensure!(
            *listed == minted.key,
            "created as {:?}, listed as {listed:?}",
            minted.key
        );
    }
    Ok(())
}

async fn a_key_with_tags_is_created_as_asked(server: &Server) -> Result<()> {
    let client = server.client()?;
    let user = client.create_user("shop.tags", "").await?.id;
    let tags = vec!["tag:web".to_owned(), "tag:db".to_owned()];
    let minted = client
        .create_pre_auth_key(&NewPreAuthKey {
            tags,
            ..new_key(user)
        })
        .await?;
    ensure!(minted.key.tags.len() == 2, "{:?}", minted.key);
    Ok(())
}

async fn a_list_of_keys_shows_no_value(server: &Server) -> Result<()> {
    let client = server.client()?;
    let user = client.create_user("shop.masked", "").await?.id;
    let minted = client.create_pre_auth_key(&new_key(user)).await?;
    let (_, list) = server.raw(Method::GET, "/api/v1/preauthkey", None).await?;
    let secret = minted.value.expose().get(24..).context("a short key")?;
    ensure!(!list.contains(secret), "the list shows the secret");
    ensure!(list.contains("-***"), "the list shows no masked key");
    Ok(())
}

async fn a_key_for_an_unknown_user_is_refused(server: &Server) -> Result<()> {
    let refused = server
        .client()?
        .create_pre_auth_key(&new_key(UserId::from(9999)))
        .await;
    let message = match (server.api(), refused) {
        (
            Api::Gateway,
            Err(Error::Refused {
                status: 500,
                message,
                ..
            }),
        )
        | (Api::Problem, Err(Error::NotFound { message, .. })) => message,
        (_, other) => bail!("answered {other:?}"),
    };
    ensure!(message.contains("user not found"), "says {message:?}");
    Ok(())
}

async fn a_key_with_a_bad_tag_is_refused(server: &Server) -> Result<()> {
    let client = server.client()?;
    let user = client.create_user("shop.badtag", "").await?.id;
    for tag in ["web", "tag:Web", "tag:a b"] {
        let new = NewPreAuthKey {
            tags: vec![tag.to_owned()],
            ..new_key(user)
        };
        let refused = client.create_pre_auth_key(&new).await;
        ensure!(
            matches!(&refused, Err(Error::Refused { status: 400, message, .. }) if message.contains("tag")),
            "{tag:?}: answered {refused:?}"
        );
    }
    Ok(())
}

async fn a_key_is_expired_by_id_and_no_other(server: &Server) -> Result<()> {
    let client = server.client()?;
    let user = client.create_user("shop.expire", "").await?.id;
    let kept = client.create_pre_auth_key(&new_key(user)).await?.key;
    let ended = client.create_pre_auth_key(&new_key(user)).await?.key;
    client.expire_pre_auth_key(ended.id).await?;
    let listed = client.list_pre_auth_keys().await?;
    let ends = |id: KeyId| {
        listed
            .iter()
            .find(|key| key.id == id)
            .and_then(|key| key.expiration)
            .context("is not listed")
    };
    ensure!(
        ends(ended.id)? <= Timestamp::now(),
        "still ends {}",
        ends(ended.id)?
    );
    ensure!(
        Some(ends(kept.id)?) == kept.expiration,
        "the other key now ends {}",
        ends(kept.id)?
    );
    Ok(())
}

async fn an_expired_key_is_expired_again(server: &Server) -> Result<()> {
    let client = server.client()?;
    let user = client.create_user("shop.twice", "").await?.id;
    let key = client.create_pre_auth_key(&new_key(user)).await?.key.id;
    client.expire_pre_auth_key(key).await?;
    Ok(client.expire_pre_auth_key(key).await?)
}

async fn an_unknown_key_counts_as_expired(server: &Server) -> Result<()> {
    server
        .client()?
        .expire_pre_auth_key(KeyId::from(9999))
        .await?;
    let (status, _) = server
        .raw(
            Method::POST,
            "/api/v1/preauthkey/expire",
            Some(json!({"id": "9999"})),
        )
        .await?;
    let want = server.pick(StatusCode::OK, StatusCode::NOT_FOUND);
    ensure!(status == want, "answered {status}");
    Ok(())
}

async fn a_key_is_deleted_by_id_and_no_other(server: &Server) -> Result<()> {
    let client = server.client()?;
    let user = client.create_user("shop.delete", "").await?.id;
    let kept = client.create_pre_auth_key(&new_key(user)).await?.key;
    let gone = client.create_pre_auth_key(&new_key(user)).await?.key.id;
    client.delete_pre_auth_key(gone).await?;
    let listed = client.list_pre_auth_keys().await?;
    ensure!(
        listed.contains(&kept) && listed.iter().all(|key| key.id != gone),
        "listed {listed:?}"
    );
    client.delete_pre_auth_key(gone).await.context("again")
}

async fn an_unknown_key_counts_as_deleted(server: &Server) -> Result<()> {
    server
        .client()?
        .delete_pre_auth_key(KeyId::from(9999))
        .await?;
    let (status, _) = server
        .raw(Method::DELETE, "/api/v1/preauthkey?id=9999", None)
        .await?;
    let want = server.pick(StatusCode::OK, StatusCode::NOT_FOUND);
    ensure!(status == want, "answered {status}");
    Ok(())
}
