//! API keys: created with an expiry, listed by prefix, expired, and then not accepted.

use anyhow::{Context as _, Result, ensure};
use jiff::{SignedDuration, Timestamp};
use reqwest::{Method, StatusCode};
use serde_json::json;
use sidescale_core::id::ApiKeyId;
use sidescale_core::key_prefix::api_key_prefix;
use sidescale_core::objects::{ApiKey, MintedApiKey};

use super::raw::unauthorized;
use super::{BY_HAND, Case, Server, anywhere, case};

pub(super) fn cases() -> Vec<Case> {
    vec![
        anywhere("an_api_key_is_created_and_listed", |server| {
            Box::pin(an_api_key_is_created_and_listed(server))
        }),
        anywhere("an_api_key_that_has_ended_is_unauthorized", |server| {
            Box::pin(an_api_key_that_has_ended_is_unauthorized(server))
        }),
        anywhere("an_api_key_is_expired_by_id_and_no_other", |server| {
            Box::pin(an_api_key_is_expired_by_id_and_no_other(server))
        }),
        anywhere("an_unknown_api_key_counts_as_expired", |server| {
            Box::pin(an_unknown_api_key_counts_as_expired(server))
        }),
        case(BY_HAND, "an_unknown_api_key_is_told", |server| {
            Box::pin(an_unknown_api_key_is_told(server))
        }),
    ]
}

async fn an_api_key_is_created_and_listed(server: &Server) -> Result<()> {
    let end = Timestamp::now() + SignedDuration::from_hours(2160);
    let minted = server.api_keys()?.create(end).await?;
    let value = minted.value.expose();
    ensure!(
        value.starts_with("hskey-api-") && value.len() == 87,
        "a value of another form"
    );
    ensure!(
        api_key_prefix(&minted.value) == Some(&*minted.prefix),
        "prefix {}",
        minted.prefix
    );
    let ApiKey {
        id: _,
        prefix: _,
        expiration,
        created_at,
        last_seen,
    } = listed(server, &minted).await?;
    let ends = expiration.context("no end")?;
    ensure!(
        ends.duration_since(end).abs() < SignedDuration::from_secs(2),
        "ends {ends}, asked for {end}"
    );
    let age = Timestamp::now().duration_since(created_at.context("no time of creation")?);
    ensure!(age.abs() < SignedDuration::from_mins(1), "made {age:?} ago");
    ensure!(last_seen.is_none(), "seen {last_seen:?}");
    server
        .client_with_key(value)?
        .list_users()
        .await
        .context("with the new key")?;
    Ok(())
}

async fn an_api_key_that_has_ended_is_unauthorized(server: &Server) -> Result<()> {
    let past = "2020-01-01T00:00:00Z".parse()?;
    let minted = server.api_keys()?.create(past).await?;
    let client = server.client_with_key(minted.value.expose())?;
    unauthorized("list users", client.list_users().await)
}

async fn an_api_key_is_expired_by_id_and_no_other(server: &Server) -> Result<()> {
    let client = server.api_keys()?;
    let (before, ended, after) = (
        mint(server).await?,
        mint(server).await?,
        mint(server).await?,
    );
    let id = listed(server, &ended).await?.id;
    client.expire(id).await?;
    client.expire(id).await.context("again")?;
    let with_it = server.client_with_key(ended.value.expose())?;
    unauthorized("list users", with_it.list_users().await)?;
    let ends = listed(server, &ended).await?.expiration;
    ensure!(
        ends.is_some_and(|end| end <= Timestamp::now()),
        "ends {ends:?}"
    );
    kept(server, &[before, after]).await
}

async fn an_unknown_api_key_counts_as_expired(server: &Server) -> Result<()> {
    Ok(server.api_keys()?.expire(ApiKeyId::from(9999)).await?)
}

async fn an_unknown_api_key_is_told(server: &Server) -> Result<()> {
    let path = "/api/v1/apikey/expire";
    for body in [json!({"id": "9999"}), json!({"prefix": "abcdefghijkl"})] {
        let (status, _) = server.raw(Method::POST, path, Some(body)).await?;
        let want = server.pick(StatusCode::INTERNAL_SERVER_ERROR, StatusCode::NOT_FOUND);
        ensure!(status == want, "answered {status}");
    }
    for body in [json!({}), json!({"id": "1", "prefix": "abcdefghijkl"})] {
        let (status, _) = server.raw(Method::POST, path, Some(body.clone())).await?;
        ensure!(
            status == StatusCode::BAD_REQUEST,
            "answered {status} to {body}"
        );
    }
    Ok(())
}

async fn mint(server: &Server) -> Result<MintedApiKey> {
    let end = Timestamp::now() + SignedDuration::from_hours(1);
    Ok(server.api_keys()?.create(end).await?)
}

/// Returns its row in the list, found by its prefix.
async fn listed(server: &Server, minted: &MintedApiKey) -> Result<ApiKey> {
    let keys = server.api_keys()?.list().await?;
    keys.into_iter()
        .find(|key| key.prefix == minted.prefix)
        .context("is not listed by its prefix")
}

async fn kept(server: &Server, keys: &[MintedApiKey]) -> Result<()> {
    for key in keys {
        server
            .client_with_key(key.value.expose())?
            .list_users()
            .await
            .context("with another key")?;
    }
    Ok(())
}
