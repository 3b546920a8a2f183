//! The admin port: liveness, readiness and metrics. Plain HTTP.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;

use crate::health::Health;
use crate::metrics::Metrics;
use crate::server::{self, Limits};

/// Limits of the port: probes and a scraper need a handful of connections, and closing one loses nothing.
const LIMITS: Limits = Limits {
    drain: Duration::ZERO,
    connections: 64,
};

/// Flags of the admin port.
#[derive(Clone, Debug, clap::Args)]
pub struct AdminArgs {
    /// Address of /livez, /readyz and /metrics (plain HTTP)
    #[arg(
        long,
        env = "SIDESCALE_ADMIN_LISTEN",
        default_value = "[::]:8080",
        value_name = "ADDRESS"
    )]
    pub admin_listen: SocketAddr,
}

#[derive(Clone)]
struct Admin {
    health: Arc<Health>,
    metrics: Arc<Metrics>,
}

/// Serves the admin port until `shutdown`.
pub async fn run(
    listener: TcpListener,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) {
    let router = Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(show_metrics))
        .with_state(Admin {
            health,
            metrics: Arc::clone(&metrics),
        });
    let router = server::limited(router);
    server::run_admin(listener, router, LIMITS, metrics, shutdown).await;
}

/// Answers whether the process is ready, with a line per part.
async fn readyz(State(admin): State<Admin>) -> Response {
    let mut text = String::new();
    for (part, report) in admin.health.reports() {
        let mark = if report.ok { "ok" } else { "problem" };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{} {mark}: {}", part.as_str(), report.detail);
    }
    let (status, sum) = if admin.health.is_ready() {
        (StatusCode::OK, "ready")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready")
    };
    (status, format!("{sum}\n{text}")).into_response()
}

async fn show_metrics(State(admin): State<Admin>) -> Response {
    match admin.metrics.text() {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
