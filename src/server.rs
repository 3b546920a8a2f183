//! The HTTP side: accepts, limits and drains connections; the webhook's routes pass bytes to the webhook. I/O.

mod activity;
mod body;
mod connection;
mod evict;
mod io;
mod lines;
mod routes;
mod tls;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

pub use body::MAX_BODY;
pub use connection::CallerCertificate;
pub use routes::{NamespaceLookup, limited, router};
pub use tls::{ClientAuthority, ClientAuthorityError, ServerTls};

use activity::Places;
use connection::{Deadlines, PortState, Transport};

use crate::metrics::Metrics;

/// How long requests in flight may take once the listener is closed; each has its own, shorter limit.
const FINISH: Duration = Duration::from_secs(20);
/// Pause after a failed accept, which is nearly always due to missing file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long a connection may be idle: longer than the 90 s of the API server, because a request that arrives while
/// Sidescale closes is lost and not retried.
const IDLE: Duration = Duration::from_secs(130);

const WEBHOOK: Deadlines = Deadlines {
    handshake: Duration::from_secs(3),
    head: Duration::from_secs(10),
    idle: IDLE,
    write: Duration::from_secs(30),
};

/// Probes and scrapes come from nearby and are small.
const ADMIN: Deadlines = Deadlines {
    handshake: Duration::ZERO,
    head: Duration::from_secs(5),
    idle: IDLE,
    write: Duration::from_secs(5),
};

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
    /// How long to keep accepting connections after SIGTERM
    #[arg(long, env = "SIDESCALE_DRAIN", default_value = "10s", value_name = "DURATION", value_parser = sidescale_core::duration::duration)]
    pub drain: Duration,
    /// Maximum number of connections; one more closes an idle or half-open one of the address that has most
    #[arg(long, env = "SIDESCALE_MAX_CONNECTIONS", default_value_t = 1024, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..))]
    pub max_connections: u16,
    /// Certificate authority (PEM) of the API server's client certificate; callers without one get less detailed answers
    #[arg(long, env = "SIDESCALE_CLIENT_CA", value_name = "FILE")]
    pub client_ca: Option<PathBuf>,
}

/// Limits of one server.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How long to keep accepting connections after the shutdown began.
    pub drain: Duration,
    /// Maximum connections at once.
    pub connections: u16,
}

/// Serves the webhook's `router` on `listener` until `shutdown`, then drains.
///
/// Callers learn about a changed endpoint some seconds after our SIGTERM, so the listener stays open for
/// `limits.drain`, while each answer closes its connection. Then idle connections are closed, busy ones after their
/// answers.
pub async fn run(
    listener: TcpListener,
    tls: Arc<ServerTls>,
    router: axum::Router,
    limits: Limits,
    metrics: Arc<Metrics>,
    shutdown: impl Future<Output = ()>,
) {
    let port = Listener {
        name: "webhook",
        transport: Transport::Tls(tls),
        deadlines: WEBHOOK,
        limits,
        metrics,
    };
    port.run(listener, router, shutdown).await;
}

/// Serves the admin port's `router` as [`run`] does, without TLS and with shorter deadlines.
pub async fn run_admin(
    listener: TcpListener,
    router: axum::Router,
    limits: Limits,
    metrics: Arc<Metrics>,
    shutdown: impl Future<Output = ()>,
) {
    let port = Listener {
        name: "admin",
        transport: Transport::Plain,
        deadlines: ADMIN,
        limits,
        metrics,
    };
    port.run(listener, router, shutdown).await;
}

/// The parts of one port.
struct Listener {
    /// The metrics' label.
    name: &'static str,
    transport: Transport,
    deadlines: Deadlines,
    limits: Limits,
    metrics: Arc<Metrics>,
}

impl Listener {
    async fn run(
        self,
        listener: TcpListener,
        router: axum::Router,
        shutdown: impl Future<Output = ()>,
    ) {
        let Self {
            name,
            transport,
            deadlines,
            limits: Limits { drain, connections },
            metrics,
        } = self;
        let evictions = metrics.connections.evicted.clone();
        let places = Places::new(connections, name, evictions);
        let shared = Arc::new(PortState {
            transport,
            deadlines,
            router,
            metrics,
            closing: AtomicBool::new(false),
            finish: CancellationToken::new(),
        });
        let open = TaskTracker::new();
        let draining = async {
            shutdown.await;
            info!(
                port = name,
                seconds = drain.as_secs_f64(),
                "Draining connections"
            );
            shared.closing.store(true, Ordering::Relaxed);
            tokio::time::sleep(drain).await;
        };
        tokio::select! {
            never = accept(&listener, &shared, &open, &places, name) => match never {},
            () = draining => {}
        }
        drop(listener);
        shared.finish.cancel();
        open.close();
        if tokio::time::timeout(FINISH, open.wait()).await.is_err() {
            warn!(
                port = name,
                connections = open.len(),
                "Drain deadline exceeded: closing busy connections"
            );
        }
    }
}

/// Accepts forever. If all places are taken, a new connection takes the place of an unused one.
async fn accept(
    listener: &TcpListener,
    shared: &Arc<PortState>,
    open: &TaskTracker,
    places: &Arc<Places>,
    name: &'static str,
) -> std::convert::Infallible {
    loop {
        match listener.accept().await {
            Ok((tcp, peer)) => {
                let peer = peer.ip().to_canonical();
                let place = places.take(peer, shared.transport.first()).await;
                let shared = Arc::clone(shared);
                open.spawn(async move {
                    let gauge = shared.metrics.connections.open(name);
                    gauge.inc();
                    connection::serve(tcp, Arc::clone(&place.activity), shared).await;
                    gauge.dec();
                    drop(place);
                });
            }
            Err(error) => {
                warn!(port = name, %error, "Failed to accept connection");
                places.evict();
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
