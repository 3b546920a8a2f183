//! `sidescale serve`: wires the webhook, the rotation of keys and the admin port together.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use kube::Client;
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::admin::{self, AdminArgs};
use crate::clock::Clock;
use crate::cluster;
use crate::config::{Current, EditReports, Follower, POLL};
use crate::events::{Events, Publisher};
use crate::fences::{self, Fences, FencesState};
use crate::health::{Health, Part};
use crate::leader::Lease;
use crate::metrics::Metrics;
use crate::server::{self, ClientAuthority, Limits, ServerArgs, ServerTls};
use crate::telemetry::LogArgs;
use crate::tls::{ServingKey, Tls, TlsArgs};
use crate::watch::{Hostnames, Namespaces};

pub mod in_cluster;
mod parts;

use in_cluster::InCluster;
use parts::ProcessTasks;

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
    /// ConfigMap that contains the file, in Sidescale's own namespace; gets an Event for each change
    #[arg(
        long,
        env = "SIDESCALE_CONFIG_MAP_NAME",
        default_value = "sidescale",
        value_name = "NAME"
    )]
    pub config_map_name: String,
    /// Namespace of this process [default: the service account's]
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAME")]
    pub namespace: Option<String>,
    /// Name of this replica [default: the machine's name]
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    pub pod_name: Option<String>,
    /// Helm release of this process; part of the owner tag of the Headscale users that it creates
    #[arg(
        long,
        env = "SIDESCALE_RELEASE_NAME",
        default_value = "sidescale",
        value_name = "NAME"
    )]
    pub release_name: String,
    /// Lease that elects the leader among the replicas
    #[arg(
        long,
        env = "SIDESCALE_LEASE_NAME",
        default_value = "sidescale",
        value_name = "NAME"
    )]
    pub lease_name: String,
    /// ConfigMap that records which namespace owns each hostname, in Sidescale's own namespace
    #[arg(
        long,
        env = "SIDESCALE_HOSTNAMES_CONFIG_MAP_NAME",
        default_value = "sidescale-hostnames",
        value_name = "NAME"
    )]
    pub hostnames_config_map_name: String,
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
/// A requirement is missing at the start, or a task exits unexpectedly.
pub async fn run(args: ServeArgs, shutdown: CancellationToken) -> anyhow::Result<()> {
    let ServeArgs {
        config,
        config_map_name,
        namespace,
        pod_name,
        release_name,
        lease_name,
        hostnames_config_map_name: hostnames,
        tls,
        server,
        admin,
        log: _,
    } = args;
    raise_open_files();
    let (follower, policy) = Follower::open(config).context("--config")?;
    let (client, namespace) = cluster(namespace).await?;
    let (clock, metrics) = (Clock::wall(), Arc::new(Metrics::new()?));
    let identity = pod_name.unwrap_or_else(machine);
    let (events, publisher) = Events::kubernetes(
        client.clone(),
        identity.clone(),
        clock.clone(),
        Arc::clone(&metrics),
    );
    let common = Common {
        client,
        policy,
        namespaces: Arc::default(),
        hostnames: Arc::default(),
        metrics,
        health: Arc::default(),
        clock,
        events,
    };
    let webhook = bind(server.listen).await.context("--listen")?;
    let admin = bind(admin.admin_listen).await.context("--admin-listen")?;
    let lease = Lease {
        namespace: namespace.clone(),
        name: lease_name,
        identity,
    };

    let mut parts = ProcessTasks::new(shutdown.clone());
    // The admin port stops last, because it has to report readiness as false while the webhook drains.
    let drained = CancellationToken::new();
    common.spawn_admin(&mut parts, admin, &drained);
    spawn_events(&mut parts, publisher, shutdown.clone());
    let settled = common.spawn_fences(
        &mut parts,
        &lease,
        &tls.webhook_config_name,
        &config_map_name,
        &shutdown,
    );
    common.spawn_configuration(
        &mut parts,
        follower,
        (namespace.clone(), config_map_name),
        &shutdown,
    );
    let key = common.spawn_certificates(&mut parts, &tls, &namespace, settled.clone(), &shutdown);
    common.spawn_watches(&mut parts, (&namespace, &hostnames), &shutdown);
    common.spawn_rotation(
        &mut parts,
        (lease, hostnames),
        release_name,
        settled,
        &shutdown,
    );
    common.spawn_server(&mut parts, &server, webhook, key, shutdown, drained)?;
    // The publisher of Events exits with the last task that has Events.
    drop(common);
    info!(
        version = env!("CARGO_PKG_VERSION"),
        namespace, "Sidescale started"
    );
    parts.join().await
}

fn spawn_events(parts: &mut ProcessTasks, publisher: Publisher, shutdown: CancellationToken) {
    parts.spawn("events", async move {
        publisher.run(shutdown).await;
        Ok(())
    });
}

/// What several tasks share.
struct Common {
    client: Client,
    policy: Current,
    namespaces: Arc<Namespaces>,
    hostnames: Arc<Hostnames>,
    metrics: Arc<Metrics>,
    health: Arc<Health>,
    clock: Clock,
    events: Events,
}

impl Common {
    fn spawn_admin(
        &self,
        parts: &mut ProcessTasks,
        listener: TcpListener,
        ended: &CancellationToken,
    ) {
        let (health, metrics) = (Arc::clone(&self.health), Arc::clone(&self.metrics));
        let admin = admin::run(listener, health, metrics, ended.clone().cancelled_owned());
        parts.spawn("admin", async move {
            admin.await;
            Ok(())
        });
    }

    /// The returned receiver turns true when work that needs the rights may begin.
    fn spawn_fences(
        &self,
        parts: &mut ProcessTasks,
        lease: &Lease,
        installation: &str,
        config_map: &str,
        shutdown: &CancellationToken,
    ) -> watch::Receiver<FencesState> {
        let (sender, settled) = watch::channel(FencesState::default());
        let (client, clock) = (self.client.clone(), self.clock.clone());
        let fences = Fences {
            events: self.events.clone(),
            client,
            namespace: lease.namespace.clone(),
            pod: lease.identity.clone(),
            installation: installation.to_owned(),
            policy: self.policy.clone(),
            metrics: Arc::clone(&self.metrics),
            health: Arc::clone(&self.health),
            config_map: config_map.to_owned(),
            clock,
        };
        let stop = shutdown.clone();
        parts.spawn("fences", async move {
            tokio::select! {
                never = fences.run(sender) => match never {},
                () = stop.cancelled() => Ok(()),
            }
        });
        settled
    }

    fn spawn_configuration(
        &self,
        parts: &mut ProcessTasks,
        follower: Follower,
        config_map: (String, String),
        shutdown: &CancellationToken,
    ) {
        let told = EditReports {
            metrics: Arc::clone(&self.metrics),
            health: Arc::clone(&self.health),
            events: self.events.clone(),
            config_map,
        };
        let stop = shutdown.clone();
        parts.spawn("configuration", async move {
            tokio::select! {
                never = follower.run(POLL, told) => match never {},
                () = stop.cancelled() => Ok(()),
            }
        });
    }

    fn spawn_certificates(
        &self,
        parts: &mut ProcessTasks,
        args: &TlsArgs,
        namespace: &str,
        settled: watch::Receiver<FencesState>,
        shutdown: &CancellationToken,
    ) -> Arc<ServingKey> {
        let key = Arc::<ServingKey>::default();
        let (health, metrics) = (Arc::clone(&self.health), Arc::clone(&self.metrics));
        let tls = Tls::new(
            args,
            namespace,
            &self.client,
            Arc::clone(&key),
            health,
            metrics,
            self.clock.clone(),
        );
        let stop = shutdown.clone().cancelled_owned();
        parts.spawn("certificates", async move {
            fences::settled(settled).await;
            tls.run(stop).await;
            Ok(())
        });
        key
    }

    /// Watches what every replica's webhook has to know about the cluster.
    fn spawn_watches(
        &self,
        parts: &mut ProcessTasks,
        (namespace, config_map): (&str, &str),
        shutdown: &CancellationToken,
    ) {
        let (namespace, config_map) = (namespace.to_owned(), config_map.to_owned());
        let (namespaces, hostnames) = (Arc::clone(&self.namespaces), Arc::clone(&self.hostnames));
        let (client, policy) = (self.client.clone(), self.policy.clone());
        let stop = shutdown.clone();
        parts.spawn("watches", async move {
            tokio::select! {
                () = namespaces.run(client.clone(), policy) => {}
                () = hostnames.run(client, &namespace, &config_map) => {}
                () = stop.cancelled() => {}
            }
            Ok(())
        });
    }

    fn spawn_rotation(
        &self,
        parts: &mut ProcessTasks,
        (lease, hostnames): (Lease, String),
        release: String,
        settled: watch::Receiver<FencesState>,
        shutdown: &CancellationToken,
    ) {
        let Self {
            client,
            policy,
            namespaces,
            hostnames: _,
            metrics,
            health,
            clock,
            events,
        } = self;
        let cluster = InCluster {
            client: client.clone(),
            lease,
            hostnames,
            release,
            policy: policy.clone(),
            namespaces: Arc::clone(namespaces),
            metrics: Arc::clone(metrics),
            health: Arc::clone(health),
            clock: clock.clone(),
            events: events.clone(),
            fences: settled.clone(),
        };
        let stop = shutdown.clone();
        parts.spawn("rotation", async move {
            fences::settled(settled).await;
            in_cluster::run(cluster, stop).await;
            Ok(())
        });
    }

    fn spawn_server(
        &self,
        parts: &mut ProcessTasks,
        args: &ServerArgs,
        listener: TcpListener,
        key: Arc<ServingKey>,
        shutdown: CancellationToken,
        drained: CancellationToken,
    ) -> anyhow::Result<()> {
        let ServerArgs {
            listen: _,
            drain,
            max_connections,
            client_ca,
        } = args;
        let limits = Limits {
            drain: *drain,
            connections: *max_connections,
        };
        let namespaces = Arc::clone(&self.namespaces);
        let lookup = Arc::new(move |name: &str| namespaces.get(name));
        let router = server::router(
            self.policy.clone(),
            lookup,
            Arc::clone(&self.hostnames),
            Arc::clone(&self.metrics),
        );
        let clients = client_ca.as_deref().map(client_authority).transpose()?;
        let tls = ServerTls::new(key, clients)?;
        let (health, metrics) = (Arc::clone(&self.health), Arc::clone(&self.metrics));
        health.ok(Part::Serving, "accepting");
        parts.spawn("server", async move {
            let _drained = drained.drop_guard();
            let stop = async {
                shutdown.cancelled().await;
                health.problem(Part::Serving, "stopping");
            };
            server::run(listener, tls, router, limits, metrics, stop).await;
            Ok(())
        });
        Ok(())
    }
}

/// Reads the authority of the API server's client certificate.
fn client_authority(path: &Path) -> anyhow::Result<ClientAuthority> {
    let read = || -> anyhow::Result<ClientAuthority> {
        Ok(ClientAuthority::from_pem(&std::fs::read(path)?)?)
    };
    read().with_context(|| {
        format!(
            "--client-ca {}: want the authority of the certificate that the API server presents to webhooks, or omit the \
             flag",
            path.display()
        )
    })
}

/// Raises the limit of open files to its maximum: many systems start with 1024, and each connection is a file.
fn raise_open_files() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // If that is not permitted, unused connections are closed sooner.
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        debug!(%error, "Failed to raise the open file limit");
    }
}

/// Returns the name of the machine: in a pod, the pod's name.
fn machine() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

/// Finds the cluster, and our namespace there.
async fn cluster(namespace: Option<String>) -> anyhow::Result<(Client, String)> {
    let config = kube::Config::infer().await.context(
        "no Kubernetes cluster found: run in a pod with a service account, or point KUBECONFIG at a kubeconfig file",
    )?;
    let namespace = namespace.unwrap_or_else(|| config.default_namespace.clone());
    let client = cluster::client(config).context("use the cluster's configuration")?;
    Ok((client, namespace))
}

/// Binds `address`; the wildcard of IPv6, which accepts both families, falls back to IPv4 if there is no IPv6.
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
        format!("listen on {address}: choose another address, or stop what listens there")
    })
}

fn is_no_ipv6(error: &std::io::Error) -> bool {
    const NO_ADDRESS_FAMILY: i32 = rustix::io::Errno::AFNOSUPPORT.raw_os_error();
    const NO_ADDRESS: i32 = rustix::io::Errno::ADDRNOTAVAIL.raw_os_error();
    matches!(error.raw_os_error(), Some(NO_ADDRESS_FAMILY | NO_ADDRESS))
}
