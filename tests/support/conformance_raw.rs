//! Answers by status: credentials, strict and lenient bodies, and requests that our client would not make.

use anyhow::{Context as _, Result, ensure};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sidescale_control_plane::{Api, Client, Endpoint, Error};

use super::{BY_HAND, Case, KEYLESS, Only, Run, Server, case, new_key};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case(KEYLESS, "no_key_is_unauthorized", |server| {
            Box::pin(no_key_is_unauthorized(server))
        }),
        case(KEYLESS, "an_unknown_api_key_is_unauthorized", |server| {
            Box::pin(an_unknown_api_key_is_unauthorized(server))
        }),
        by_hand("a_wrong_path_is_not_headscale", |server| {
            Box::pin(a_wrong_path_is_not_headscale(server))
        }),
        by_hand("an_unknown_call_is_404", |server| {
            Box::pin(an_unknown_call_is_404(server))
        }),
        by_hand("ids_may_have_to_be_strings", |server| {
            Box::pin(ids_may_have_to_be_strings(server))
        }),
        by_hand("unknown_fields_may_be_refused", |server| {
            Box::pin(unknown_fields_may_be_refused(server))
        }),
        by_hand("a_time_that_is_none_is_refused", |server| {
            Box::pin(a_time_that_is_none_is_refused(server))
        }),
        by_hand("an_id_that_is_none_is_refused", |server| {
            Box::pin(an_id_that_is_none_is_refused(server))
        }),
        by_hand("a_key_without_an_end_is_dead", |server| {
            Box::pin(a_key_without_an_end_is_dead(server))
        }),
        by_hand("a_key_needs_a_user_or_a_tag", |server| {
            Box::pin(a_key_needs_a_user_or_a_tag(server))
        }),
        Case {
            name: "another_authority_is_not_trusted",
            only: Only::Https,
            run: |server| Box::pin(another_authority_is_not_trusted(server)),
        },
        Case {
            name: "plain_http_to_https_is_not_headscale",
            only: Only::Https,
            run: |server| Box::pin(plain_http_to_https_is_not_headscale(server)),
        },
    ]
}

fn by_hand(name: &'static str, run: Run) -> Case {
    case(BY_HAND, name, run)
}

async fn no_key_is_unauthorized(server: &Server) -> Result<()> {
    for authorization in [
        None,
        Some("Basic abc"),
        Some(server.api_key.expose()),
        Some("Bearer "),
    ] {
        let (status, body) = server
            .raw_as(authorization, Method::GET, "/api/v1/user", None)
            .await?;
        ensure!(status == StatusCode::UNAUTHORIZED, "answered {status}");
        match server.api() {
            Api::Gateway => ensure!(body == "Unauthorized", "says {body:?}"),
            Api::Problem => ensure!(field(&body, "/status")? == 401, "says {body:?}"),
        }
    }
    Ok(())
}

async fn an_unknown_api_key_is_unauthorized(server: &Server) -> Result<()> {
    let wrong_secret = format!("{}{}", &server.api_key.expose()[..23], "a".repeat(64));
    let unknown = format!("hskey-api-{}-{}", "a".repeat(12), "b".repeat(64));
    for key in ["junk", &wrong_secret, &unknown] {
        let client = server.client_with_key(key)?;
        unauthorized("list users", client.list_users().await)?;
        unauthorized("create user", client.create_user("never", "").await)?;
        unauthorized("list keys", client.list_pre_auth_keys().await)?;
        unauthorized(
            "create key",
            client
                .create_pre_auth_key(&new_key(sidescale_core::id::UserId::from(1)))
                .await,
        )?;
        unauthorized(
            "expire key",
            client
                .expire_pre_auth_key(sidescale_core::id::KeyId::from(1))
                .await,
        )?;
        unauthorized("list nodes", client.list_nodes().await)?;
    }
    ensure!(
        !server
            .client()?
            .list_users()
            .await?
            .iter()
            .any(|user| user.name == "never"),
        "the user was made"
    );
    Ok(())
}

async fn a_wrong_path_is_not_headscale(server: &Server) -> Result<()> {
    let endpoint = server.endpoint();
    let api_url = format!("{}/elsewhere", endpoint.api_url);
    let client = Client::new(Endpoint {
        api_url,
        ..endpoint
    })?;
    not_headscale("probe", client.probe().await)?;
    not_headscale("list users", client.list_users().await)?;
    not_headscale(
        "expire key",
        client
            .expire_pre_auth_key(sidescale_core::id::KeyId::from(1))
            .await,
    )
}

async fn an_unknown_call_is_404(server: &Server) -> Result<()> {
    let (status, _) = server.raw(Method::GET, "/api/v1/unheard", None).await?;
    ensure!(status == StatusCode::NOT_FOUND, "answered {status}");
    Ok(())
}

async fn ids_may_have_to_be_strings(server: &Server) -> Result<()> {
    let (status, _) = server
        .raw(
            Method::POST,
            "/api/v1/preauthkey/expire",
            Some(json!({"id": 9999})),
        )
        .await?;
    ensure!(
        status == server.pick(StatusCode::OK, StatusCode::UNPROCESSABLE_ENTITY),
        "answered {status}"
    );
    Ok(())
}

async fn unknown_fields_may_be_refused(server: &Server) -> Result<()> {
    let body = json!({"name": "shop.fields", "unheard": true});
    let (status, body) = server.raw(Method::POST, "/api/v1/user", Some(body)).await?;
    ensure!(
        status == server.pick(StatusCode::OK, StatusCode::UNPROCESSABLE_ENTITY),
        "answered {status} {body}"
    );
    Ok(())
}

async fn a_time_that_is_none_is_refused(server: &Server) -> Result<()> {
    let user = server
        .client()?
        .create_user("shop.times", "")
        .await?
        .id
        .0
        .to_string();
    let body = json!({"user": user, "expiration": "tomorrow"});
    let (status, _) = server
        .raw(Method::POST, "/api/v1/preauthkey", Some(body))
        .await?;
    ensure!(
        status == server.pick(StatusCode::BAD_REQUEST, StatusCode::UNPROCESSABLE_ENTITY),
        "answered {status}"
    );
    Ok(())
}

async fn an_id_that_is_none_is_refused(server: &Server) -> Result<()> {
    let (status, _) = server
        .raw(
            Method::POST,
            "/api/v1/preauthkey/expire",
            Some(json!({"id": "x"})),
        )
        .await?;
    ensure!(status == StatusCode::BAD_REQUEST, "answered {status}");
    Ok(())
}

async fn a_key_without_an_end_is_dead(server: &Server) -> Result<()> {
    let user = server
        .client()?
        .create_user("shop.endless", "")
        .await?
        .id
        .0
        .to_string();
    let (_, body) = server
        .raw(
            Method::POST,
            "/api/v1/preauthkey",
            Some(json!({"user": user})),
        )
        .await?;
    let end = field(&body, "/preAuthKey/expiration")?;
    ensure!(end == "0001-01-01T00:00:00Z", "ends {end}");
    Ok(())
}

async fn a_key_needs_a_user_or_a_tag(server: &Server) -> Result<()> {
    let end = "2099-01-01T00:00:00Z";
    let (status, _) = server
        .raw(
            Method::POST,
            "/api/v1/preauthkey",
            Some(json!({"expiration": end})),
        )
        .await?;
    ensure!(
        status == server.pick(StatusCode::INTERNAL_SERVER_ERROR, StatusCode::BAD_REQUEST),
        "answered {status} to neither"
    );
    let tagged = json!({"expiration": end, "aclTags": ["tag:alone"]});
    let (status, body) = server
        .raw(Method::POST, "/api/v1/preauthkey", Some(tagged))
        .await?;
    ensure!(
        status == StatusCode::OK && field(&body, "/preAuthKey/user")?.is_null(),
        "answered {status}"
    );
    let keys = server.client()?.list_pre_auth_keys().await?;
    ensure!(
        keys.iter()
            .any(|key| key.user.is_none() && key.tags == ["tag:alone"]),
        "is not listed"
    );
    Ok(())
}

async fn another_authority_is_not_trusted(server: &Server) -> Result<()> {
    let other = super::table::authority("another authority")?.0;
    let endpoint = Endpoint {
        ca_bundle: Some(other),
        ..server.endpoint()
    };
    let answer = Client::new(endpoint)?.list_users().await;
    ensure!(
        matches!(answer, Err(Error::Untrusted { .. })),
        "answered {answer:?}"
    );
    let endpoint = Endpoint {
        ca_bundle: None,
        ..server.endpoint()
    };
    let answer = Client::new(endpoint)?.list_users().await;
    ensure!(
        matches!(answer, Err(Error::Untrusted { .. })),
        "answered {answer:?}"
    );
    Ok(())
}

async fn plain_http_to_https_is_not_headscale(server: &Server) -> Result<()> {
    let api_url = server.url.replacen("https://", "http://", 1);
    let endpoint = Endpoint {
        api_url,
        allow_insecure: true,
        ..server.endpoint()
    };
    let answer = Client::new(endpoint)?.list_users().await;
    ensure!(
        matches!(
            answer,
            Err(Error::NotHeadscale { .. } | Error::Unreachable { .. })
        ),
        "answered {answer:?}"
    );
    Ok(())
}

pub(super) fn unauthorized<T: std::fmt::Debug>(what: &str, answer: Result<T, Error>) -> Result<()> {
    ensure!(
        matches!(answer, Err(Error::Unauthorized { .. })),
        "{what}: answered {answer:?}"
    );
    Ok(())
}

fn not_headscale<T: std::fmt::Debug>(what: &str, answer: Result<T, Error>) -> Result<()> {
    ensure!(
        matches!(answer, Err(Error::NotHeadscale { .. })),
        "{what}: answered {answer:?}"
    );
    Ok(())
}

pub(super) fn field(body: &str, pointer: &str) -> Result<Value> {
    let json: Value = serde_json::from_str(body).with_context(|| format!("no JSON: {body}"))?;
    json.pointer(pointer)
        .cloned()
        .with_context(|| format!("no {pointer} in {body}"))
}
