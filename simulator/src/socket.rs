//! The embedded Headscale's Unix socket: HTTP/1.1 or HTTP/2, and never both, like the real ones. I/O.

use std::time::Duration;

use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use tokio::net::UnixListener;
use tokio::task::JoinSet;
use tracing::debug;

use super::{Embedded, Flavour, routes};

/// Pause after a failed accept, for example without free descriptors.
const PAUSE: Duration = Duration::from_millis(100);

impl Embedded {
    /// Serves on its Unix socket, which needs no API key: REST for [`Flavour::Main`], else gRPC.
    ///
    /// Dropping the future closes the connections.
    pub async fn serve_socket(&self, listener: UnixListener) {
        serve(self.clone(), listener).await;
    }
}

/// Serves until it is dropped.
async fn serve(server: Embedded, listener: UnixListener) {
    let flavour = server.shared.flavour;
    let router = routes::socket_router(server);
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let stream = match listener.accept().await {
            Ok((stream, _)) => TokioIo::new(stream),
            Err(error) => {
                debug!(%error, "No connection accepted");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let service = TowerToHyperService::new(router.clone());
        connections.spawn(async move {
            let ended = match flavour {
                Flavour::V0_28 | Flavour::V0_29 => {
                    let builder = http2::Builder::new(TokioExecutor::new());
                    builder.serve_connection(stream, service).await
                }
                Flavour::Main => {
                    let builder = http1::Builder::new();
                    builder.serve_connection(stream, service).await
                }
            };
            if let Err(error) = ended {
                debug!(%error, "Connection ended");
            }
        });
    }
}
