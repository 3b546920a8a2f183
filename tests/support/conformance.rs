//! The behaviour of every Headscale, embedded and real: one named function per call and per error.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use reqwest::{Method, StatusCode};
use serde_json::Value;
use sidescale_control_plane::{Api, ApiKeyClient, Client, Endpoint, Version};
use sidescale_core::id::UserId;
use sidescale_core::key_value::KeyValue;
use sidescale_core::objects::NewPreAuthKey;
use sidescale_core::release::HeadscaleRelease;
use sidescale_simulator::Embedded;

#[path = "conformance_api_keys.rs"]
mod api_keys;
#[path = "conformance_faults.rs"]
mod faults;
#[path = "conformance_keys.rs"]
mod keys;
#[path = "conformance_nodes.rs"]
mod nodes;
#[path = "conformance_raw.rs"]
mod raw;
#[path = "conformance_table.rs"]
pub(crate) mod table;
#[path = "conformance_users.rs"]
mod users;

pub(crate) use table::{Cell, Column, print};

/// A server under test.
pub(crate) struct Server {
    /// Header of its column, such as `0.29.2 https`.
    pub(crate) name: String,
    /// Its URL.
    pub(crate) url: String,
    /// An API key that it accepts.
    pub(crate) api_key: KeyValue,
    /// PEM of its private authority, if it speaks HTTPS.
    pub(crate) ca_bundle: Option<String>,
    /// Its Unix socket, if the client of API keys is to use that.
    pub(crate) socket: Option<PathBuf>,
    /// The release that our client should detect.
    pub(crate) release: HeadscaleRelease,
    /// The embedded Headscale, which can inject faults.
    pub(crate) embedded: Option<Embedded>,
    /// Stored, because each new client reads the machine's authorities.
    clients: OnceLock<Clients>,
}

struct Clients {
    /// Over TCP.
    control_plane: Client,
    /// On the socket, if there is one.
    api_keys: ApiKeyClient,
    /// For requests by hand.
    raw: reqwest::Client,
}

/// Servers on which a case runs.
#[derive(Clone, Copy)]
enum Only {
    Anywhere,
    /// Only on the embedded one, for this reason.
    Embedded(&'static str),
    /// Only on the embedded one over TCP, for this reason.
    EmbeddedTcp(&'static str),
    /// Only over TCP, for this reason.
    Tcp(&'static str),
    /// Only on a Unix socket.
    Socket,
    /// Only over HTTPS.
    Https,
}

/// Reason why a socket is skipped in a case of users, pre-auth keys or nodes.
const NOT_ON_SOCKET: Only = Only::Tcp("only API keys are managed on a socket");

/// Reason why a hand-written request is not sent to a socket.
const BY_HAND: Only = Only::Tcp("a request by hand: the column over TCP has it");

/// Reason why a socket is skipped in a case of API keys.
const KEYLESS: Only = Only::Tcp("a socket asks for no API key");

/// A test: its name is a sentence.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    only: Only,
    run: Run,
}

impl Server {
    pub(crate) fn new(
        name: String,
        url: String,
        api_key: KeyValue,
        ca_bundle: Option<String>,
        release: HeadscaleRelease,
        embedded: Option<Embedded>,
    ) -> Self {
        Self {
            name,
            url,
            api_key,
            ca_bundle,
            socket: None,
            release,
            embedded,
            clients: OnceLock::new(),
        }
    }

    /// Has the client of API keys use this Unix socket; results are also checked over TCP.
    pub(crate) fn on_socket(self, socket: PathBuf) -> Self {
        let socket = Some(socket);
        Self { socket, ..self }
    }

    /// Creates the clients, once: each new one reads the machine's authorities.
    async fn connect(&self) -> Result<()> {
        let api_keys = match &self.socket {
            Some(socket) => ApiKeyClient::on_socket(socket).await?,
            None => ApiKeyClient::new(self.endpoint())?,
        };
        let mut raw = reqwest::Client::builder().no_proxy();
        if let Some(pem) = &self.ca_bundle {
            raw = raw.tls_certs_only(reqwest::Certificate::from_pem_bundle(pem.as_bytes())?);
        }
        let _ = self.clients.set(Clients {
            control_plane: Client::new(self.endpoint())?,
            api_keys,
            raw: raw.build()?,
        });
        Ok(())
    }

    fn clients(&self) -> Result<&Clients> {
        self.clients.get().context("not connected")
    }

    /// Returns why a case is skipped here.
    fn skips(&self, only: Only) -> Option<&'static str> {
        let skip = |when: bool, reason| when.then_some(reason);
        match only {
            Only::Anywhere => None,
            Only::Embedded(reason) => skip(self.embedded.is_none(), reason),
            Only::EmbeddedTcp(reason) => {
                skip(self.embedded.is_none() || self.socket.is_some(), reason)
            }
            Only::Tcp(reason) => skip(self.socket.is_some(), reason),
            Only::Socket => skip(self.socket.is_none(), "no socket"),
            Only::Https => skip(self.ca_bundle.is_none(), "no TLS"),
        }
    }

    /// Returns whether the client of API keys speaks gRPC to it.
    fn speaks_grpc(&self) -> bool {
        self.socket.is_some() && self.api() == Api::Gateway
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

    fn client(&self) -> Result<Client> {
        Ok(self.clients()?.control_plane.clone())
    }

    fn api_keys(&self) -> Result<ApiKeyClient> {
        Ok(self.clients()?.api_keys.clone())
    }

    fn client_with_key(&self, key: &str) -> Result<Client> {
        let api_key = KeyValue::new(key.to_owned());
        Ok(Client::new(Endpoint {
            api_key,
            ..self.endpoint()
        })?)
    }

    /// Makes a call that our client would not make, or not like this.
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
        let client = &self.clients()?.raw;
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

    fn version(&self) -> Version {
        Version {
            text: "dev".to_owned(),
            release: self.release,
        }
    }

    fn api(&self) -> Api {
        self.version().api()
    }

    /// Returns the first for 0.28 and 0.29, the second for 0.30.
    fn pick<T>(&self, gateway: T, problem: T) -> T {
        match self.api() {
            Api::Gateway => gateway,
            Api::Problem => problem,
        }
    }
}

/// Runs every case that applies to the server, one after the other: some count objects.
pub(crate) async fn run(server: &Server) -> Column {
    let connected = server.connect().await;
    let mut cells = Vec::new();
    for case in cases() {
        let cell = match (server.skips(case.only), &connected) {
            (Some(reason), _) => Cell::Skipped(reason),
            (None, Err(error)) => Cell::Failed(format!("{error:#}")),
            (None, Ok(())) => {
                match tokio::time::timeout(Duration::from_secs(120), (case.run)(server)).await {
                    Ok(Ok(())) => Cell::Passed,
                    Ok(Err(error)) => Cell::Failed(format!("{error:#}")),
                    Err(_) => Cell::Failed("did not end within two minutes".to_owned()),
                }
            }
        };
        cells.push((case.name, cell));
    }
    Column {
        server: server.name.clone(),
        cells,
    }
}

/// Function that runs a case.
type Run = for<'a> fn(&'a Server) -> BoxFuture<'a, Result<()>>;

/// Returns a case for every server.
fn anywhere(name: &'static str, run: Run) -> Case {
    case(Only::Anywhere, name, run)
}

/// Returns a case of users, pre-auth keys or nodes.
fn over_tcp(name: &'static str, run: Run) -> Case {
    case(NOT_ON_SOCKET, name, run)
}

/// Returns a case for some servers.
fn case(only: Only, name: &'static str, run: Run) -> Case {
    Case { name, only, run }
}

fn cases() -> Vec<Case> {
    let mut cases = vec![
        over_tcp("a_new_server_lists_nothing", |server| {
            Box::pin(a_new_server_lists_nothing(server))
        }),
        over_tcp("the_version_is_probed", |server| {
            Box::pin(the_version_is_probed(server))
        }),
        case(
            Only::Socket,
            "a_socket_speaks_as_its_release_does",
            |server| Box::pin(a_socket_speaks_as_its_release_does(server)),
        ),
    ];
    for more in [
        users::cases(),
        keys::cases(),
        nodes::cases(),
        api_keys::cases(),
        raw::cases(),
        faults::cases(),
    ] {
        cases.extend(more);
    }
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

async fn a_socket_speaks_as_its_release_does(server: &Server) -> Result<()> {
    let client = server.api_keys()?;
    let grpc = match &client {
        ApiKeyClient::Grpc(_) => true,
        ApiKeyClient::Rest(_) => false,
    };
    ensure!(grpc == server.speaks_grpc(), "took {client:?}");
    Ok(())
}

async fn the_version_is_probed(server: &Server) -> Result<()> {
    let version = server.client()?.probe().await?;
    ensure!(version.release == server.release, "taken for {version}");
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
