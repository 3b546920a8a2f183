//! Answers in each release's form: the gateway's errors, 0.30's problem documents, objects as JSON. Pure.

use axum::body::Body;
use axum::http::{Response, StatusCode, header};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::Flavour;
use super::body::BodyRefusal;
use super::state::{ServerState, StateError, StoredApiKey, StoredKey, StoredNode, StoredUser};

/// The answer to a request.
pub(super) type HttpReply = Response<Body>;

/// Year 1, the value of a time that was not given.
const NO_TIME: &str = "0001-01-01T00:00:00Z";

/// Returns 200 and JSON.
pub(super) fn done(value: &Value) -> HttpReply {
    with(StatusCode::OK, "application/json", value.to_string())
}

/// Returns an answer of any kind.
pub(super) fn with(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Body>,
) -> HttpReply {
    let mut reply = Response::new(body.into());
    *reply.status_mut() = status;
    reply.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static(content_type),
    );
    reply
}

/// Answers a request with no API key, or an invalid one.
pub(super) fn unauthorized(flavour: Flavour) -> HttpReply {
    match flavour {
        Flavour::V0_28 | Flavour::V0_29 => with(
            StatusCode::UNAUTHORIZED,
            "text/plain; charset=utf-8",
            "Unauthorized",
        ),
        Flavour::Main => problem(StatusCode::UNAUTHORIZED, "Unauthorized", None),
    }
}

/// Answers a path that no release has.
pub(super) fn no_route(flavour: Flavour, api: bool) -> HttpReply {
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

/// Answers an unusable body.
pub(super) fn refused(flavour: Flavour, refusal: BodyRefusal) -> HttpReply {
    match (flavour, refusal) {
        (Flavour::V0_28 | Flavour::V0_29, BodyRefusal::Malformed(message)) => {
            gateway(StatusCode::BAD_REQUEST, 3, &message)
        }
        (Flavour::Main, BodyRefusal::Malformed(message)) => {
            problem(StatusCode::BAD_REQUEST, &message, None)
        }
        (
            _,
            BodyRefusal::Invalid {
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

/// Answers a valid request that failed.
pub(super) fn failed(flavour: Flavour, what: &str, failure: &StateError) -> HttpReply {
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

/// The codes of gRPC, and of the gateway before it, and the texts that all releases share.
const INVALID: u8 = 3;
const UNKNOWN: u8 = 2;
const INTERNAL: u8 = 13;

/// Returns gRPC's code and text.
pub(super) fn code(failure: &StateError) -> (u8, &'static str) {
    match failure {
        StateError::BadTag(text) => (INVALID, text),
        StateError::NoApiKeyNamed => (INVALID, "want an id or a prefix, and not both"),
        StateError::BadNodeName => (UNKNOWN, "not a DNS label"),
        StateError::UnknownApiKey => (UNKNOWN, "record not found"),
        StateError::UnknownKey => (UNKNOWN, "no such auth-key"),
        StateError::UnknownNode => (UNKNOWN, "node no longer exists in the store"),
        StateError::UnknownUser => (UNKNOWN, "user not found"),
        StateError::Unowned => (UNKNOWN, "a key needs a tag or a user"),
        StateError::NodeNameTaken => (UNKNOWN, "node name is not unique"),
        StateError::UserNotEmpty => (UNKNOWN, "user not empty"),
        StateError::UserNameTaken => (INTERNAL, "UNIQUE constraint failed: users.name"),
    }
}

/// Returns 0.30's status.
fn status(failure: &StateError) -> StatusCode {
    match failure {
        StateError::BadTag(_)
        | StateError::NoApiKeyNamed
        | StateError::BadNodeName
        | StateError::Unowned
        | StateError::NodeNameTaken
        | StateError::UserNotEmpty => StatusCode::BAD_REQUEST,
        StateError::UnknownApiKey
        | StateError::UnknownKey
        | StateError::UnknownNode
        | StateError::UnknownUser => StatusCode::NOT_FOUND,
        StateError::UserNameTaken => StatusCode::CONFLICT,
    }
}

/// Answers a known path with the wrong method.
pub(super) fn wrong_method(flavour: Flavour) -> HttpReply {
    match flavour {
        Flavour::V0_28 | Flavour::V0_29 => {
            gateway(StatusCode::NOT_IMPLEMENTED, 12, "Method Not Allowed")
        }
        Flavour::Main => with(StatusCode::METHOD_NOT_ALLOWED, "text/plain", ""),
    }
}

/// Answers the deletion of a missing node: 404 in every release.
pub(super) fn no_such_node(flavour: Flavour) -> HttpReply {
    match flavour {
        Flavour::V0_28 | Flavour::V0_29 => gateway(StatusCode::NOT_FOUND, 5, "node not found"),
        Flavour::Main => problem(StatusCode::NOT_FOUND, "node not found", None),
    }
}

pub(super) fn user(user: &StoredUser) -> Value {
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

/// Returns a key as JSON; its complete value is shown only at its creation.
pub(super) fn key(state: &ServerState, key: &StoredKey, whole: bool) -> Value {
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

pub(super) fn api_key(key: &StoredApiKey) -> Value {
    json!({
        "id": key.id.to_string(),
        "prefix": key.shown(),
        "expiration": time(key.expiration),
        "createdAt": key.created_at,
        "lastSeen": null,
    })
}

pub(super) fn node(state: &ServerState, node: &StoredNode) -> Value {
    let joined_with = state.keys.iter().find(|key| Some(key.id) == node.key);
    let owner = state.users.iter().find(|user| Some(user.id) == node.user);
    // The list shows a built-in user where the node belongs to its tags.
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

fn gateway(status: StatusCode, code: u8, message: &str) -> HttpReply {
    with(
        status,
        "application/json",
        json!({"code": code, "message": message, "details": []}).to_string(),
    )
}

fn problem(status: StatusCode, detail: &str, error: Option<Value>) -> HttpReply {
    let mut body = json!({
        "title": status.canonical_reason(), "status": status.as_u16(), "detail": detail,
    });
    if let Some(error) = error {
        body["errors"] = json!([error]);
    }
    with(status, "application/problem+json", body.to_string())
}
