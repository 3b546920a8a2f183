//! Reads a request's body within limits. I/O.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Is the largest review that is read: the API server takes objects of 3 MiB, and a review may hold two.
pub const MAX_BODY: usize = 8 << 20;

/// Is how long a body that is too large is read on, so that its sender gets to see the answer.
const DISCARD_TIME: Duration = Duration::from_secs(3);

const KIB: usize = 1 << 10;
/// Bounds the memory of all bodies at once.
const BUDGET_KIB: usize = 8 * MAX_BODY / KIB;

/// Says why a body was not read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Rejection {
    #[error(
        "the request's body is larger than {MAX_BODY} bytes, the most that is read: make the pod smaller, its annotations first"
    )]
    TooLarge,
    #[error("too many large requests at once: try again in a second")]
    Busy,
    #[error("the request's body ended early: send as many bytes as its Content-Length says")]
    Broken,
}

impl Rejection {
    /// Names the kind for the metric.
    pub(super) fn as_str(&self) -> &'static str {
        match self {
            Self::TooLarge => "too_large",
            Self::Busy => "busy",
            Self::Broken => "broken_body",
        }
    }
}

impl IntoResponse for Rejection {
    fn into_response(self) -> Response {
        let text = self.to_string();
        match self {
            Self::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, text).into_response(),
            // The API server tries again on 503 with Retry-After, within its own deadline.
            Self::Busy => (
                StatusCode::SERVICE_UNAVAILABLE,
                [(header::RETRY_AFTER, "1")],
                text,
            )
                .into_response(),
            Self::Broken => (StatusCode::BAD_REQUEST, text).into_response(),
        }
    }
}

/// Bounds the memory that bodies take together; a permit is held until the answer is made.
#[derive(Clone, Debug)]
pub(super) struct Budget(Arc<Semaphore>);

impl Default for Budget {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(BUDGET_KIB)))
    }
}

impl Budget {
    fn reserve(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Rejection> {
        let kib = u32::try_from(bytes / KIB + 1).map_err(|_| Rejection::TooLarge)?;
        Arc::clone(&self.0)
            .try_acquire_many_owned(kib)
            .map_err(|_| Rejection::Busy)
    }
}

/// Reads the whole body, at most [`MAX_BODY`] bytes.
pub(super) async fn read(
    mut body: Body,
    budget: &Budget,
) -> Result<(Bytes, OwnedSemaphorePermit), Rejection> {
    let hint = body.size_hint();
    let expected = usize::try_from(hint.upper().unwrap_or(MAX_BODY as u64)).unwrap_or(usize::MAX);
    if expected > MAX_BODY {
        discard(body).await;
        return Err(Rejection::TooLarge);
    }
    let permit = budget.reserve(expected)?;
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| Rejection::Broken)?.into_data() else {
            continue;
        };
        length += data.len();
        if length > MAX_BODY {
            discard(body).await;
            return Err(Rejection::TooLarge);
        }
        if first.is_empty() {
            first = data;
            continue;
        }
        if rest.is_empty() {
            rest.reserve(expected.min(MAX_BODY).max(first.len() + data.len()));
            rest.extend_from_slice(&first);
        }
        rest.extend_from_slice(&data);
    }
    Ok((
        if rest.is_empty() {
            first
        } else {
            rest.freeze()
        },
        permit,
    ))
}

/// Reads and drops what still comes: a socket closed under unread bytes is reset, and the sender never sees the answer.
async fn discard(mut body: Body) {
    let mut left = 2 * MAX_BODY;
    let _ = tokio::time::timeout(DISCARD_TIME, async {
        while let Some(Ok(frame)) = body.frame().await {
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
            if left == 0 {
                return;
            }
        }
    })
    .await;
}
