//! Faults between us and a Headscale: login pages, redirects, cut bodies. Only the embedded one does this on demand.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use sidescale_control_plane::{ApiKeyClient, Client, Error, Version};
use sidescale_core::id::{ApiKeyId, KeyId, NodeId, UserId};
use sidescale_core::release::HeadscaleRelease;
use sidescale_simulator::{Call, Fault};

use super::{Case, Only, Server, case, new_key};

/// A time limit that a slow server exceeds.
const SHORT: Duration = Duration::from_millis(500);

/// All our calls, with the error of each.
type Answers = Vec<(&'static str, Option<Error>)>;

pub(super) fn cases() -> Vec<Case> {
    let own = |name, run| Case {
        name,
        only: Only::Embedded("what stands before a server does this, not the server"),
        run,
    };
    vec![
        own("a_login_page_is_not_headscale", |server| {
            Box::pin(each(
                server,
                Fault::Html,
                |error| matches!(error, Error::NotHeadscale { answered, .. } if answered == "a web page"),
            ))
        }),
        own("a_redirect_is_not_followed", |server| {
            Box::pin(each(
                server,
                Fault::Redirect,
                |error| matches!(error, Error::Redirected { status: 302, location, .. } if location == "https://login.example.com/start"),
            ))
        }),
        own("a_401_is_unauthorized", |server| {
            Box::pin(each(server, Fault::Unauthorized, |error| {
                matches!(error, Error::Unauthorized { .. })
            }))
        }),
        own("a_proxys_502_is_an_absence", |server| {
            Box::pin(each(server, Fault::Status(502), |error| {
                matches!(error, Error::Away { status: 502, .. })
            }))
        }),
        own("a_proxys_404_is_not_headscale", |server| {
            Box::pin(each(server, Fault::Status(404), |error| {
                matches!(error, Error::NotHeadscale { status: 404, .. })
            }))
        }),
        own("a_cut_body_is_not_headscale", |server| {
            Box::pin(each(server, Fault::CutBody, |error| {
                matches!(error, Error::NotHeadscale { .. })
            }))
        }),
        own("an_endless_body_is_given_up", |server| {
            Box::pin(an_endless_body_is_given_up(server))
        }),
        own("a_slow_server_is_given_up", |server| {
            Box::pin(a_slow_server_is_given_up(server))
        }),
        case(
            Only::EmbeddedTcp("takes fields out of JSON, on our own alone"),
            "an_answer_that_lacks_a_field_makes_no_key",
            |server| Box::pin(an_answer_that_lacks_a_field_makes_no_key(server)),
        ),
    ]
}

/// Makes every call while all of them fail in one way. A proxy's answer is not gRPC at all.
async fn each(server: &Server, fault: Fault, wanted: fn(&Error) -> bool) -> Result<()> {
    let embedded = server.embedded.as_ref().context("not our own")?;
    let objects = async || -> Result<usize> {
        let users = server.client()?.list_users().await?.len();
        Ok(users + server.api_keys()?.list().await?.len())
    };
    let before = objects().await?;
    let clients = Clients::within(server, Duration::from_secs(30)).await?;
    embedded.break_calls(None, fault.clone());
    let answers = answers(server, &clients).await;
    embedded.mend();
    for (call, error) in answers? {
        let fits = match &error {
            Some(Error::NotHeadscale { .. }) if server.speaks_grpc() => true,
            Some(error) => !server.speaks_grpc() && wanted(error),
            None => false,
        };
        ensure!(fits, "{call}: answered {error:?}");
    }
    let done = matches!(fault, Fault::CutBody);
    ensure!(
        done || objects().await? == before,
        "a user or an API key was made"
    );
    Ok(())
}

/// Clients that were connected before the server broke.
struct Clients {
    api_keys: ApiKeyClient,
    client: Client,
}

impl Clients {
    /// Connects clients whose calls take at most so long.
    async fn within(server: &Server, deadline: Duration) -> Result<Self> {
        let api_keys = match &server.socket {
            Some(socket) => ApiKeyClient::on_socket_within(socket, deadline).await?,
            None => ApiKeyClient::with_deadline(server.endpoint(), deadline)?,
        };
        let client = Client::with_deadline(server.endpoint(), deadline)?;
        Ok(Self { api_keys, client })
    }
}

/// Makes every call; those that reach the server refer to missing objects. On a socket, only the calls for API keys.
async fn answers(server: &Server, clients: &Clients) -> Result<Answers> {
    let Clients { api_keys, client } = clients;
    let end = "2099-01-01T00:00:00Z".parse()?;
    let mut answers = vec![
        ("list API keys", api_keys.list().await.err()),
        ("create API key", api_keys.create(end).await.err()),
        (
            "expire API key",
            api_keys.expire(ApiKeyId::from(9999)).await.err(),
        ),
    ];
    if server.socket.is_some() {
        return Ok(answers);
    }
    let version = Version {
        text: String::new(),
        release: HeadscaleRelease::V0_29,
    };
    let (user, key, node) = (UserId::from(9999), KeyId::from(9999), NodeId::from(9999));
    let new = new_key(UserId::from(1));
    let mut note = |call, error| answers.push((call, error));
    note("probe", client.probe().await.err());
    note("list users", client.list_users().await.err());
    note(
        "create user",
        client.create_user("shop.faults", "").await.err(),
    );
    note(
        "delete user",
        client.delete_user(user, &version).await.err(),
    );
    note("list keys", client.list_pre_auth_keys().await.err());
    note("create key", client.create_pre_auth_key(&new).await.err());
    note("expire key", client.expire_pre_auth_key(key).await.err());
    note("delete key", client.delete_pre_auth_key(key).await.err());
    note("list nodes", client.list_nodes().await.err());
    note("delete node", client.delete_node(node).await.err());
    note("rename node", client.rename_node(node, "name").await.err());
    Ok(answers)
}

/// Only one call: sixteen megabytes take a while.
async fn an_endless_body_is_given_up(server: &Server) -> Result<()> {
    let embedded = server.embedded.as_ref().context("not our own")?;
    embedded.break_calls(None, Fault::Endless);
    let answer = server.api_keys()?.list().await;
    embedded.mend();
    ensure!(
        matches!(answer, Err(Error::TooLarge { .. })),
        "answered {answer:?}"
    );
    Ok(())
}

async fn a_slow_server_is_given_up(server: &Server) -> Result<()> {
    let embedded = server.embedded.as_ref().context("not our own")?;
    let clients = Clients::within(server, SHORT).await?;
    embedded.break_calls(None, Fault::Slow(Duration::from_secs(20)));
    let begun = Instant::now();
    let answers = answers(server, &clients).await;
    embedded.mend();
    for (call, error) in answers? {
        ensure!(
            matches!(error, Some(Error::TimedOut { .. })),
            "{call}: answered {error:?}"
        );
    }
    ensure!(
        begun.elapsed() < Duration::from_secs(10),
        "took {:?}",
        begun.elapsed()
    );
    Ok(())
}

async fn an_answer_that_lacks_a_field_makes_no_key(server: &Server) -> Result<()> {
    let embedded = server.embedded.as_ref().context("not our own")?;
    let client = server.client()?;
    let user = client.create_user("shop.lacks", "").await?.id;
    let rows = [
        ("/preAuthKey", None),
        ("/preAuthKey/id", None),
        ("/preAuthKey/key", None),
        ("/preAuthKey/key", Some(json!(""))),
        ("/preAuthKey/expiration", None),
        (
            "/preAuthKey/expiration",
            Some(json!("0001-01-01T00:00:00Z")),
        ),
        ("/preAuthKey/user", Some(json!(null))),
        ("/preAuthKey/reusable", Some(json!(false))),
        ("/preAuthKey/ephemeral", Some(json!(false))),
        ("/preAuthKey/aclTags", Some(json!(["tag:other"]))),
    ];
    for (pointer, value) in rows {
        embedded.break_calls(
            Some(Call::CreatePreAuthKey),
            Fault::Field(pointer, value.clone()),
        );
        let answer = client.create_pre_auth_key(&new_key(user)).await;
        embedded.mend();
        ensure!(
            matches!(answer, Err(Error::NotHeadscale { .. })),
            "{pointer} {value:?}: answered {answer:?}"
        );
    }
    Ok(())
}
