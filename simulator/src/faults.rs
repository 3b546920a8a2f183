//! Intended faults between the embedded Headscale and its client. I/O: waits.

use std::io;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::{HeaderValue, StatusCode, header};
use futures::{StreamExt as _, stream};
use serde_json::Value;

use super::reply::{self, HttpReply};
use super::{Fault, Flavour};

/// Maximum size of an answer that a fault changes.
const LIMIT: usize = 64 << 20;

/// A page of a login proxy.
const PAGE: &str =
    "<!DOCTYPE html><html><head><title>Sign in</title></head><body>Sign in</body></html>";

/// Returns the answer that replaces the request.
pub(super) fn instead(fault: &Fault, flavour: Flavour) -> Option<HttpReply> {
    match fault {
        Fault::Html => Some(reply::with(
            StatusCode::OK,
            "text/html; charset=utf-8",
            PAGE,
        )),
        Fault::Redirect => {
            let mut reply = reply::with(StatusCode::FOUND, "text/html; charset=utf-8", "");
            let to = HeaderValue::from_static("https://login.example.com/start?next=secret");
            reply.headers_mut().insert(header::LOCATION, to);
            Some(reply)
        }
        Fault::Unauthorized => Some(reply::unauthorized(flavour)),
        Fault::Status(status) => {
            let status = StatusCode::from_u16(*status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            Some(reply::with(status, "text/html; charset=utf-8", PAGE))
        }
        Fault::Slow(_) | Fault::CutBody | Fault::Endless | Fault::Field(..) => None,
    }
}

/// Waits before a request is done.
pub(super) async fn before(fault: Option<&Fault>) {
    if let Some(Fault::Slow(wait)) = fault {
        tokio::time::sleep(*wait).await;
    }
}

/// Damages the answer to a request that was done.
pub(super) async fn after(fault: &Fault, reply: HttpReply) -> HttpReply {
    match fault {
        Fault::CutBody => {
            let (mut parts, body) = reply.into_parts();
            parts.headers.remove(header::CONTENT_LENGTH);
            // A refusal by gRPC is only in the headers.
            parts.headers.remove("grpc-status");
            let whole = to_bytes(body, LIMIT).await.unwrap_or_default();
            let half = whole.slice(..whole.len() / 2);
            // The server writes what it has before it waits, so the client sees the first half.
            let broken = async {
                tokio::time::sleep(Duration::from_millis(100)).await;
                Err(io::Error::from(io::ErrorKind::ConnectionReset))
            };
            let half = stream::once(async { Ok(half) }).chain(stream::once(broken));
            HttpReply::from_parts(parts, Body::from_stream(half))
        }
        Fault::Endless => {
            let (mut parts, _) = reply.into_parts();
            parts.headers.remove(header::CONTENT_LENGTH);
            let grpc = parts
                .headers
                .get(header::CONTENT_TYPE)
                .is_some_and(|kind| kind == "application/grpc");
            // For gRPC, an uncompressed message of two gigabytes; for JSON, only spaces.
            let head = if grpc {
                &[0, 0x7f, 0xff, 0xff, 0xff][..]
            } else {
                &[]
            };
            let head = stream::once(async move { Ok(axum::body::Bytes::from_static(head)) });
            let spaces = stream::repeat_with(|| {
                Ok::<_, io::Error>(axum::body::Bytes::from_static(&[b' '; 1 << 16]))
            });
            HttpReply::from_parts(parts, Body::from_stream(head.chain(spaces)))
        }
        Fault::Field(pointer, value) => {
            let (mut parts, body) = reply.into_parts();
            parts.headers.remove(header::CONTENT_LENGTH);
            let whole = to_bytes(body, LIMIT).await.unwrap_or_default();
            let mut json: Value = serde_json::from_slice(&whole).unwrap_or_default();
            replace(&mut json, pointer, value.as_ref());
            HttpReply::from_parts(parts, Body::from(json.to_string()))
        }
        Fault::Html | Fault::Redirect | Fault::Unauthorized | Fault::Status(_) | Fault::Slow(_) => {
            reply
        }
    }
}

/// Sets the value at a JSON pointer, or removes it.
fn replace(json: &mut Value, pointer: &str, value: Option<&Value>) {
    let (parent, name) = pointer.rsplit_once('/').unwrap_or(("", pointer));
    if let Some(Value::Object(fields)) = json.pointer_mut(parent) {
        match value {
            Some(value) => fields.insert(name.to_owned(), value.clone()),
            None => fields.remove(name),
        };
    }
}
