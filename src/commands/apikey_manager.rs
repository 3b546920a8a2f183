//! `sidescale apikey-manager`: renews Headscale's API key next to Headscale, where no key is needed. I/O.
//!
//! Once its flags parse, it never exits for problems with Headscale, rights or the API server: its pod would turn
//! unready, and Headscale with it. It logs the problem and retries.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};
use sidescale_control_plane::{ApiKeyClient, Endpoint};
use sidescale_core::key_value::KeyValue;
use sidescale_core::time::after;
use sidescale_rotation::tokens::TokenPolicy;
use sidescale_rotation::tokens::form::DATA_KEY;
use sidescale_rotation::tokens::keeper::{CHECK_EVERY, TokenKeeper};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::api_key::{KeyPlace, TokenProblem, TokenResult, settle};
use crate::clock::Clock;
use crate::cluster;
use crate::outage::Outage;
use crate::store::{SecretStore, Store};

mod args;
mod say;

pub use args::ApikeyManagerArgs;

/// Between full checks, how often to see whether the Secret is unchanged, and Headscale still the same process.
const GLANCE_EVERY: Duration = Duration::from_secs(30);

/// How long another replica's intent is respected.
const RESPECT: Duration = Duration::from_secs(120);

/// Interval of waiting for Headscale, which is called at once when its socket appears.
const STEP: Duration = Duration::from_millis(200);

/// Runs until `shutdown`, or until the wait for Headscale times out.
///
/// # Errors
/// `--wait-timeout` has passed, or there is no cluster.
pub async fn run(args: ApikeyManagerArgs, shutdown: CancellationToken) -> anyhow::Result<()> {
    let namespace = args.checked().map_err(anyhow::Error::msg)?.to_owned();
    if let Some(remark) = args.remark() {
        warn!(
            remark,
            "API key rotation buffer is more than half of the expiration"
        );
    }
    let kubeconfig = args.kubeconfig.clone();
    let manager = Manager::new(args, namespace, Clock::wall());
    tokio::select! {
        // The next run finds the work in progress.
        () = shutdown.cancelled() => Ok(()),
        ended = async {
            let store = Store::of(SecretStore::new(cluster(kubeconfig.as_deref()).await?));
            manager.run(&store).await
        } => ended,
    }
}

/// Manages one API key.
#[derive(Debug)]
pub struct Manager {
    namespace: String,
    secret: String,
    managed_by: String,
    socket: PathBuf,
    wait_timeout: Option<Duration>,
    used_at: Option<Endpoint>,
    clock: Clock,
    keeper: TokenKeeper,
    attempt: u64,
    /// Whether Headscale has ever answered.
    met: bool,
}

impl Manager {
    /// Creates the manager from the flags.
    #[must_use]
    pub fn new(args: ApikeyManagerArgs, namespace: String, clock: Clock) -> Self {
        let ApikeyManagerArgs {
            socket_path,
            namespace: _,
            secret_name,
            expiration,
            rotation_buffer,
            overlap,
            wait_timeout,
            api_url,
            managed_by,
            kubeconfig: _,
            pod_name,
            log: _,
        } = args;
        let policy = TokenPolicy {
            expiration,
            buffer: rotation_buffer,
            overlap,
            respect: RESPECT,
            managed_by: managed_by.clone(),
            data_key: DATA_KEY.to_owned(),
            stand_in: None,
        };
        Self {
            namespace,
            secret: secret_name,
            managed_by,
            socket: socket_path,
            wait_timeout,
            used_at: api_url.as_deref().map(used_at),
            clock,
            keeper: TokenKeeper::new(pod_name.unwrap_or_else(replica), policy),
            attempt: 0,
            met: false,
        }
    }

    /// Manages the key forever.
    ///
    /// # Errors
    /// `--wait-timeout` has passed and Headscale has never answered.
    pub async fn run(mut self, store: &Store) -> anyhow::Result<()> {
        let mut backoff = retries();
        let mut outage = Outage::default();
        loop {
            let headscale = self.headscale().await?;
            let seen = identity(&self.socket);
            match self.look(store, &headscale).await {
                Ok(settled) => {
                    if outage.recovered().is_some() {
                        info!("API key check succeeded again");
                    }
                    backoff = retries();
                    self.say(&settled);
                    self.rest(store, &settled, seen).await;
                }
                Err(problem) => {
                    let wait = backoff.next().unwrap_or(CHECK_EVERY);
                    let problem = say::problem(problem);
                    warn!(error = problem, retry_in = ?wait, "API key check failed, retrying");
                    outage.failed();
                    tokio::time::sleep(wait).await;
                }
            }
        }
    }

    async fn look(
        &mut self,
        store: &Store,
        headscale: &ApiKeyClient,
    ) -> Result<TokenResult, TokenProblem> {
        let Self {
            namespace,
            secret,
            used_at,
            clock,
            keeper,
            ..
        } = self;
        let place = KeyPlace {
            store,
            namespace,
            name: secret,
            headscale,
            used_at: used_at.as_ref(),
            clock,
        };
        settle(keeper, &place).await
    }

    /// Logs one line per check.
    fn say(&self, settled: &TokenResult) {
        let TokenResult { rest, .. } = settled;
        let now = self.clock.now();
        let expires = rest.expires.map(|expires| expires.to_string());
        let due = rest.due.map(|due| due.to_string());
        let remaining = rest.expires.map(|expires| say::left(now, expires));
        info!(
            namespace = self.namespace,
            secret = self.secret,
            expires,
            due,
            remaining,
            decision = say::decision(settled),
            next = %rest.until,
            other_live_keys = rest.others,
            "Checked the API key"
        );
        let Self {
            namespace,
            secret,
            managed_by,
            ..
        } = self;
        if let Some(problem) = say::advice(&rest.state, namespace, secret, managed_by) {
            warn!(error = problem, "API key renewal skipped");
        }
    }

    /// Waits until the next check is due, or something has changed.
    async fn rest(&self, store: &Store, settled: &TokenResult, seen: Option<SocketIdentity>) {
        let TokenResult { rest, revision, .. } = settled;
        loop {
            let now = self.clock.now();
            let glance = after(now, GLANCE_EVERY);
            self.clock.sleep_until(glance.min(rest.until)).await;
            // A clock that was set far back would make this sleep for long: that is noticed after one step at the latest.
            if self.clock.now() >= rest.until || after(self.clock.now(), CHECK_EVERY) < rest.until {
                return;
            }
            if identity(&self.socket) != seen {
                info!("Headscale restarted");
                return;
            }
            match store.read(&self.namespace, &self.secret).await {
                Ok(secret) => {
                    if secret.and_then(|secret| secret.revision) != *revision {
                        return;
                    }
                }
                Err(error) => debug!(%error, "Failed to re-read the API key's Secret"),
            }
        }
    }

    /// Waits until Headscale answers on its socket.
    async fn headscale(&mut self) -> anyhow::Result<ApiKeyClient> {
        let began = tokio::time::Instant::now();
        let mut backoff = waits();
        loop {
            self.attempt += 1;
            let error = match ApiKeyClient::on_socket(&self.socket).await {
                Ok(client) => {
                    if !self.met || self.attempt > 1 {
                        info!(socket = %self.socket.display(), "Headscale is ready");
                    }
                    self.met = true;
                    self.attempt = 0;
                    return Ok(client);
                }
                Err(error) => error,
            };
            info!(
                attempt = self.attempt,
                socket = %self.socket.display(),
                cause = %error,
                "Waiting for Headscale to be ready"
            );
            let mut wait = backoff.next().unwrap_or(Duration::from_secs(15));
            if let Some(limit) = self.wait_timeout.filter(|_| !self.met) {
                let Some(left) = limit.checked_sub(began.elapsed()) else {
                    bail!("Headscale was not ready within --wait-timeout: {error}");
                };
                wait = wait.min(left);
            }
            self.until_socket_changes(wait).await;
        }
    }

    async fn until_socket_changes(&self, limit: Duration) {
        let began = tokio::time::Instant::now();
        let before = identity(&self.socket);
        while began.elapsed() < limit && identity(&self.socket) == before {
            tokio::time::sleep(STEP.min(limit)).await;
        }
    }
}

/// Returns the endpoint that verifies a new key: clear text is permitted within the pod, where it cannot be
/// intercepted.
fn used_at(url: &str) -> Endpoint {
    let local = ["http://127.0.0.1", "http://localhost", "http://[::1]"];
    Endpoint {
        name: "headscale".to_owned(),
        api_url: url.to_owned(),
        api_key: KeyValue::new(String::new()),
        ca_bundle: None,
        allow_insecure: local.iter().any(|prefix| url.starts_with(prefix)),
    }
}

/// Identity of a socket file: Headscale creates a new one at each start.
type SocketIdentity = (u64, u64, i64, i64);

fn identity(path: &Path) -> Option<SocketIdentity> {
    let found = std::fs::metadata(path).ok()?;
    Some((found.dev(), found.ino(), found.ctime(), found.ctime_nsec()))
}

/// Returns the name of this replica: the same when its container restarts, unique for each process of a machine.
fn replica() -> String {
    let machine = rustix::system::uname();
    let machine = machine.nodename().to_string_lossy().into_owned();
    match std::process::id() {
        1 => machine,
        process => format!("{machine}/{process}"),
    }
}

/// Finds the cluster; in a pod, retries forever.
async fn cluster(kubeconfig: Option<&Path>) -> anyhow::Result<Client> {
    let mut backoff = retries();
    loop {
        let found = connect(kubeconfig).await;
        let in_pod = std::env::var_os("KUBERNETES_SERVICE_HOST").is_some();
        match found {
            Ok(client) => return Ok(client),
            Err(error) if !in_pod || kubeconfig.is_some() => return Err(error),
            Err(error) => {
                let wait = backoff.next().unwrap_or(CHECK_EVERY);
                warn!(
                    error = format!("{error:#}"),
                    retry_in = ?wait,
                    "Failed to configure the Kubernetes client: check that the pod mounts its ServiceAccount's token"
                );
                tokio::time::sleep(wait).await;
            }
        }
    }
}

async fn connect(kubeconfig: Option<&Path>) -> anyhow::Result<Client> {
    let config = match kubeconfig {
        Some(path) => {
            let shown = path.display();
            let file = Kubeconfig::read_from(path).with_context(|| format!("--kubeconfig {shown}"))?;
            kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
                .await
                .with_context(|| format!("--kubeconfig {shown}"))?
        }
        None => kube::Config::infer().await.context(
            "no Kubernetes cluster found: run in a pod with a service account, or name a kubeconfig file with --kubeconfig",
        )?,
    };
    cluster::client(config).context("use the cluster's configuration")
}

/// Retries problems after 1 s, then less and less often, up to every five minutes.
fn retries() -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_secs(1))
        .with_max_delay(Duration::from_secs(300))
        .with_jitter()
        .without_max_times()
        .build()
}

/// Calls Headscale again after half a second, then up to every 15 s.
fn waits() -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(500))
        .with_max_delay(Duration::from_secs(15))
        .with_factor(1.5)
        .without_max_times()
        .build()
}
