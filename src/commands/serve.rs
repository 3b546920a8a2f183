//! `sidescale serve`: the webhook, the rotation of keys and the admin port, wired together.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use kube::Client;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::admin::{self, AdminArgs};
use crate::clock::Clock;
use crate::health::{Health, Part};
use crate::metrics::Metrics;
use crate::server::{self, Limits, ServerArgs, ServingKey};
use crate::telemetry::LogArgs;
use crate::tls::{Tls, TlsArgs};

/// Flags of `sidescale serve`.
#[derive(Clone, Debug, clap::Args)]
pub struct ServeArgs {
    /// Configuration file
    #[arg(
        long,
        env = "SIDESCALE_CONFIG",
        default_value = "/etc/sidescale/config.yaml",
        value_name = "FILE"
    )]
    pub config: PathBuf,
    /// Namespace that this process runs in [default: the account's own]
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAME")]
    pub namespace: Option<String>,
    /// Release that this process belongs to: part of the mark on what it makes
    #[arg(
        long,
        env = "SIDESCALE_RELEASE_NAME",
        default_value = "sidescale",
        value_name = "NAME"
    )]
    pub release_name: String,
    /// Lease that spares replicas each other's work
    #[arg(
        long,
        env = "SIDESCALE_LEASE_NAME",
        default_value = "sidescale",
        value_name = "NAME"
    )]
    pub lease_name: String,
    /// Flags of the certificates.
    #[command(flatten)]
    pub tls: TlsArgs,
    /// Flags of the HTTPS side.
    #[command(flatten)]
    pub server: ServerArgs,
    /// Flags of the admin port.
    #[command(flatten)]
    pub admin: AdminArgs,
    /// Flags of the log.
    #[command(flatten)]
    pub log: LogArgs,
}

/// Serves until `shutdown`, or until a part fails.
///
/// # Errors
///
/// If something that is needed from the start is missing, or a part ends by itself.
pub async fn run(args: ServeArgs, shutdown: CancellationToken) -> anyhow::Result<()> {
    let ServeArgs {
        config: _,
        namespace,
        release_name: _,
        lease_name: _,
        tls: tls_args,
        server: server_args,
        admin: admin_args,
        log: _,
    } = args;
    let (client, namespace) = cluster(namespace).await?;
    let metrics = Arc::new(Metrics::new()?);
    let health = Arc::new(Health::default());
    let webhook = bind(server_args.listen).await.context("--listen")?;
    let admin = bind(admin_args.admin_listen)
        .await
        .context("--admin-listen")?;

    let clock = Clock::wall();
    let key = Arc::<ServingKey>::default();
    let certificates = Tls::new(
        &tls_args,
        &namespace,
        &client,
        Arc::clone(&key),
        Arc::clone(&health),
        Arc::clone(&metrics),
        clock.clone(),
    );
    let tls = server::server_config(Arc::clone(&key))?;
    let router = server::limited(axum::Router::new());
    let limits = Limits {
        drain: server_args.drain,
        connections: server_args.max_connections,
    };

    // Readiness has to be seen as false while the webhook drains, so the admin port ends last.
    let drained = CancellationToken::new();
    let mut parts = Parts::new(shutdown.clone());
    parts.spawn("admin", {
        let served = admin::run(
            admin,
            Arc::clone(&health),
            Arc::clone(&metrics),
            drained.clone().cancelled_owned(),
        );
        async move { Ok(served.await?) }
    });
    parts.spawn("certificates", {
        let stop = shutdown.clone().cancelled_owned();
        async move {
            certificates.run(stop).await;
            Ok(())
        }
    });
    health.ok(Part::Serving, "accepting");
    parts.spawn("server", {
        let (health, metrics) = (Arc::clone(&health), Arc::clone(&metrics));
        async move {
            let _drained = drained.drop_guard();
            let stop = async {
                shutdown.cancelled().await;
                health.trouble(Part::Serving, "stopping");
            };
            server::run(webhook, tls, router, limits, metrics, stop).await;
            Ok(())
        }
    });
    parts.join().await
}

/// Finds the cluster, and the namespace that is ours there.
async fn cluster(namespace: Option<String>) -> anyhow::Result<(Client, String)> {
    let config = kube::Config::infer().await.context(
        "no Kubernetes cluster found: run in a pod with a service account, or point KUBECONFIG at a kubeconfig file",
    )?;
    let namespace = namespace.unwrap_or_else(|| config.default_namespace.clone());
    let client = Client::try_from(config).context("use the cluster's configuration")?;
    Ok((client, namespace))
}

/// Holds the tasks of the process: one ends, all stop.
struct Parts {
    tasks: JoinSet<(&'static str, anyhow::Result<()>)>,
    shutdown: CancellationToken,
}

impl Parts {
    fn new(shutdown: CancellationToken) -> Self {
        Self {
            tasks: JoinSet::new(),
            shutdown,
        }
    }

    fn spawn(
        &mut self,
        name: &'static str,
        part: impl Future<Output = anyhow::Result<()>> + Send + 'static,
    ) {
        self.tasks.spawn(async move { (name, part.await) });
    }

    /// Waits for all; the first failure is the result.
    async fn join(mut self) -> anyhow::Result<()> {
        let mut result = Ok(());
        while let Some(ended) = self.tasks.join_next().await {
            let asked = self.shutdown.is_cancelled();
            self.shutdown.cancel();
            let failure = match ended {
                Ok((_, Ok(()))) if asked => continue,
                Ok((name, Ok(()))) => anyhow::anyhow!("part {name} ended by itself"),
                Ok((name, Err(error))) => error.context(format!("part {name} failed")),
                Err(error) => anyhow::Error::new(error).context("a part panicked"),
            };
            error!(
                error = format!("{failure:#}"),
                "Stopping, because a part ended"
            );
            if result.is_ok() {
                result = Err(failure);
            }
        }
        info!("Everything has ended");
        result
    }
}

/// Binds `address`; the wildcard of IPv6, which takes both families, falls back to IPv4's where there is no IPv6.
async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let bound = match TcpListener::bind(address).await {
        Err(error)
            if address.ip() == SocketAddr::from(([0_u16; 8], 0)).ip() && is_no_ipv6(&error) =>
        {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await
        }
        bound => bound,
    };
    bound.with_context(|| {
        format!("listen on {address}: choose another address, or end what listens there")
    })
}

fn is_no_ipv6(error: &std::io::Error) -> bool {
    const NO_ADDRESS_FAMILY: i32 = rustix::io::Errno::AFNOSUPPORT.raw_os_error();
    const NO_ADDRESS: i32 = rustix::io::Errno::ADDRNOTAVAIL.raw_os_error();
    matches!(error.raw_os_error(), Some(NO_ADDRESS_FAMILY | NO_ADDRESS))
}
