//! What stands between us and a Headscale: login pages, redirects, cut bodies. Only our own does this on demand.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use sidescale::commands::demo::headscale::{Call, Fault};
use sidescale::control_plane::{Error, UserId};

use super::{Case, Only, Server, new_key};

/// Every call that we make, by the error it met.
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
        own("a_proxys_502_is_refused", |server| {
            Box::pin(each(server, Fault::Status(502), |error| {
                matches!(error, Error::Refused { status: 502, .. })
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
        own("an_answer_that_lacks_a_field_makes_no_key", |server| {
            Box::pin(an_answer_that_lacks_a_field_makes_no_key(server))
        }),
    ]
}

/// Makes every call while all of them go wrong in one way.
async fn each(server: &Server, fault: Fault, wanted: fn(&Error) -> bool) -> Result<()> {
    let embedded = server.embedded.as_ref().context("not our own")?;
    let users = server.client()?.list_users().await?.len();
    embedded.break_calls(None, fault.clone());
    let answers = answers(server, Duration::from_secs(30)).await;
    embedded.mend();
    for (call, error) in answers? {
        ensure!(
            error.as_ref().is_some_and(wanted),
            "{call}: answered {error:?}"
        );
    }
    let done = matches!(fault, Fault::CutBody);
    ensure!(
        done || server.client()?.list_users().await?.len() == users,
        "a user was made"
    );
    Ok(())
}

async fn answers(server: &Server, deadline: Duration) -> Result<Answers> {
    let client = server.client()?.with_deadline(deadline);
    Ok(vec![
        ("probe", client.probe().await.err()),
        ("list users", client.list_users().await.err()),
        (
            "create user",
            client.create_user("shop.faults", "").await.err(),
        ),
        ("list keys", client.list_pre_auth_keys().await.err()),
        (
            "create key",
            client.create_pre_auth_key(&new_key(UserId(1))).await.err(),
        ),
        (
            "expire key",
            client
                .expire_pre_auth_key(sidescale::control_plane::KeyId(9999))
                .await
                .err(),
        ),
        ("list nodes", client.list_nodes().await.err()),
    ])
}

/// One call only: sixteen megabytes take a while.
async fn an_endless_body_is_given_up(server: &Server) -> Result<()> {
    let embedded = server.embedded.as_ref().context("not our own")?;
    embedded.break_calls(None, Fault::Endless);
    let answer = server.client()?.list_users().await;
    embedded.mend();
    ensure!(
        matches!(answer, Err(Error::TooLarge { .. })),
        "answered {answer:?}"
    );
    Ok(())
}

async fn a_slow_server_is_given_up(server: &Server) -> Result<()> {
    let embedded = server.embedded.as_ref().context("not our own")?;
    embedded.break_calls(None, Fault::Slow(Duration::from_secs(20)));
    let begun = Instant::now();
    let answers = answers(server, Duration::from_millis(50)).await;
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
