//! Reads a request's body within limits. I/O.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body_util::BodyExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

/// Maximum size of a review: the API server takes objects of 3 MiB, and a review may hold two.
pub const MAX_BODY: usize = 8 << 20;

/// How long to read on from a body that is too large, so that its sender sees the answer.
const DISCARD_TIME: Duration = Duration::from_secs(3);

const KIB: usize = 1 << 10;
/// Maximum size of a body that draws from the reserve of small ones: nearly every review fits.
const SMALL: usize = 64 * KIB;

/// Maximum memory while a body is answered, itself included, as a multiple of its size, plus some. `tests/memory`
/// verifies it.
const MULTIPLE: usize = 4;
const MORE: usize = 256 * KIB;

/// Limit of large bodies and their answers together.
///
/// The chart's limit is 256 MiB. A leader takes up to 128 MiB at its start, and small bodies take 24 MiB. Of the
/// remaining 104, large bodies get 64: two of 8 MiB at once (8 x 4 MiB + 256 KiB each) would take 64.5, so one is
/// answered while others are still arriving, or a dozen of 1 MiB. The last 40 MiB are for connections, and for memory
/// that the allocator does not return.
const LARGE_KIB: usize = 64 * KIB;
/// Limit of small bodies together. The memory of their answers is limited by the number of threads: each is answered
/// without a pause, within 4 x 64 + 256 KiB.
const SMALL_KIB: usize = 24 * KIB;
/// How many large bodies are answered at once: small ones must not wait for a processor.
const TURNS: usize = 2;

/// Time limit of a large body from where it becomes one, and between two chunks: it uses memory that others wait for.
/// An API server waits five seconds for an answer, and sends 8 MiB in a fraction of one.
const LARGE_TIME: Duration = Duration::from_secs(4);
const LARGE_PAUSE: Duration = Duration::from_secs(1);

/// Why a body was not read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Rejection {
    #[error(
        "the request body is larger than {MAX_BODY} bytes, the maximum: make the pod smaller, starting with its annotations"
    )]
    TooLarge,
    #[error("too many large requests at once: try again in a second")]
    Busy,
    #[error("the request body ended early: send as many bytes as its Content-Length states")]
    Broken,
    #[error(
        "the request body arrived too slowly: send a body of more than {SMALL} bytes within {} s, without a pause of {} s", LARGE_TIME.as_secs(), LARGE_PAUSE.as_secs()
    )]
    Slow,
}

impl Rejection {
    /// Returns the metric's label.
    pub(super) fn as_str(&self) -> &'static str {
        match self {
            Self::TooLarge => "too_large",
            Self::Busy => "busy",
            Self::Broken => "broken_body",
            Self::Slow => "slow_body",
        }
    }
}

impl IntoResponse for Rejection {
    fn into_response(self) -> Response {
        let text = self.to_string();
        match self {
            Self::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, text).into_response(),
            // The API server retries 503 with Retry-After, within its own deadline.
            Self::Busy => (
                StatusCode::SERVICE_UNAVAILABLE,
                [(header::RETRY_AFTER, "1")],
                text,
            )
                .into_response(),
            Self::Broken => (StatusCode::BAD_REQUEST, text).into_response(),
            Self::Slow => (StatusCode::REQUEST_TIMEOUT, text).into_response(),
        }
    }
}

/// Limit on the memory of bodies and their answers; a permit is held until the answer is complete.
///
/// Only received bytes count: a merely declared length costs its sender nothing. One connection may use all of it: an
/// API server sends every review over one, and an attacker opens as many as it likes.
#[derive(Clone, Debug)]
pub(super) struct MemoryBudget {
    small: Arc<Semaphore>,
    large: Arc<Semaphore>,
    turns: Arc<Semaphore>,
}

/// A body, and its share of the budget.
#[derive(Debug)]
pub(super) struct ReadBody {
    pub(super) bytes: Bytes,
    /// Whether it is answered separately from the small ones.
    pub(super) large: bool,
    pub(super) permit: OwnedSemaphorePermit,
}

impl Default for MemoryBudget {
    fn default() -> Self {
        Self::of(SMALL_KIB, LARGE_KIB)
    }
}

impl MemoryBudget {
    fn of(small_kib: usize, large_kib: usize) -> Self {
        Self {
            small: Arc::new(Semaphore::new(small_kib)),
            large: Arc::new(Semaphore::new(large_kib)),
            turns: Arc::new(Semaphore::new(TURNS)),
        }
    }

    /// Waits until this large body may be answered.
    pub(super) async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        // The semaphore is never closed.
        Arc::clone(&self.turns).acquire_owned().await.ok()
    }
}

/// Acquires the missing permits for this many bytes.
fn grow(
    from: &Arc<Semaphore>,
    permit: &mut OwnedSemaphorePermit,
    bytes: usize,
) -> Result<(), Rejection> {
    let missing = bytes.div_ceil(KIB).saturating_sub(permit.num_permits());
    permit.merge(take(from, missing)?);
    Ok(())
}

fn take(from: &Arc<Semaphore>, kib: usize) -> Result<OwnedSemaphorePermit, Rejection> {
    let kib = u32::try_from(kib).map_err(|_| Rejection::TooLarge)?;
    Arc::clone(from)
        .try_acquire_many_owned(kib)
        .map_err(|_| Rejection::Busy)
}

/// Reads the complete body, at most [`MAX_BODY`] bytes.
pub(super) async fn read(mut body: Body, budget: &MemoryBudget) -> Result<ReadBody, Rejection> {
    let hint = body.size_hint().upper();
    let declared = usize::try_from(hint.unwrap_or(0)).unwrap_or(usize::MAX);
    if declared > MAX_BODY {
        discard(body).await;
        return Err(Rejection::TooLarge);
    }
    let expected = if hint.is_some() { declared } else { MAX_BODY };
    let mut permit = take(&budget.small, 0)?;
    let mut deadline: Option<Instant> = None;
    let mut first = Bytes::new();
    let mut rest = Vec::new();
    let mut length = 0;
    while let Some(frame) = next(&mut body, deadline).await? {
        let Ok(data) = frame.map_err(|_| Rejection::Broken)?.into_data() else {
            continue;
        };
        length += data.len();
        if length > MAX_BODY {
            drop((permit, first, rest));
            discard(body).await;
            return Err(Rejection::TooLarge);
        }
        if length > SMALL && deadline.is_none() {
            permit = take(&budget.large, 0)?;
            deadline = Some(Instant::now() + LARGE_TIME);
        }
        let from = if deadline.is_some() {
            &budget.large
        } else {
            &budget.small
        };
        if let Err(rejection) = grow(from, &mut permit, length) {
            drop((permit, first, rest));
            discard(body).await;
            return Err(rejection);
        }
        if first.is_empty() {
            first = data;
            continue;
        }
        make_room(&mut rest, length, expected);
        if rest.is_empty() {
            rest.extend_from_slice(&first);
        }
        rest.extend_from_slice(&data);
    }
    let large = deadline.is_some();
    if large {
        grow(&budget.large, &mut permit, MULTIPLE * length + MORE)?;
    }
    rest.shrink_to_fit();
    let bytes = if rest.is_empty() { first } else { rest.into() };
    Ok(ReadBody {
        bytes,
        large,
        permit,
    })
}

/// Returns the next chunk; a large body's has to arrive in time.
async fn next(
    body: &mut Body,
    deadline: Option<Instant>,
) -> Result<Option<Result<hyper::body::Frame<Bytes>, axum::Error>>, Rejection> {
    let Some(deadline) = deadline else {
        return Ok(body.frame().await);
    };
    let pause = Instant::now() + LARGE_PAUSE;
    timeout_at(deadline.min(pause), body.frame())
        .await
        .map_err(|_| Rejection::Slow)
}

/// Reserves `length` bytes, and a quarter more up to the expected size: doubling would take twice a body's size.
fn make_room(rest: &mut Vec<u8>, length: usize, expected: usize) {
    if rest.capacity() < length {
        let ahead = (length / 4).max(SMALL);
        let room = (length + ahead).min(expected).max(length);
        rest.reserve_exact(room - rest.len());
    }
}

/// Reads and drops the rest: a socket that is closed with unread bytes is reset, and the sender never sees the answer.
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

    /// Returns a body of `frames` chunks of 1 KiB, which then stalls or ends.
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
        let budget = MemoryBudget::of(16, 0);
        let stalled =
            tokio::time::timeout(Duration::from_millis(50), read(body(10, true), &budget));
        tokio::pin!(stalled);
        assert!(futures::poll!(stalled.as_mut()).is_pending());
        assert_eq!(budget.small.available_permits(), 6);
        let read_all = read(body(6, false), &budget).await.unwrap();
        assert_eq!(
            (read_all.bytes.len(), budget.small.available_permits()),
            (6 * KIB, 0)
        );
        drop(read_all);
        let refused = read(body(7, false), &budget).await;
        assert!(matches!(refused, Err(Rejection::Busy)), "{refused:?}");
        // Refused and late bodies release all that they held.
        assert_eq!(budget.small.available_permits(), 6);
        assert!(stalled.await.is_err());
    }

    #[tokio::test]
    async fn a_large_body_draws_its_multiple_and_leaves_the_small_ones_their_reserve() {
        let large_kib = 100 * MULTIPLE + MORE / KIB;
        let budget = MemoryBudget::of(SMALL / KIB, large_kib);
        let first = read(body(100, false), &budget).await.unwrap();
        assert!(first.large);
        assert_eq!(first.bytes.len(), 100 * KIB);
        let left = |budget: &MemoryBudget| {
            (
                budget.small.available_permits(),
                budget.large.available_permits(),
            )
        };
        assert_eq!(left(&budget), (64, 0));
        let refused = read(body(65, false), &budget).await;
        assert!(matches!(refused, Err(Rejection::Busy)), "{refused:?}");
        let small = read(body(64, false), &budget).await.unwrap();
        assert!(!small.large);
        drop((first, small));
        assert_eq!(left(&budget), (64, large_kib));
        // A body that is too large even alone is refused when it arrives, and releases all that it held.
        let refused = read(body(101, false), &budget).await;
        assert!(matches!(refused, Err(Rejection::Busy)), "{refused:?}");
        assert_eq!(left(&budget), (64, large_kib));
    }

    #[tokio::test]
    async fn a_large_body_that_stops_lets_go_of_what_it_holds() {
        let budget = MemoryBudget::default();
        let start = Instant::now();
        let refused = read(body(MAX_BODY / KIB - 1, true), &budget).await;
        assert!(matches!(refused, Err(Rejection::Slow)), "{refused:?}");
        assert!((LARGE_PAUSE..LARGE_TIME).contains(&start.elapsed()));
        assert_eq!(budget.large.available_permits(), LARGE_KIB);
        // A body that trickles fails too.
        let frames = stream::unfold((), async |()| {
            tokio::time::sleep(LARGE_PAUSE / 2).await;
            Some((Ok::<_, std::io::Error>(Bytes::from_static(b" ")), ()))
        });
        let whole = stream::iter([Ok(Bytes::from(vec![b' '; SMALL + 1]))]);
        let refused = read(Body::from_stream(whole.chain(frames)), &budget).await;
        assert!(matches!(refused, Err(Rejection::Slow)), "{refused:?}");
    }

    #[test]
    fn room_grows_by_a_quarter_and_never_beyond_what_is_declared() {
        let mut rest = Vec::new();
        let mut rooms = Vec::new();
        for length in (1..=MAX_BODY / SMALL).map(|n| n * SMALL) {
            make_room(&mut rest, length, MAX_BODY);
            rest.resize(length, b' ');
            assert!(rest.capacity() <= length + (length / 4).max(SMALL));
            rooms.push(rest.capacity());
        }
        assert_eq!(rooms.last(), Some(&MAX_BODY));
        rooms.dedup();
        assert!(rooms.len() < 24, "{rooms:?}");
    }
}
