//! What every Headscale does, the embedded one and the real ones alike: one named function per call and per error.

use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use futures::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sidescale::commands::demo::headscale::Embedded;
use sidescale::control_plane::{
    Api, ControlPlane, Endpoint, Error, KeyId, NewPreAuthKey, User, UserId,
};
use sidescale::key_value::KeyValue;

#[path = "conformance_faults.rs"]
mod faults;
#[path = "conformance_raw.rs"]
mod raw;
#[path = "conformance_table.rs"]
pub(crate) mod table;

pub(crate) use table::{Cell, Column, print};

/// A server under test.
pub(crate) struct Server {
    /// Heads its column, such as `0.29.2 https`.
    pub(crate) name: String,
    /// Its URL.
    pub(crate) url: String,
    /// An API key that it accepts.
    pub(crate) api_key: KeyValue,
    /// PEM of its private authority, where it speaks HTTPS.
    pub(crate) ca_bundle: Option<String>,
    /// The dialect it should be taken for.
    pub(crate) api: Api,
    /// Our own, which can be told to go wrong.
    pub(crate) embedded: Option<Embedded>,
    /// Kept, because each new client reads the machine's authorities.
    clients: OnceLock<(ControlPlane, reqwest::Client)>,
}

/// Where a case can be run.
#[derive(Clone, Copy)]
enum Only {
    Anywhere,
    /// Only on our own, for this reason.
    Embedded(&'static str),
    /// Only over HTTPS.
    Https,
}

/// A test: its name is a sentence.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    only: Only,
    run: for<'a> fn(&'a Server) -> BoxFuture<'a, Result<()>>,
}

impl Server {
    pub(crate) fn new(
        name: String,
        url: String,
        api_key: KeyValue,
        ca_bundle: Option<String>,
        api: Api,
        embedded: Option<Embedded>,
    ) -> Self {
        Self {
            name,
            url,
            api_key,
            ca_bundle,
            api,
            embedded,
            clients: OnceLock::new(),
        }
    }

    fn clients(&self) -> Result<&(ControlPlane, reqwest::Client)> {
        if let Some(clients) = self.clients.get() {
            return Ok(clients);
        }
        let ours = ControlPlane::new(self.endpoint())?;
        let mut raw = reqwest::Client::builder().no_proxy();
        if let Some(pem) = &self.ca_bundle {
            raw = raw.tls_certs_only(reqwest::Certificate::from_pem_bundle(pem.as_bytes())?);
        }
        let raw = raw.build()?;
        Ok(self.clients.get_or_init(|| (ours, raw)))
    }

    pub(crate) fn endpoint(&self) -> Endpoint {
        Endpoint {
            name: "default".to_owned(),
            api_url: self.url.clone(),
            api_key: self.api_key.clone(),
            ca_bundle: self.ca_bundle.clone(),
            allow_insecure: self.ca_bundle.is_none(),
        }
    }

    fn client(&self) -> Result<ControlPlane> {
        Ok(self.clients()?.0.clone())
    }

    fn client_with_key(&self, key: &str) -> Result<ControlPlane> {
        let api_key = KeyValue::new(key.to_owned());
        Ok(ControlPlane::new(Endpoint {
            api_key,
            ..self.endpoint()
        })?)
    }

    /// A call that our client would not make, or not so.
    async fn raw(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<(StatusCode, String)> {
        self.raw_as(
            Some(&format!("Bearer {}", self.api_key.expose())),
            method,
            path,
            body,
        )
        .await
    }

    async fn raw_as(
        &self,
        authorization: Option<&str>,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<(StatusCode, String)> {
        let (_, client) = self.clients()?;
        let mut request = client.request(method, format!("{}{path}", self.url));
        if let Some(authorization) = authorization {
            request = request.header("authorization", authorization);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        let reply = request.send().await?;
        Ok((reply.status(), reply.text().await?))
    }

    /// 0.28 and 0.29 answer the first, 0.30 the second.
    fn pick<T>(&self, gateway: T, problem: T) -> T {
        match self.api {
            Api::Gateway => gateway,
            Api::Problem => problem,
        }
    }
}

/// Runs every case that the server can be asked, one after the other: some count what is there.
pub(crate) async fn run(server: &Server) -> Column {
    let mut cells = Vec::new();
    for case in cases() {
        let reason = match case.only {
            Only::Anywhere => None,
            Only::Embedded(reason) => server.embedded.is_none().then_some(reason),
            Only::Https => server.ca_bundle.is_none().then_some("plain http"),
        };
        let cell = match reason {
            Some(reason) => Cell::Skipped(reason),
            None => match tokio::time::timeout(Duration::from_secs(60), (case.run)(server)).await {
                Ok(Ok(())) => Cell::Passed,
                Ok(Err(error)) => Cell::Failed(format!("{error:#}")),
                Err(_) => Cell::Failed("did not end within a minute".to_owned()),
            },
        };
        cells.push((case.name, cell));
    }
    Column {
        server: server.name.clone(),
        cells,
    }
}

fn cases() -> Vec<Case> {
    let anywhere = |name, run| Case {
        name,
        only: Only::Anywhere,
        run,
    };
    let mut cases = vec![
        anywhere("a_new_server_lists_nothing", |server| {
            Box::pin(a_new_server_lists_nothing(server))
        }),
        anywhere("the_version_is_probed", |server| {
            Box::pin(the_version_is_probed(server))
        }),
        anywhere("a_user_is_created_and_listed", |server| {
            Box::pin(a_user_is_created_and_listed(server))
        }),
        anywhere("a_taken_user_name_is_a_conflict", |server| {
            Box::pin(a_taken_user_name_is_a_conflict(server))
        }),
        anywhere("of_two_who_create_one_user_one_does", |server| {
            Box::pin(of_two_who_create_one_user_one_does(server))
        }),
        anywhere("a_key_is_created_as_asked", |server| {
            Box::pin(a_key_is_created_as_asked(server))
        }),
        anywhere("a_key_with_tags_is_created_as_asked", |server| {
            Box::pin(a_key_with_tags_is_created_as_asked(server))
        }),
        anywhere("a_list_of_keys_shows_no_value", |server| {
            Box::pin(a_list_of_keys_shows_no_value(server))
        }),
        anywhere("a_key_for_an_unknown_user_is_refused", |server| {
            Box::pin(a_key_for_an_unknown_user_is_refused(server))
        }),
        anywhere("a_key_with_a_bad_tag_is_refused", |server| {
            Box::pin(a_key_with_a_bad_tag_is_refused(server))
        }),
        anywhere("a_key_is_expired_by_id_and_no_other", |server| {
            Box::pin(a_key_is_expired_by_id_and_no_other(server))
        }),
        anywhere("an_expired_key_is_expired_again", |server| {
            Box::pin(an_expired_key_is_expired_again(server))
        }),
        anywhere("an_unknown_key_counts_as_expired", |server| {
            Box::pin(an_unknown_key_counts_as_expired(server))
        }),
        anywhere("nodes_are_listed", |server| {
            Box::pin(nodes_are_listed(server))
        }),
        Case {
            name: "a_user_of_a_provider_is_told_apart",
            only: Only::Embedded("needs an identity provider"),
            run: |server| Box::pin(a_user_of_a_provider_is_told_apart(server)),
        },
        Case {
            name: "a_node_names_the_key_it_joined_with",
            only: Only::Embedded("needs a real client: the join story sees it"),
            run: |server| Box::pin(a_node_names_the_key_it_joined_with(server)),
        },
    ];
    cases.extend(raw::cases());
    cases.extend(faults::cases());
    cases
}

async fn a_new_server_lists_nothing(server: &Server) -> Result<()> {
    let client = server.client()?;
    ensure!(client.list_users().await?.is_empty(), "there are users");
    ensure!(
        client.list_pre_auth_keys().await?.is_empty(),
        "there are keys"
    );
    ensure!(client.list_nodes().await?.is_empty(), "there are nodes");
    Ok(())
}

async fn the_version_is_probed(server: &Server) -> Result<()> {
    let version = server.client()?.probe().await?;
    ensure!(version.api == server.api, "taken for {version}");
    Ok(())
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
        .create_pre_auth_key(&new_key(UserId(9999)))
        .await;
    let message = match (server.api, refused) {
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
    server.client()?.expire_pre_auth_key(KeyId(9999)).await?;
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

async fn nodes_are_listed(server: &Server) -> Result<()> {
    let client = server.client()?;
    let user = client.create_user("shop.nodes", "").await?;
    let name = "listed";
    if let Some(embedded) = &server.embedded {
        let key = client.create_pre_auth_key(&new_key(user.id)).await?;
        let node = embedded
            .join(key.value.expose(), name)
            .context("the new key is not accepted")?;
        embedded.set_online(node, false);
    } else {
        raw::register_node(server, &user.name, name).await?;
    }
    let nodes = client.list_nodes().await?;
    let node = nodes
        .iter()
        .find(|node| node.given_name == name)
        .context("is not listed")?;
    ensure!(
        node.name == name && !node.online && node.tags.is_empty(),
        "{node:?}"
    );
    Ok(())
}

async fn a_user_of_a_provider_is_told_apart(server: &Server) -> Result<()> {
    let embedded = server.embedded.as_ref().context("not our own")?;
    embedded.add_user("shop.oidc", "Somebody", "oidc");
    // Names are unique among users without a provider alone.
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

fn new_key(user: UserId) -> NewPreAuthKey {
    NewPreAuthKey {
        user,
        reusable: true,
        ephemeral: true,
        expiration: Timestamp::now() + SignedDuration::from_hours(1),
        tags: Vec::new(),
    }
}
