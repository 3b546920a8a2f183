//! Serves one accepted connection: handshake, then requests until it ends or the drain ends it. I/O.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, Request, Response, Version, header};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use rustls::AlertDescription;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use tracing::debug;

use super::io::{Deadlined, Progress, ReadLimit};
use crate::metrics::{Handshake, Metrics};

/// Is the API server's own limit for a handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Is how long an HTTP/1 head may take from its first byte.
const HEAD: Duration = Duration::from_secs(10);
/// Is how long a connection may be idle: longer than the 90 s that the API server keeps one, because a request that
/// meets our close is lost and not retried.
const IDLE: Duration = Duration::from_secs(130);
/// Is how long a peer may leave its answer unread.
const STALLED_WRITE: Duration = Duration::from_secs(30);
/// Bounds the streams of one HTTP/2 connection.
const STREAMS: u32 = 256;

/// Holds what all connections of one server share.
pub(super) struct Shared {
    pub(super) acceptor: TlsAcceptor,
    pub(super) router: axum::Router,
    pub(super) metrics: Arc<Metrics>,
    /// Whether answers close their connections, so that callers go elsewhere.
    pub(super) closing: AtomicBool,
    /// Ends idle connections at once and busy ones after their answers.
    pub(super) finish: CancellationToken,
}

/// Serves `tcp` until it ends.
pub(super) async fn serve(tcp: TcpStream, shared: Arc<Shared>) {
    // Answers are small and complete: waiting for more would only add latency. A failure here shows at the first read.
    let _ = tcp.set_nodelay(true);
    let handshake = tokio::time::timeout(HANDSHAKE, shared.acceptor.accept(tcp));
    let stream = match handshake.await {
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
    let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let progress = Arc::<Progress>::default();
    let limit = if http2 {
        ReadLimit::Idle(IDLE)
    } else {
        ReadLimit::Head(HEAD)
    };
    let io = TokioIo::new(Deadlined::new(
        stream,
        Arc::clone(&progress),
        limit,
        STALLED_WRITE,
    ));

    let builder = builder(http2);
    let service = {
        let shared = Arc::clone(&shared);
        hyper::service::service_fn(move |request| {
            answer(request, Arc::clone(&shared), progress.begin())
        })
    };
    let mut connection = pin!(builder.serve_connection(io, service));
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = shared.finish.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        debug!(%error, "Connection ended");
    }
}

fn builder(http2: bool) -> Builder<TokioExecutor> {
    let builder = Builder::new(TokioExecutor::new());
    let mut builder = if http2 {
        builder.http2_only()
    } else {
        builder.http1_only()
    };
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS);
    builder
}

async fn answer(
    request: Request<Incoming>,
    shared: Arc<Shared>,
    in_flight: super::io::InFlight,
) -> Result<Response<Body>, Infallible> {
    let version = request.version();
    let mut response = shared
        .router
        .clone()
        .oneshot(request.map(Body::new))
        .await?;
    if shared.closing.load(Ordering::Relaxed) && version < Version::HTTP_2 {
        response
            .headers_mut()
            .insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    drop(in_flight);
    Ok(response)
}

fn classify(error: &std::io::Error) -> Handshake {
    let cause = error
        .get_ref()
        .and_then(|cause| cause.downcast_ref::<rustls::Error>());
    match cause {
        // What a caller says that does not trust our certificate: the one sign in band of a wrong caBundle.
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
