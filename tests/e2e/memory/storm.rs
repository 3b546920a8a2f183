//! A pod without an account: bodies of 8 MiB, thousands of connections and slow writers, while other pods are injected. One
//! replica on a real node, under the chart's limits.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::{MIB, check};
use crate::support::context::Context;
use crate::support::kubectl::is_ready;
use crate::support::node::{BUSYBOX, Node};
use crate::support::product::{LIMIT, Product};
use crate::support::{headscale, soak, wait};

mod inside;

pub(crate) use inside::ordered;
use inside::{Orders, Report, Role};

const CONNECTIONS: usize = 3_000;
const EVERY: Duration = Duration::from_secs(1);
/// Address that the pods of this cluster log in to; it is never called.
const NO_SERVER: &str = "http://127.0.0.1:1";

pub(super) fn run(context: &Context, _: Option<&headscale::Program>) -> Result<()> {
    let node = context.node_with_product()?;
    let product = Product::install_alone(node, NO_SERVER, "storm", &[])?;
    let kubectl = node.kubectl();
    kubectl.apply(&json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "hostile", "namespace": product.workloads, "labels": {"app": "hostile"}},
        "spec": {
            "automountServiceAccountToken": false, "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "app", "image": BUSYBOX}],
        },
    }))?;
    let hostile = kubectl.ready_pod(&product.workloads, "app=hostile", LIMIT)?;
    let replica = Replica::of(node, &product)?;
    let pods = soak::number(20, 60);
    let orders = |role| -> Result<Orders> {
        Ok(Orders {
            role,
            webhook: replica.address(10250)?,
            admin: replica.address(8080)?,
            bundle: replica.bundle()?,
            server: format!("sidescale.{}.svc", product.namespace),
            known: product.workloads.clone(),
            seconds: pods as u64,
            bodies: soak::number(20, 100),
            connections: CONNECTIONS,
        })
    };
    let hostile = orders(Role::Hostile)?.line(node.pid_of(&hostile, "app")?)?;
    // The node's own network: pid 1 of its namespaces.
    let honest = orders(Role::Honest)?.line(1)?;
    wait::until("pods are injected", LIMIT, || {
        ensure!(create(node, &product, 0)?, "not yet");
        Ok(())
    })?;
    let (hostile, honest, injected) = thread::scope(|scope| {
        let hostile = scope.spawn(|| report(node, &hostile));
        let honest = scope.spawn(|| report(node, &honest));
        let injected = created(node, &product, pods);
        let joined = "a thread of the storm";
        (
            hostile.join().expect(joined),
            honest.join().expect(joined),
            injected,
        )
    });
    let (injected, slowest) = injected.with_context(|| product.logs())?;
    let (hostile, honest) = (
        hostile.context("the storm")?,
        honest.context("beside the storm")?,
    );
    let peak = replica.peak()?;
    println!(
        "\ne2e: {injected} of {pods} pods injected beside {} bodies of 8 MiB and {CONNECTIONS} connections, the slowest \
         after {slowest:.1?}; {} reviews on connections of their own, the slowest after {:.1?}; peak {} MiB",
        hostile.posted,
        honest.posted,
        honest.slowest,
        peak / MIB
    );
    replica.was_not_restarted()?;
    ensure!(injected == pods, "{injected} of {pods}");
    check(peak)
}

fn report(node: &Node, line: &str) -> Result<Report> {
    let said = node.shell(line)?;
    serde_json::from_str(&said).with_context(|| said.clone())
}

/// Creates a pod each second; returns how many were injected, and the longest time for one.
fn created(node: &Node, product: &Product<'_>, pods: usize) -> Result<(usize, Duration)> {
    let (mut injected, mut slowest) = (0, Duration::ZERO);
    for n in 0..pods {
        let began = Instant::now();
        injected += usize::from(create(node, product, n)?);
        slowest = slowest.max(began.elapsed());
        thread::sleep(EVERY.saturating_sub(began.elapsed()));
    }
    Ok((injected, slowest))
}

/// Creates a pod by dry run, which is reviewed like any other; returns whether it has the sidecar.
fn create(node: &Node, product: &Product<'_>, n: usize) -> Result<bool> {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("web-{n}"), "annotations": {"sidescale.io/inject": "tailscale"}},
        "spec": {"containers": [{"name": "app", "image": "app"}]},
    });
    let dry = [
        "create",
        "--dry-run=server",
        "--output=json",
        "--filename=-",
    ];
    let namespace = ["--namespace", &product.workloads];
    let pod = node
        .kubectl()
        .feed(&[&dry[..], &namespace].concat(), &pod.to_string())?;
    let pod: Value = serde_json::from_str(&pod)?;
    Ok(pod["spec"]["initContainers"][0]["name"] == "tailscale")
}

/// The only replica.
struct Replica<'a> {
    node: &'a Node,
    namespace: &'a str,
    pod: Value,
}

impl<'a> Replica<'a> {
    fn of(node: &'a Node, product: &'a Product<'_>) -> Result<Self> {
        let namespace = product.namespace.as_str();
        let label = "app.kubernetes.io/name=sidescale";
        let pod = node.kubectl().ready_pod(namespace, label, LIMIT)?;
        let limits = &pod["spec"]["containers"][0]["resources"]["limits"];
        ensure!(limits["memory"] == "256Mi", "its limits are {limits}");
        Ok(Self {
            node,
            namespace,
            pod,
        })
    }

    fn address(&self, port: u16) -> Result<SocketAddr> {
        let ip = self.pod["status"]["podIP"].as_str().context("no address")?;
        Ok(format!("{ip}:{port}").parse()?)
    }

    fn bundle(&self) -> Result<String> {
        let list = ["get", "mutatingwebhookconfigurations"];
        let all = self.node.kubectl().list(&list)?;
        let entries = all.iter().flat_map(|one| one["webhooks"].as_array());
        let mut clients = entries.flatten().map(|entry| &entry["clientConfig"]);
        let ours = clients.find(|client| client["service"]["namespace"] == self.namespace);
        let bundle = ours.and_then(|client| client["caBundle"].as_str());
        Ok(bundle.context("no caBundle")?.to_owned())
    }

    /// Returns its peak memory, in bytes.
    fn peak(&self) -> Result<u64> {
        let pid = self.node.pid_of(&self.pod, "sidescale")?;
        let line = format!("sed -n 's/^VmHWM:\\s*\\([0-9]*\\) kB/\\1/p' /proc/{pid}/status");
        Ok(self.node.shell(&line)?.trim().parse::<u64>()? * 1024)
    }

    /// Checks that it is the same container, and ready.
    fn was_not_restarted(&self) -> Result<()> {
        let name = self.pod["metadata"]["name"].as_str().context("no name")?;
        let get = ["get", "pod", name, "--namespace", self.namespace];
        let now = self.node.kubectl().json(&get)?;
        let restarts = &now["status"]["containerStatuses"][0]["restartCount"];
        ensure!(*restarts == 0, "{restarts} restarts");
        ensure!(is_ready(&now), "it is not ready: {}", now["status"]);
        Ok(())
    }
}
