//! The REST routes of the embedded Headscale, one function each. I/O: axum.

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, Query, Request, State as Shared};
use axum::http::{Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::routing::{delete, get, post};
use serde::Deserialize;
use serde_json::json;

use super::body::{BodyFields, FieldKind};
use super::reply::{self, HttpReply};
use super::state::{NewKey, ServerState, StateError};
use super::{Call, Embedded, Flavour, faults, grpc, secret};

/// How a request arrived.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Over TCP, with an API key.
    Tcp,
    /// Over the Unix socket, where every client that can open it may do everything.
    Socket,
}

impl Embedded {
    /// Returns its routes, for a listener of the caller.
    pub fn router(&self) -> Router {
        let whole = api()
            .route("/version", get(version))
            .route("/health", get(health));
        finish(whole, self.clone(), Way::Tcp)
    }
}

/// Returns the routes of the Unix socket.
pub(super) fn socket_router(server: Embedded) -> Router {
    let routes = match server.shared.flavour {
        Flavour::V0_28 | Flavour::V0_29 => Router::new().route_service(
            &format!("{}{{method}}", grpc::PATH),
            grpc::service(server.clone()),
        ),
        Flavour::Main => api(),
    };
    finish(routes, server, Way::Socket)
}

fn api() -> Router<Embedded> {
    Router::new()
        .route("/api/v1/health", get(api_health))
        .route("/api/v1/openapi.yaml", get(description))
        .route("/api/v1/auth/register", get(auth_register))
        .route("/api/v1/user", get(list_users).post(create_user))
        .route("/api/v1/user/{id}", delete(delete_user))
        .route(
            "/api/v1/preauthkey",
            get(list_keys).post(create_key).delete(delete_key),
        )
        .route("/api/v1/preauthkey/expire", post(expire_key))
        .route("/api/v1/node", get(list_nodes))
        .route("/api/v1/node/{id}", delete(delete_node))
        .route("/api/v1/node/{id}/expire", post(expire_node))
        .route("/api/v1/node/{id}/rename/{name}", post(rename_node))
        .route("/api/v1/apikey", get(list_api_keys).post(create_api_key))
        .route("/api/v1/apikey/expire", post(expire_api_key))
        .fallback(no_route)
}

fn finish(routes: Router<Embedded>, server: Embedded, way: Way) -> Router {
    let gate = move |state: Shared<Embedded>, request: Request, next: Next| {
        gate(way, state, request, next)
    };
    routes
        .layer(middleware::from_fn_with_state(server.clone(), gate))
        .with_state(server)
}

/// Counts a request, applies a fault if there is one, and checks its API key.
async fn gate(
    way: Way,
    Shared(server): Shared<Embedded>,
    request: Request,
    next: Next,
) -> HttpReply {
    let path = request.uri().path();
    let call = kind(request.method(), path);
    let fault = {
        let mut inner = server.inner();
        *inner.calls.entry(call).or_default() += 1;
        inner
            .fault
            .clone()
            .filter(|(aim, _)| aim.is_none_or(|aim| aim == call))
            .map(|(_, fault)| fault)
    };
    if let Some(reply) = fault
        .as_ref()
        .and_then(|fault| faults::instead(fault, server.shared.flavour))
    {
        return reply;
    }
    faults::before(fault.as_ref()).await;
    let public = way == Way::Socket
        || !path.starts_with("/api/")
        || (server.shared.flavour == Flavour::Main && path.starts_with("/api/v1/openapi"));
    if !public && !authorized(&server, &request) {
        return reply::unauthorized(server.shared.flavour);
    }
    let reply = next.run(request).await;
    match fault {
        Some(fault) => faults::after(&fault, reply).await,
        None => reply,
    }
}

fn authorized(server: &Embedded, request: &Request) -> bool {
    let header = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok());
    let now = server.now();
    header
        .and_then(|header| header.strip_prefix("Bearer "))
        .is_some_and(|bearer| server.inner().state.authorizes(bearer, now))
}

fn kind(method: &Method, path: &str) -> Call {
    if let Some(method) = path.strip_prefix(grpc::PATH) {
        return grpc::kind(method);
    }
    match (method, path) {
        (&Method::GET, "/version") => Call::Version,
        (&Method::GET, "/api/v1/user") => Call::ListUsers,
        (&Method::POST, "/api/v1/user") => Call::CreateUser,
        (&Method::GET, "/api/v1/preauthkey") => Call::ListPreAuthKeys,
        (&Method::POST, "/api/v1/preauthkey") => Call::CreatePreAuthKey,
        (&Method::POST, "/api/v1/preauthkey/expire") => Call::ExpirePreAuthKey,
        (&Method::DELETE, "/api/v1/preauthkey") => Call::DeletePreAuthKey,
        (&Method::DELETE, path) if path.starts_with("/api/v1/user/") => Call::DeleteUser,
        (&Method::GET, "/api/v1/node") => Call::ListNodes,
        (_, path) if path.starts_with("/api/v1/node/") => Call::ChangeNode,
        (&Method::GET, "/api/v1/apikey") => Call::ListApiKeys,
        (_, path) if path.starts_with("/api/v1/apikey") => Call::ChangeApiKey,
        _ => Call::Other,
    }
}

async fn version() -> HttpReply {
    reply::done(
        &json!({"version": "dev", "commit": "unknown", "buildTime": "unknown", "dirty": false}),
    )
}

async fn health() -> HttpReply {
    reply::with(
        StatusCode::OK,
        "application/health+json; charset=utf-8",
        r#"{"status":"pass"}"#,
    )
}

async fn api_health() -> HttpReply {
    reply::done(&json!({"databaseConnectivity": true}))
}

async fn description(Shared(server): Shared<Embedded>) -> HttpReply {
    match server.shared.flavour {
        Flavour::V0_28 | Flavour::V0_29 => reply::no_route(server.shared.flavour, true),
        Flavour::Main => reply::with(
            StatusCode::OK,
            "application/openapi+yaml",
            "openapi: 3.1.0\n",
        ),
    }
}

/// Only its existence matters: 0.28 has no such path.
async fn auth_register(Shared(server): Shared<Embedded>) -> HttpReply {
    match server.shared.flavour {
        Flavour::V0_28 => reply::no_route(Flavour::V0_28, true),
        flavour @ (Flavour::V0_29 | Flavour::Main) => reply::wrong_method(flavour),
    }
}

async fn no_route(Shared(server): Shared<Embedded>, request: Request) -> HttpReply {
    reply::no_route(
        server.shared.flavour,
        request.uri().path().starts_with("/api/"),
    )
}

#[derive(Deserialize)]
struct UserFilter {
    #[serde(default)]
    name: String,
}

async fn list_users(
    Shared(server): Shared<Embedded>,
    Query(filter): Query<UserFilter>,
) -> HttpReply {
    let inner = server.inner();
    let users = inner.state.users.iter();
    let users: Vec<_> = users
        .filter(|user| filter.name.is_empty() || user.name == filter.name)
        .map(reply::user)
        .collect();
    reply::done(&json!({"users": users}))
}

async fn create_user(Shared(server): Shared<Embedded>, body: Bytes) -> HttpReply {
    const KNOWN: [(&str, FieldKind); 4] = [
        ("name", FieldKind::Text),
        ("displayName", FieldKind::Text),
        ("email", FieldKind::Text),
        ("pictureUrl", FieldKind::Text),
    ];
    let (flavour, now) = (server.shared.flavour, server.now());
    let fields = match BodyFields::read(&body, flavour, &KNOWN) {
        Ok(fields) => fields,
        Err(refusal) => return reply::refused(flavour, refusal),
    };
    let mut inner = server.inner();
    let created = inner.state.create_user(
        fields.text("name"),
        fields.text("displayName"),
        fields.text("email"),
        now,
    );
    match created {
        Ok(user) => reply::done(&json!({"user": reply::user(user)})),
        Err(problem) => reply::failed(flavour, "creating user", &problem),
    }
}

async fn delete_user(Shared(server): Shared<Embedded>, Path(id): Path<u64>) -> HttpReply {
    let flavour = server.shared.flavour;
    let all_keys = flavour.deletes_all_keys();
    match server.inner().state.delete_user(id, all_keys) {
        Ok(()) => reply::done(&json!({})),
        Err(problem) => reply::failed(flavour, "deleting user", &problem),
    }
}

async fn list_keys(Shared(server): Shared<Embedded>) -> HttpReply {
    let inner = server.inner();
    let keys: Vec<_> = inner
        .state
        .keys
        .iter()
        .map(|key| reply::key(&inner.state, key, false))
        .collect();
    reply::done(&json!({"preAuthKeys": keys}))
}

async fn create_key(Shared(server): Shared<Embedded>, body: Bytes) -> HttpReply {
    const KNOWN: [(&str, FieldKind); 5] = [
        ("user", FieldKind::Id),
        ("reusable", FieldKind::Bool),
        ("ephemeral", FieldKind::Bool),
        ("expiration", FieldKind::Time),
        ("aclTags", FieldKind::Texts),
    ];
    let (flavour, now) = (server.shared.flavour, server.now());
    let read = BodyFields::read(&body, flavour, &KNOWN)
        .and_then(|fields| Ok((fields.id("user")?, fields)));
    let (user, fields) = match read {
        Ok(read) => read,
        Err(refusal) => return reply::refused(flavour, refusal),
    };
    let new = NewKey {
        user,
        reusable: fields.flag("reusable"),
        ephemeral: fields.flag("ephemeral"),
        expiration: fields.time("expiration"),
        tags: fields.texts("aclTags"),
    };
    let mut inner = server.inner();
    let created = inner
        .state
        .create_key(new, secret("hskey-auth-"), now)
        .map(|key| key.id);
    match created {
        Ok(id) => {
            let key = inner.state.keys.iter().find(|key| key.id == id);
            reply::done(&json!({"preAuthKey": key.map(|key| reply::key(&inner.state, key, true))}))
        }
        Err(problem) => reply::failed(flavour, "creating pre-auth key", &problem),
    }
}

async fn expire_key(Shared(server): Shared<Embedded>, body: Bytes) -> HttpReply {
    let (flavour, now) = (server.shared.flavour, server.now());
    let read = BodyFields::read(&body, flavour, &[("id", FieldKind::Id)])
        .and_then(|fields| fields.id("id"));
    let id = match read {
        Ok(id) => id.unwrap_or_default(),
        Err(refusal) => return reply::refused(flavour, refusal),
    };
    match (server.inner().state.expire_key(id, now), flavour) {
        // Releases before 0.30 do not check whether the key exists.
        (Ok(()), _) | (Err(_), Flavour::V0_28 | Flavour::V0_29) => reply::done(&json!({})),
        (Err(problem), Flavour::Main) => reply::failed(flavour, "expiring pre-auth key", &problem),
    }
}

#[derive(Deserialize)]
struct KeyFilter {
    #[serde(default)]
    id: u64,
}

async fn delete_key(
    Shared(server): Shared<Embedded>,
    Query(filter): Query<KeyFilter>,
) -> HttpReply {
    match (
        server.inner().state.delete_key(filter.id),
        server.shared.flavour,
    ) {
        // The same as for its expiry.
        (Ok(()), _) | (Err(_), Flavour::V0_28 | Flavour::V0_29) => reply::done(&json!({})),
        (Err(problem), Flavour::Main) => {
            reply::failed(Flavour::Main, "deleting pre-auth key", &problem)
        }
    }
}

async fn list_nodes(Shared(server): Shared<Embedded>) -> HttpReply {
    let inner = server.inner();
    let nodes: Vec<_> = inner
        .state
        .nodes
        .iter()
        .map(|node| reply::node(&inner.state, node))
        .collect();
    reply::done(&json!({"nodes": nodes}))
}

async fn delete_node(Shared(server): Shared<Embedded>, Path(id): Path<u64>) -> HttpReply {
    match server.inner().state.delete_node(id) {
        Ok(()) => reply::done(&json!({})),
        Err(_) => reply::no_such_node(server.shared.flavour),
    }
}

async fn expire_node(Shared(server): Shared<Embedded>, Path(id): Path<u64>) -> HttpReply {
    let now = server.now();
    let mut inner = server.inner();
    let expired = inner.state.expire_node(id, now).map(|node| node.id);
    changed(&server, &inner.state, "expiring node", expired)
}

async fn rename_node(
    Shared(server): Shared<Embedded>,
    Path((id, name)): Path<(u64, String)>,
) -> HttpReply {
    let shortest = server.shared.flavour.shortest_node_name();
    let mut inner = server.inner();
    let renamed = inner
        .state
        .rename_node(id, &name, shortest)
        .map(|node| node.id);
    changed(&server, &inner.state, "renaming node", renamed)
}

fn changed(
    server: &Embedded,
    state: &ServerState,
    what: &str,
    id: Result<u64, StateError>,
) -> HttpReply {
    match id {
        Ok(id) => {
            let node = state.nodes.iter().find(|node| node.id == id);
            reply::done(&json!({"node": node.map(|node| reply::node(state, node))}))
        }
        Err(problem) => reply::failed(server.shared.flavour, what, &problem),
    }
}

async fn list_api_keys(Shared(server): Shared<Embedded>) -> HttpReply {
    let inner = server.inner();
    let keys: Vec<_> = inner.state.api_keys.iter().map(reply::api_key).collect();
    reply::done(&json!({"apiKeys": keys}))
}

async fn create_api_key(Shared(server): Shared<Embedded>, body: Bytes) -> HttpReply {
    let (flavour, now) = (server.shared.flavour, server.now());
    match BodyFields::read(&body, flavour, &[("expiration", FieldKind::Time)]) {
        Ok(fields) => {
            let key = server.inner().state.add_api_key(
                secret("hskey-api-"),
                now,
                fields.time("expiration"),
            );
            reply::done(&json!({"apiKey": key.expose()}))
        }
        Err(refusal) => reply::refused(flavour, refusal),
    }
}

async fn expire_api_key(Shared(server): Shared<Embedded>, body: Bytes) -> HttpReply {
    let (flavour, now) = (server.shared.flavour, server.now());
    let read = BodyFields::read(
        &body,
        flavour,
        &[("id", FieldKind::Id), ("prefix", FieldKind::Text)],
    )
    .and_then(|fields| Ok((fields.id("id")?, fields)));
    let (id, fields) = match read {
        Ok(read) => read,
        Err(refusal) => return reply::refused(flavour, refusal),
    };
    let prefix = Some(fields.text("prefix")).filter(|prefix| !prefix.is_empty());
    match server.inner().state.expire_api_key(id, prefix, now) {
        Ok(()) => reply::done(&json!({})),
        Err(problem) => reply::failed(flavour, "getting api key", &problem),
    }
}
