//! The HTTPS side: accepts, limits and drains connections; the routes hand bytes to the webhook. I/O.

mod body;
mod connection;
mod io;
mod routes;
mod tls;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

pub use body::MAX_BODY;
pub use routes::{NamespaceLookup, limited, router};
pub use tls::{ServingKey, server_config};

use crate::metrics::Metrics;

/// Is how long requests in flight may take once the listener is closed; each is bounded by its own, shorter limit.
const FINISH: Duration = Duration::from_secs(20);
/// Is the pause after an accept that failed, which is nearly always for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Flags of the HTTPS side.
#[derive(Clone, Debug, clap::Args)]
pub struct ServerArgs {
    /// Address of the webhook (HTTPS)
    #[arg(
        long,
        env = "SIDESCALE_LISTEN",
        default_value = "[::]:10250",
        value_name = "ADDRESS"
    )]
    pub listen: SocketAddr,
    /// How long new connections are still taken after SIGTERM
    #[arg(long, env = "SIDESCALE_DRAIN", default_value = "10s", value_name = "DURATION", value_parser = crate::args::duration)]
    pub drain: Duration,
    /// Most connections at once; more wait
    #[arg(long, env = "SIDESCALE_MAX_CONNECTIONS", default_value_t = 1024, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..))]
    pub max_connections: u16,
}

/// Bounds one server.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How long new connections are still taken after the shutdown began.
    pub drain: Duration,
    /// Most connections at once.
    pub connections: u16,
}

/// Serves `router` on `listener` until `shutdown`, then drains.
///
/// Endpoints reach the callers some seconds after our SIGTERM, so the listener stays open for `limits.drain`, while
/// each answer closes its connection. Then idle connections end, busy ones after their answers.
pub async fn run(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    router: axum::Router,
    limits: Limits,
    metrics: Arc<Metrics>,
    shutdown: impl Future<Output = ()>,
) {
    let shared = Arc::new(connection::Shared {
        acceptor: TlsAcceptor::from(tls),
        router,
        metrics,
        closing: AtomicBool::new(false),
        finish: CancellationToken::new(),
    });
    let connections = TaskTracker::new();
    let slots = Arc::new(Semaphore::new(usize::from(limits.connections)));
    tokio::select! {
        never = accept(&listener, &shared, &connections, &slots) => match never {},
        () = shutdown => {}
    }
    info!(seconds = limits.drain.as_secs_f64(), "Draining");
    shared.closing.store(true, Ordering::Relaxed);
    tokio::select! {
        never = accept(&listener, &shared, &connections, &slots) => match never {},
        () = tokio::time::sleep(limits.drain) => {}
    }
    drop(listener);
    shared.finish.cancel();
    connections.close();
    if tokio::time::timeout(FINISH, connections.wait())
        .await
        .is_err()
    {
        warn!(
            connections = connections.len(),
            "Connections were still busy at the end of the drain"
        );
    }
}

/// Accepts for ever. At the cap it waits, so that callers queue in the kernel for as long as they care to.
async fn accept(
    listener: &TcpListener,
    shared: &Arc<connection::Shared>,
    connections: &TaskTracker,
    slots: &Arc<Semaphore>,
) -> std::convert::Infallible {
    loop {
        // The semaphore is never closed.
        let Ok(slot) = Arc::clone(slots).acquire_owned().await else {
            continue;
        };
        match listener.accept().await {
            Ok((tcp, _peer)) => {
                let shared = Arc::clone(shared);
                connections.spawn(async move {
                    shared.metrics.connections.inc();
                    connection::serve(tcp, Arc::clone(&shared)).await;
                    shared.metrics.connections.dec();
                    drop(slot);
                });
            }
            Err(error) => {
                warn!(%error, "Could not accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
