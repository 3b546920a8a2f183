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
/// Is the most room that is made for bytes that are declared and did not come yet: most reviews fit in.
const AHEAD: usize = 64 * KIB;
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
///
/// Only bytes that came count: a length that is merely declared costs its sender nothing. One connection may hold it all:
/// an API server sends every review over one, and whoever means harm opens as many as it likes.
#[derive(Clone, Debug)]
pub(super) struct Budget(Arc<Semaphore>);

impl Default for Budget {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(BUDGET_KIB)))
    }
}

impl Budget {
    /// Takes nothing yet.
    fn nothing(&self) -> Result<OwnedSemaphorePermit, Rejection> {
        self.take(0)
    }

    /// Takes what is still missing for a body of which `bytes` are there.
    fn grow(&self, permit: &mut OwnedSemaphorePermit, bytes: usize) -> Result<(), Rejection> {
        let missing = bytes.div_ceil(KIB).saturating_sub(permit.num_permits());
        permit.merge(self.take(missing)?);
        Ok(())
    }

    fn take(&self, kib: usize) -> Result<OwnedSemaphorePermit, Rejection> {
        let kib = u32::try_from(kib).map_err(|_| Rejection::TooLarge)?;
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
    let expected = usize::try_from(hint.upper().unwrap_or(AHEAD as u64)).unwrap_or(usize::MAX);
    if expected > MAX_BODY {
        discard(body).await;
        return Err(Rejection::TooLarge);
    }
    let mut permit = budget.nothing()?;
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
        budget.grow(&mut permit, length)?;
        if first.is_empty() {
            first = data;
            continue;
        }
        if rest.is_empty() {
            rest.reserve(expected.min(AHEAD).max(length));
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

#[cfg(test)]
mod tests {
    use super::*;
    use futures::{StreamExt, stream};

    /// A body that comes in `frames` of 1 KiB, and then stalls or ends.
    fn body(frames: usize, stalls: bool) -> Body {
        let frame = || Ok::<_, std::io::Error>(Bytes::from_static(&[b' '; KIB]));
        let frames = stream::iter((0..frames).map(move |_| frame()));
        if stalls {
            Body::from_stream(frames.chain(stream::pending()))
        } else {
            Body::from_stream(frames)
        }
    }

    #[tokio::test]
    async fn only_what_came_counts() {
        let budget = Budget(Arc::new(Semaphore::new(16)));
        let stalled =
            tokio::time::timeout(Duration::from_millis(50), read(body(10, true), &budget));
        tokio::pin!(stalled);
        assert!(futures::poll!(stalled.as_mut()).is_pending());
        assert_eq!(budget.0.available_permits(), 6);
        let (bytes, permit) = read(body(6, false), &budget).await.unwrap();
        assert_eq!((bytes.len(), budget.0.available_permits()), (6 * KIB, 0));
        drop(permit);
        let refused = read(body(7, false), &budget).await;
        assert!(matches!(refused, Err(Rejection::Busy)), "{refused:?}");
        // Whoever is turned away leaves nothing behind, and so does whoever came too late.
        assert_eq!(budget.0.available_permits(), 6);
        assert!(stalled.await.is_err());
    }
}
