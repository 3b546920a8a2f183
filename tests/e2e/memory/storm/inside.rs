//! The part that runs in the network of another pod: the test's own program, which takes its orders from its environment.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::task::JoinSet;

use crate::support::post::Poster;

/// The largest body that the webhook reads.
const BODY: usize = 8 << 20;
const ENDPOINTS: [&str; 3] = ["/mutate/pod", "/mutate/namespace", "/validate"];
const AT_ONCE: usize = 4;
/// Timeout of an API server.
const PATIENCE: Duration = Duration::from_secs(10);
const EVERY: Duration = Duration::from_secs(1);

/// Variable that makes the test's program run this part.
const VARIABLE: &str = "SIDESCALE_E2E_STORM";

/// Orders, as JSON in the environment.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Orders {
    pub(super) role: Role,
    /// Addresses of the webhook and the admin port.
    pub(super) webhook: SocketAddr,
    pub(super) admin: SocketAddr,
    /// The caBundle, and the name in the certificate.
    pub(super) bundle: String,
    pub(super) server: String,
    /// A namespace that exists.
    pub(super) known: String,
    pub(super) seconds: u64,
    /// Minimum for each endpoint.
    pub(super) bodies: usize,
    pub(super) connections: usize,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(super) enum Role {
    /// Bodies, connections and slow writers.
    Hostile,
    /// One small review each second, each on its own connection, as from another API server.
    Honest,
}

/// Results.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Report {
    /// Number of bodies sent, or of reviews answered.
    pub(super) posted: usize,
    /// Longest time for a review.
    pub(super) slowest: Duration,
}

impl Orders {
    /// Returns the shell line that executes them in the network of the process with this pid.
    pub(super) fn line(&self, pid: u32) -> Result<String> {
        let orders = serde_json::to_string(self)?;
        let program = std::env::current_exe()?;
        let program = program.display();
        // Each connection is a file.
        Ok(format!(
            "ulimit -n $(ulimit -Hn); {VARIABLE}='{orders}' exec nsenter --target {pid} --net -- {program}"
        ))
    }
}

/// Executes the orders in the environment, if there are any.
pub(crate) fn ordered() -> Option<ExitCode> {
    let orders = std::env::var(VARIABLE).ok()?;
    Some(match obey(&orders) {
        Ok(report) => {
            println!("{report}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    })
}

fn obey(orders: &str) -> Result<String> {
    let orders: Orders = serde_json::from_str(orders)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let poster = Poster::new(&orders.bundle, &orders.server, Ipv4Addr::UNSPECIFIED)?;
    let report = runtime.block_on(async {
        match orders.role {
            Role::Hostile => hostile(orders, poster).await,
            Role::Honest => honest(&orders, &poster).await,
        }
    })?;
    Ok(serde_json::to_string(&report)?)
}

async fn honest(orders: &Orders, poster: &Poster) -> Result<Report> {
    let review = review("shop").to_string();
    let mut report = Report {
        posted: 0,
        slowest: Duration::ZERO,
    };
    let mut ticks = tokio::time::interval(EVERY);
    for _ in 0..orders.seconds {
        ticks.tick().await;
        let began = Instant::now();
        let reviewed = async {
            let mut connection = poster.connect(orders.webhook).await?;
            connection.post("/mutate/pod", review.as_bytes()).await
        };
        let answer = tokio::time::timeout(PATIENCE, reviewed).await;
        let answer = answer.context("a new connection")??;
        ensure!(answer.contains("AdmissionReview"), "{answer}");
        report.posted += 1;
        report.slowest = report.slowest.max(began.elapsed());
    }
    Ok(report)
}

async fn hostile(orders: Orders, poster: Poster) -> Result<Report> {
    let storm = Storm {
        orders,
        poster,
        posted: AtomicUsize::new(0),
    };
    storm.reveals_nothing().await?;
    storm.rage().await;
    Ok(Report {
        posted: storm.posted.load(Ordering::Relaxed),
        slowest: Duration::ZERO,
    })
}

/// Returns a review of a pod that asks for a sidecar.
fn review(namespace: &str) -> Value {
    json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "u", "namespace": namespace, "operation": "CREATE",
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "object": {
                "metadata": {"name": "web", "annotations": {"sidescale.io/inject": "tailscale"}},
                "spec": {"containers": [{"name": "app", "image": "app"}]},
            },
        },
    })
}

struct Storm {
    orders: Orders,
    poster: Poster,
    /// Number of bodies so far.
    posted: AtomicUsize,
}

impl Storm {
    /// Runs for its time, and until each endpoint has had its bodies.
    async fn rage(&self) {
        let connections = self.connections();
        let wanted = ENDPOINTS.len() * self.orders.bodies;
        let enough = async {
            tokio::time::sleep(EVERY * u32::try_from(self.orders.seconds).unwrap_or(u32::MAX))
                .await;
            while self.posted.load(Ordering::Relaxed) < wanted {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::select! {
            () = enough => {}
            () = self.bodies() => unreachable!("it never ends"),
            () = self.slow_writers() => unreachable!("it never ends"),
        }
        drop(connections);
    }

    /// Checks that the answer does not depend on whether the namespace exists, except for what the sender named.
    async fn reveals_nothing(&self) -> Result<()> {
        let ask = async |namespace: &str| -> Result<Value> {
            let mut connection = self.poster.connect(self.orders.webhook).await?;
            let body = review(namespace).to_string();
            let answer = connection.post("/mutate/pod", body.as_bytes()).await?;
            Ok(serde_json::from_str(
                &answer.replace(namespace, "NAMESPACE"),
            )?)
        };
        let (known, unknown) = (
            ask(&self.orders.known).await?,
            ask("no-such-namespace").await?,
        );
        ensure!(known == unknown, "{known}\n{unknown}");
        Ok(())
    }

    /// Opens connections that send nothing: half of them stop in their handshake.
    fn connections(&self) -> JoinSet<()> {
        let mut open = JoinSet::new();
        for n in 0..self.orders.connections {
            let (poster, webhook) = (self.poster.clone(), self.orders.webhook);
            open.spawn(async move {
                loop {
                    // The server may close it to make room: then the next one replaces it.
                    if n % 2 == 0 {
                        let Ok(mut connection) = poster.dial(webhook).await else {
                            tokio::time::sleep(EVERY).await;
                            continue;
                        };
                        let mut byte = [0];
                        let _ = tokio::io::AsyncReadExt::read(&mut connection, &mut byte).await;
                    } else if let Ok(mut connection) = poster.connect(webhook).await {
                        connection.closed().await;
                    }
                    tokio::time::sleep(EVERY * 5).await;
                }
            });
        }
        open
    }

    /// Posts bodies endlessly, several at a time.
    async fn bodies(&self) {
        let body: Arc<[u8]> = body().into();
        let lane = async |lane: usize| {
            for n in lane.. {
                let path = ENDPOINTS[n % ENDPOINTS.len()];
                // Whether and how it is refused is up to the server.
                if let Ok(mut connection) = self.poster.connect(self.orders.webhook).await {
                    let _ = connection.post(path, &body).await;
                    self.posted.fetch_add(1, Ordering::Relaxed);
                } else {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        };
        futures::future::join_all((0..AT_ONCE).map(lane)).await;
    }

    /// Writes half a request to the admin port, a byte at a time.
    async fn slow_writers(&self) {
        loop {
            let Ok(mut connection) = self.poster.dial(self.orders.admin).await else {
                tokio::time::sleep(EVERY).await;
                continue;
            };
            for byte in b"GET /metrics HTTP/1.1\r\nHost: x\r\nX: ".iter().cycle() {
                if connection.write_all(&[*byte]).await.is_err() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Returns a review of a pod with as many variables as fit.
fn body() -> Vec<u8> {
    let head = r#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"u","namespace":"shop","operation":"CREATE","resource":{"group":"","version":"v1","resource":"pods"},"object":{"metadata":{"name":"web","annotations":{"sidescale.io/inject":"tailscale"}},"spec":{"containers":[{"name":"app","env":["#;
    let tail = r#"{"name":"b"}]}]}}}}"#;
    let unit = r#"{"name":"a","value":"b"},"#;
    let times = (BODY - head.len() - tail.len()) / unit.len();
    let mut body = Vec::with_capacity(BODY);
    body.extend_from_slice(head.as_bytes());
    for _ in 0..times {
        body.extend_from_slice(unit.as_bytes());
    }
    body.extend_from_slice(tail.as_bytes());
    body
}
