//! Serves one accepted connection: handshake, then requests until it is closed by the peer or by the drain. I/O.

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderValue, Request, Response, header};
use bytes::Bytes;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::AlertDescription;
use rustls::pki_types::UnixTime;
use sidescale_webhook::annotations::Caller;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use tracing::debug;

use super::activity::Activity;
use super::evict::Phase;
use super::io::Deadlined;
use super::tls::{ServerTls, Shown};
use crate::metrics::{Handshake, Metrics};

/// Maximum bytes of a head, and of a body at a time, that a connection buffers: an API server's head has some hundred
/// bytes, and all connections together must not fill the memory.
const BUFFER: usize = 32 << 10;

/// How long an evicted connection may take for its current answer; a request has 10 s.
const LAST_ANSWER: Duration = Duration::from_secs(12);

/// Time limits of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadlines {
    /// Time limit of the TLS handshake.
    pub(super) handshake: Duration,
    /// Time limit of a head from its first byte.
    pub(super) head: Duration,
    pub(super) idle: Duration,
    /// How long a peer may leave its answer unread.
    pub(super) write: Duration,
}

/// The layer between a port's socket and HTTP.
pub(super) enum Transport {
    Tls(Arc<ServerTls>),
    Plain,
}

impl Transport {
    /// Returns the first phase of a connection.
    pub(super) fn first(&self) -> Phase {
        match self {
            Self::Tls(_) => Phase::Handshake,
            Self::Plain => Phase::Fresh,
        }
    }
}

/// What all connections of one port share.
pub(super) struct PortState {
    pub(super) transport: Transport,
    pub(super) deadlines: Deadlines,
    pub(super) router: axum::Router,
    pub(super) metrics: Arc<Metrics>,
    /// Whether answers close their connections, so that callers connect elsewhere.
    pub(super) closing: AtomicBool,
    /// Closes idle connections at once and busy ones after their answers.
    pub(super) finish: CancellationToken,
}

/// Whether a caller has presented a certificate of the API server, signed by an authority of `--client-ca`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CallerCertificate {
    /// It has.
    Verified,
    /// It has not, or no authority is configured: anyone who reaches the port.
    #[default]
    Unverified,
}

impl From<CallerCertificate> for Caller {
    fn from(certificate: CallerCertificate) -> Self {
        match certificate {
            CallerCertificate::Verified => Self::Verified,
            CallerCertificate::Unverified => Self::Unverified,
        }
    }
}

impl CallerCertificate {
    /// Returns its word in the log.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Verified => "verified",
            Self::Unverified => "unverified",
        }
    }
}

/// A request without information about its caller is unverified.
impl<S: Sync> FromRequestParts<S> for CallerCertificate {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get().copied().unwrap_or_default())
    }
}

/// Serves `tcp` until it is closed.
pub(super) async fn serve(tcp: TcpStream, activity: Arc<Activity>, shared: Arc<PortState>) {
    // Answers are small and complete: waiting for more would only add latency. A failure here shows at the first read.
    let _ = tcp.set_nodelay(true);
    let caller = CallerCertificate::Unverified;
    match &shared.transport {
        Transport::Plain => serve_http(tcp, caller, activity, Arc::clone(&shared)).await,
        Transport::Tls(tls) => {
            let handshake = tls.acceptor.accept(tcp);
            let handshake = tokio::time::timeout(shared.deadlines.handshake, handshake);
            let done = tokio::select! {
                done = handshake => done,
                () = activity.evicted() => return,
            };
            let stream = match done {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => {
                    let result = classify(&error);
                    shared.metrics.handshakes(result).inc();
                    debug!(result = result.as_str(), %error, "TLS handshake failed");
                    return;
                }
                Err(_) => {
                    shared.metrics.handshakes(Handshake::TimedOut).inc();
                    return;
                }
            };
            shared.metrics.handshakes(Handshake::Ok).inc();
            let shown = tls.shown(stream.get_ref().1, UnixTime::now());
            shared
                .metrics
                .connections
                .client_certificate(shown.as_str());
            let caller = match shown {
                Shown::Verified => CallerCertificate::Verified,
                Shown::NotAsked | Shown::Nothing | Shown::Refused => CallerCertificate::Unverified,
            };
            activity.opened(caller == CallerCertificate::Verified);
            serve_http(stream, caller, activity, Arc::clone(&shared)).await;
        }
    }
}

async fn serve_http(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    caller: CallerCertificate,
    activity: Arc<Activity>,
    shared: Arc<PortState>,
) {
    let Deadlines {
        handshake: _,
        head,
        idle,
        write,
    } = shared.deadlines;
    let io = TokioIo::new(Deadlined::new(stream, Arc::clone(&activity), head, write));
    let service = {
        let (activity, shared) = (Arc::clone(&activity), Arc::clone(&shared));
        hyper::service::service_fn(move |request| {
            answer(request, caller, Arc::clone(&activity), Arc::clone(&shared))
        })
    };
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(idle)
            .max_buf_size(BUFFER)
            .serve_connection(io, service)
    );
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = activity.evicted() => {
            // No request can begin in between: this task reads its bytes. One that arrived meanwhile is answered.
            if !activity.is_busy() || activity.is_stalled() {
                return;
            }
            connection.as_mut().graceful_shutdown();
            // The peer may not read its answer.
            let Ok(result) = tokio::time::timeout(LAST_ANSWER, connection).await else {
                return;
            };
            result
        }
        () = shared.finish.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        debug!(%error, "Connection closed with an error");
    }
}

async fn answer(
    mut request: Request<Incoming>,
    caller: CallerCertificate,
    activity: Arc<Activity>,
    shared: Arc<PortState>,
) -> Result<Response<Body>, Infallible> {
    let in_flight = activity.begin();
    if caller != CallerCertificate::default() {
        request.extensions_mut().insert(caller);
    }
    let request = request.map(|body| Body::new(Watched::new(body, activity)));
    let mut response = shared.router.clone().oneshot(request).await?;
    if shared.closing.load(Ordering::Relaxed) {
        response
            .headers_mut()
            .insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    drop(in_flight);
    Ok(response)
}

/// A request's body that records when it has arrived completely.
struct Watched {
    body: Incoming,
    activity: Arc<Activity>,
}

impl Watched {
    fn new(body: Incoming, activity: Arc<Activity>) -> Self {
        let this = Self { body, activity };
        this.note();
        this
    }

    fn note(&self) {
        if self.body.is_end_stream() {
            self.activity.received();
        }
    }
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if matches!(polled, Poll::Ready(None)) {
            self.activity.received();
        }
        self.note();
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn classify(error: &std::io::Error) -> Handshake {
    let cause = error
        .get_ref()
        .and_then(|cause| cause.downcast_ref::<rustls::Error>());
    match cause {
        // Alert of a caller that does not trust our certificate: the only in-band sign of a wrong caBundle.
        Some(rustls::Error::AlertReceived(
            AlertDescription::BadCertificate
            | AlertDescription::UnknownCA
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown,
        )) => Handshake::Distrusted,
        Some(_) => Handshake::Failed,
        None => Handshake::Broken,
    }
}
