//! A pod without an account: bodies of 8 MiB, thousands of connections and slow writers, while other pods are injected.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, PostParams};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::task::JoinSet;

use super::{MIB, Stage, check};
use crate::serve::{self, Replica};
use crate::support::context::Context;
use crate::support::post::Poster;
use crate::support::{headscale, soak};

/// Is the largest body that is read.
const BODY: usize = 8 << 20;
const ENDPOINTS: [&str; 3] = ["/mutate/pod", "/mutate/namespace", "/validate"];
const AT_ONCE: usize = 4;
const CONNECTIONS: usize = 3_000;
/// The hostile pod's address: API servers have others.
const HOSTILE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// Another API server's, which opens a connection for each review.
const HONEST: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);
/// An API server waits for no longer.
const PATIENCE: Duration = Duration::from_secs(10);
const EVERY: Duration = Duration::from_secs(1);

pub(super) fn run(context: &Context, _: Option<&headscale::Program>) -> Result<()> {
    let api = context.api()?;
    let name = "memory-storm";
    let stage = Stage::install(context, &api, name, &["apps"])?;
    let folder = context.folder.inner(name)?;
    let mut replica = Replica::start(&api, &stage.release, &folder)?;
    serve::publish(&api, &stage.release, &replica)?;
    let bundle = serve::bundles(&api, &stage.release.fullname())?.swap_remove(0);
    let server = format!("{}.{name}.svc", &stage.release.fullname());
    let poster = |from| Poster::new(&bundle, &server, from);
    let (webhook, admin) = replica.addresses();
    let storm = Storm {
        webhook,
        admin,
        poster: poster(HOSTILE)?,
        posted: AtomicUsize::new(0),
    };
    let honest = poster(HONEST)?;
    let pods = soak::number(20, 60);
    let (injected, slowest) = stage.runtime.block_on(async {
        injected(&stage).await.context("before the storm")?;
        reveals_nothing(&storm, &format!("{name}-apps")).await?;
        let created = created(&stage, pods, (&honest, webhook));
        storm.beside(created).await
    })?;
    let peak = replica.peak()?;
    println!(
        "\ne2e: {injected} of {pods} pods injected beside {} bodies of 8 MiB and {CONNECTIONS} connections; the slowest \
         after {slowest:.1?}; peak {} MiB",
        storm.posted.load(Ordering::Relaxed),
        peak / MIB
    );
    replica.check_alive()?;
    ensure!(injected == pods, "{injected} of {pods}");
    check(peak)
}

/// Creates a pod each second; how many were injected, and the longest time that one took.
async fn created(
    stage: &Stage,
    pods: usize,
    (honest, webhook): (&Poster, SocketAddr),
) -> Result<(usize, Duration)> {
    let (mut injected, mut slowest) = (0, Duration::ZERO);
    let mut ticks = tokio::time::interval(EVERY);
    for n in 0..pods {
        ticks.tick().await;
        let began = Instant::now();
        injected += usize::from(create(stage, n).await?);
        let reviewed = async {
            let review = review("shop").to_string();
            let mut connection = honest.connect(webhook).await?;
            connection.post("/mutate/pod", review.as_bytes()).await
        };
        let answer = tokio::time::timeout(PATIENCE, reviewed).await;
        let answer = answer.context("a new connection")??;
        ensure!(answer.contains("AdmissionReview"), "{answer}");
        slowest = slowest.max(began.elapsed());
    }
    Ok((injected, slowest))
}

/// Waits until the API server calls the webhook at all: it has to see the endpoint first.
async fn injected(stage: &Stage) -> Result<()> {
    let began = Instant::now();
    while !create(stage, 0).await? {
        ensure!(began.elapsed() < Duration::from_secs(30), "no pod is");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

/// Creates a pod by dry run, which is reviewed like any other; says whether it has the sidecar.
async fn create(stage: &Stage, n: usize) -> Result<bool> {
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": format!("web-{n}"), "annotations": {"sidescale.io/inject": "tailscale"}},
        "spec": {"containers": [{"name": "app", "image": "app"}]},
    }))?;
    let pods: Api<Pod> =
        Api::namespaced(stage.admin.clone(), &format!("{}-apps", stage.release.name));
    let dry = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    let pod = pods.create(&dry, &pod).await?;
    let sidecars = pod.spec.and_then(|spec| spec.init_containers);
    Ok(sidecars.is_some_and(|containers| containers[0].name == "tailscale"))
}

/// A review of a pod that asks for a sidecar.
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

/// The answer is the same whether the namespace is there or not, but for what the sender named itself.
async fn reveals_nothing(storm: &Storm, known: &str) -> Result<()> {
    let ask = async |namespace: &str| -> Result<Value> {
        let mut connection = storm.poster.connect(storm.webhook).await?;
        let body = review(namespace).to_string();
        let answer = connection.post("/mutate/pod", body.as_bytes()).await?;
        Ok(serde_json::from_str(
            &answer.replace(namespace, "NAMESPACE"),
        )?)
    };
    let (known, unknown) = (ask(known).await?, ask("no-such-namespace").await?);
    ensure!(known == unknown, "{known}\n{unknown}");
    Ok(())
}

struct Storm {
    webhook: SocketAddr,
    admin: SocketAddr,
    poster: Poster,
    /// Bodies so far.
    posted: AtomicUsize,
}

impl Storm {
    /// Goes on until that is done, and until each endpoint has had its bodies.
    async fn beside<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let connections = self.connections().await;
        let wanted = ENDPOINTS.len() * soak::number(20, 100);
        let enough = async {
            let posted = async {
                while self.posted.load(Ordering::Relaxed) < wanted {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Ok(())
            };
            let (done, ()) = tokio::try_join!(work, posted)?;
            Ok(done)
        };
        let outcome = tokio::select! {
            done = enough => done,
            () = self.bodies() => unreachable!("it never ends"),
            () = self.slow_writers() => unreachable!("it never ends"),
        };
        drop(connections);
        outcome
    }

    /// Opens connections that say nothing: half of them are left in their handshake.
    async fn connections(&self) -> JoinSet<()> {
        let mut open = JoinSet::new();
        for n in 0..CONNECTIONS {
            let (poster, webhook) = (self.poster.clone(), self.webhook);
            open.spawn(async move {
                loop {
                    // The server may end it for another's sake: then the next one takes its place.
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

    /// Posts bodies without end, some at a time.
    async fn bodies(&self) {
        let body: Arc<[u8]> = body().into();
        let lane = async |lane: usize| {
            for n in lane.. {
                let path = ENDPOINTS[n % ENDPOINTS.len()];
                // Whether it is refused, and how, is the server's choice.
                if let Ok(mut connection) = self.poster.connect(self.webhook).await {
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
            let Ok(mut connection) = self.poster.dial(self.admin).await else {
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

/// A review of a pod with as many variables as fit.
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
