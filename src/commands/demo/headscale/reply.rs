//! Answers in each release's form: the gateway's errors, 0.30's problem documents, objects as JSON. Pure.

use axum::body::Body;
use axum::http::{Response, StatusCode, header};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::Flavour;
use super::body::Refusal;
use super::state::{ApiKey, Key, Node, Problem, State, User};

/// What a request is answered with.
pub(super) type Reply = Response<Body>;

/// Year 1, which is what a time that was not given becomes.
const NO_TIME: &str = "0001-01-01T00:00:00Z";

/// 200 and JSON.
pub(super) fn done(value: &Value) -> Reply {
    with(StatusCode::OK, "application/json", value.to_string())
}

/// An answer of any kind.
pub(super) fn with(status: StatusCode, content_type: &'static str, body: impl Into<Body>) -> Reply {
    let mut reply = Response::new(body.into());
    *reply.status_mut() = status;
    reply.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static(content_type),
    );
    reply
}

/// No key, or none that counts.
pub(super) fn unauthorized(flavour: Flavour) -> Reply {
    match flavour {
        Flavour::V0_28 | Flavour::V0_29 => with(
            StatusCode::UNAUTHORIZED,
            "text/plain; charset=utf-8",
            "Unauthorized",
        ),
        Flavour::Main => problem(StatusCode::UNAUTHORIZED, "Unauthorized", None),
    }
}

/// A path that no release has.
pub(super) fn no_route(flavour: Flavour, api: bool) -> Reply {
    match flavour {
        Flavour::V0_28 if !api => with(
            StatusCode::OK,
            "text/html; charset=utf-8",
            "<!DOCTYPE html><html><body></body></html>",
        ),
        Flavour::V0_28 | Flavour::V0_29 if api => gateway(StatusCode::NOT_FOUND, 5, "Not Found"),
        Flavour::V0_28 | Flavour::V0_29 | Flavour::Main => with(
            StatusCode::NOT_FOUND,
            "text/plain; charset=utf-8",
            "404 page not found\n",
        ),
    }
}

/// A body that cannot be used.
pub(super) fn refused(flavour: Flavour, refusal: Refusal) -> Reply {
    match (flavour, refusal) {
        (Flavour::V0_28 | Flavour::V0_29, Refusal::Malformed(message)) => {
            gateway(StatusCode::BAD_REQUEST, 3, &message)
        }
        (Flavour::Main, Refusal::Malformed(message)) => {
            problem(StatusCode::BAD_REQUEST, &message, None)
        }
        (
            _,
            Refusal::Invalid {
                message,
                location,
                value,
            },
        ) => {
            let error = json!({"message": message, "location": location, "value": value});
            problem(
                StatusCode::UNPROCESSABLE_ENTITY,
                "validation failed",
                Some(error),
            )
        }
    }
}

/// A request that was understood and is not done.
pub(super) fn failed(flavour: Flavour, what: &str, failure: &Problem) -> Reply {
    let (code, text) = code(failure);
    match flavour {
        Flavour::V0_28 | Flavour::V0_29 => {
            let status = match code {
                INVALID => StatusCode::BAD_REQUEST,
                _ => StatusCode::INTERNAL_SERVER_ERROR,
            };
            gateway(status, code, text)
        }
        Flavour::Main => problem(status(failure), what, Some(json!({"message": text}))),
    }
}

/// The codes that gRPC, and the gateway before it, answer with, and the words that all releases have.
const INVALID: u8 = 3;
const UNKNOWN: u8 = 2;
const INTERNAL: u8 = 13;

/// How gRPC says it.
pub(super) fn code(failure: &Problem) -> (u8, &'static str) {
    match failure {
        Problem::BadTag(text) => (INVALID, text),
        Problem::NoApiKeyNamed => (INVALID, "want an id or a prefix, and not both"),
        Problem::BadNodeName => (UNKNOWN, "not a DNS label"),
        Problem::UnknownApiKey => (UNKNOWN, "record not found"),
        Problem::UnknownKey => (UNKNOWN, "no such auth-key"),
        Problem::UnknownNode => (UNKNOWN, "node no longer exists in the store"),
        Problem::UnknownUser => (UNKNOWN, "user not found"),
        Problem::Unowned => (UNKNOWN, "a key needs a tag or a user"),
        Problem::NodeNameTaken => (UNKNOWN, "node name is not unique"),
        Problem::UserNotEmpty => (UNKNOWN, "user not empty"),
        Problem::UserNameTaken => (INTERNAL, "UNIQUE constraint failed: users.name"),
    }
}

/// How 0.30 says it.
fn status(failure: &Problem) -> StatusCode {
    match failure {
        Problem::BadTag(_)
        | Problem::NoApiKeyNamed
        | Problem::BadNodeName
        | Problem::Unowned
        | Problem::NodeNameTaken
        | Problem::UserNotEmpty => StatusCode::BAD_REQUEST,
        Problem::UnknownApiKey
        | Problem::UnknownKey
        | Problem::UnknownNode
        | Problem::UnknownUser => StatusCode::NOT_FOUND,
        Problem::UserNameTaken => StatusCode::CONFLICT,
    }
}

/// A path that this release knows, asked with another method.
pub(super) fn wrong_method(flavour: Flavour) -> Reply {
    match flavour {
        Flavour::V0_28 | Flavour::V0_29 => {
            gateway(StatusCode::NOT_IMPLEMENTED, 12, "Method Not Allowed")
        }
        Flavour::Main => with(StatusCode::METHOD_NOT_ALLOWED, "text/plain", ""),
    }
}

/// A node that is not there when it is deleted: 404 in every release.
pub(super) fn no_such_node(flavour: Flavour) -> Reply {
    match flavour {
        Flavour::V0_28 | Flavour::V0_29 => gateway(StatusCode::NOT_FOUND, 5, "node not found"),
        Flavour::Main => problem(StatusCode::NOT_FOUND, "node not found", None),
    }
}

pub(super) fn user(user: &User) -> Value {
    json!({
        "id": user.id.to_string(),
        "name": user.name,
        "createdAt": user.created_at,
        "displayName": user.display_name,
        "email": user.email,
        "providerId": user.provider_id(),
        "provider": user.provider,
        "profilePicUrl": "",
    })
}

/// A key; its whole value is shown by its creation alone.
pub(super) fn key(state: &State, key: &Key, whole: bool) -> Value {
    let owner = state.users.iter().find(|user| Some(user.id) == key.user);
    json!({
        "user": owner.map(user),
        "id": key.id.to_string(),
        "key": key.shown(whole),
        "reusable": key.reusable,
        "ephemeral": key.ephemeral,
        "used": key.used,
        "expiration": time(key.expiration),
        "createdAt": key.created_at,
        "aclTags": key.tags,
    })
}

pub(super) fn api_key(key: &ApiKey) -> Value {
    json!({
        "id": key.id.to_string(),
        "prefix": key.shown(),
        "expiration": time(key.expiration),
        "createdAt": key.created_at,
        "lastSeen": null,
    })
}

pub(super) fn node(state: &State, node: &Node) -> Value {
    let joined_with = state.keys.iter().find(|key| Some(key.id) == node.key);
    let owner = state.users.iter().find(|user| Some(user.id) == node.user);
    // The list shows a user that nobody made where the node belongs to its tags.
    let owner = if node.tags.is_empty() {
        owner.map(user)
    } else {
        Some(
            json!({"id": "2147455555", "name": "tagged-devices", "displayName": "", "provider": ""}),
        )
    };
    json!({
        "id": node.id.to_string(),
        "machineKey": format!("mkey:{:064x}", node.id),
        "nodeKey": format!("nodekey:{:064x}", node.id),
        "discoKey": format!("discokey:{:064x}", node.id),
        "ipAddresses": [format!("100.64.{}.{}", node.id / 256, node.id % 256)],
        "name": node.name,
        "user": owner,
        "lastSeen": node.last_seen,
        "expiry": node.expiry,
        "preAuthKey": joined_with.map(|joined| key(state, joined, false)),
        "createdAt": node.created_at,
        "registerMethod": "REGISTER_METHOD_AUTH_KEY",
        "givenName": node.given_name,
        "online": node.online,
        "approvedRoutes": [],
        "availableRoutes": [],
        "subnetRoutes": [],
        "tags": node.tags,
    })
}

fn time(time: Option<Timestamp>) -> String {
    time.map_or_else(|| NO_TIME.to_owned(), |time| time.to_string())
}

fn gateway(status: StatusCode, code: u8, message: &str) -> Reply {
    with(
        status,
        "application/json",
        json!({"code": code, "message": message, "details": []}).to_string(),
    )
}

fn problem(status: StatusCode, detail: &str, error: Option<Value>) -> Reply {
    let mut body = json!({
        "title": status.canonical_reason(), "status": status.as_u16(), "detail": detail,
    });
    if let Some(error) = error {
        body["errors"] = json!([error]);
    }
    with(status, "application/problem+json", body.to_string())
}
