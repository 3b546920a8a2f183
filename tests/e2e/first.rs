//! The first pods of new services, on a real kubelet: they start as soon as pods whose keys exist already.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::Case;
use crate::support::context::Context;
use crate::support::headscale::{self, Headscale};
use crate::support::levels::Level;
use crate::support::node::{BUSYBOX, KubeletLooks, Node};
use crate::support::product::{self, LIMIT, Product};
use crate::support::programs::Programs;
use crate::support::soak;
use crate::support::wait;

pub(crate) const CASES: &[Case] = &[Case {
    name: "first::new_services_start_as_soon_as_those_with_keys",
    needs: &[Level::Node, Level::Headscale],
    each: false,
    run,
}];

/// Returns the maximum additional time of the new service at any rank. A kubelet that nobody wakes looks again after 10 to 16
/// seconds; the calls that create a key take seconds where other tests or builds run beside.
fn later() -> Duration {
    Duration::from_secs_f64(if soak::is_on() { 2.5 } else { 6.0 })
}

/// Pods that never get a node, so that only their keys are made.
const UNSCHEDULED: &str =
    "      schedulerName: nobody\n      automountServiceAccountToken: false\n";

/// Time from the first sight of each pod to its running sidecar, by app.
type Times = BTreeMap<String, Duration>;

fn run(context: &Context, program: Option<&headscale::Program>) -> Result<()> {
    // Of each kind, all applied at once.
    let count = soak::number(6, 20);
    let program = program.context("runs for a Headscale")?;
    // The shared node's kubelet looks at waiting pods each second, which would hide what this shows.
    let node = Node::start(
        &Programs::prepare()?,
        context.folder.path(),
        KubeletLooks::EachMinute,
    )?;
    node.import(&product::image()?)?;
    let node = &node;
    let headscale = Headscale::start(
        program,
        node.place(),
        &context.folder.inner("first")?,
        &context.gateway_address(),
    )?;
    // Whether they join is tested elsewhere: here a program that only waits replaces the sidecar's.
    let values = [("config.profiles.default.image", BUSYBOX)];
    let product = Product::install(node, &headscale, "first", &values)?;
    // Its API key was created a moment after its start; before that is a first start, which has its own state.
    wait::until("rotation has its API key", LIMIT, || {
        let logs = product.logs();
        let missed = logs.contains("Control plane unavailable");
        ensure!(
            !missed || logs.contains("Control plane available again"),
            "{logs}"
        );
        Ok(())
    })?;
    // Half of them are also the first of their namespace, whose Secret does not exist yet.
    let empty = format!("{}-empty", product.workloads);
    node.control_plane().namespace(&empty, &json!({}))?;
    make_keys(node, &product, count)?;
    let known = services("known", 0..count, &product.workloads)?;
    let mut new = services("new", 0..count / 2, &product.workloads)?;
    new.extend(services("new", count / 2..count, &empty)?);
    // One of each in turn: kubectl takes a while for all.
    let both = known.into_iter().zip(new);
    let all = Vec::from_iter(both.flat_map(|(known, new)| [known, new])).join("---\n");
    let times = std::thread::scope(|threads| {
        let apply = || node.kubectl().feed(&["apply", "--filename", "-"], &all);
        let applied = threads.spawn(apply);
        let times = started(node, &[&product.workloads, &empty], 2 * count);
        applied.join().expect("kubectl's thread")?;
        times
    })?;

    let of = |kind: &str| {
        let times = times.iter().filter(|(app, _)| app.starts_with(kind));
        let mut times: Vec<_> = times.map(|(_, time)| *time).collect();
        times.sort();
        times
    };
    let (known, new) = (of("known"), of("new"));
    let mut waited = 0;
    for namespace in [&product.workloads, &empty] {
        waited += config_errors(node, namespace, "new")?.len();
    }
    eprintln!(
        "e2e: {count} new services, sidecar running after {:.1?} to {:.1?} (median {:.1?}), beside as many with keys: \
         {:.1?} to {:.1?} (median {:.1?}); the kubelet missed {waited} keys",
        new[0],
        new[count - 1],
        new[count / 2],
        known[0],
        known[count - 1],
        known[count / 2],
    );
    for (rank, (new, known)) in new.iter().zip(&known).enumerate() {
        ensure!(
            *new <= *known + later(),
            "rank {rank}: {new:.1?}, and {known:.1?} with a key"
        );
    }
    let woken = product.metric("sidescale_pod_wakes_total", &["woken"])?;
    ensure!(woken >= count as f64, "{woken} of {count} were woken");
    node.kubectl()
        .run(&["delete", "namespace", &empty, "--wait=false"])?;
    Ok(())
}

/// Returns manifests of one Deployment each.
fn services(
    kind: &str,
    numbers: impl Iterator<Item = usize>,
    namespace: &str,
) -> Result<Vec<String>> {
    // All of them fit on a machine of two cores.
    let example = Product::example(&[("cpu-request", "10m")])?;
    let place = format!("metadata:\n  namespace: {namespace}\n");
    let one = |number: usize| {
        let named = example.replace("web", &format!("{kind}{number}"));
        named.replacen("metadata:\n", &place, 1)
    };
    Ok(numbers.map(one).collect())
}

/// Has the keys of the known services made, by pods that are gone before the clock starts.
fn make_keys(node: &Node, product: &Product<'_>, count: usize) -> Result<()> {
    let pods = services("known", 0..count, &product.workloads)?;
    let token = "      automountServiceAccountToken: false\n";
    let pods = pods.join("---\n").replace(token, UNSCHEDULED);
    ensure!(pods.contains(UNSCHEDULED), "examples/web.yaml has changed");
    node.kubectl().feed(&["apply", "--filename", "-"], &pods)?;
    wait::until("keys of the known services", LIMIT, || {
        for number in 0..count {
            let key = product.key(&format!("known{number}-authkey"))?;
            ensure!(!key.is_empty(), "the key of {number} is empty");
        }
        Ok(())
    })?;
    node.kubectl().feed(&["delete", "--filename", "-"], &pods)?;
    wait::until("their pods are gone", LIMIT, || {
        let list = ["get", "pods", "--namespace", &product.workloads];
        let pods = node.kubectl().list(&list)?;
        ensure!(pods.is_empty(), "{} pods", pods.len());
        Ok(())
    })
}

/// Waits until the sidecar of each pod runs.
fn started(node: &Node, namespaces: &[&str], count: usize) -> Result<Times> {
    let mut seen: BTreeMap<String, Instant> = BTreeMap::new();
    let mut times = Times::new();
    wait::until("all sidecars run", LIMIT, || {
        for namespace in namespaces {
            let pods = node
                .kubectl()
                .list(&["get", "pods", "--namespace", namespace])?;
            let now = Instant::now();
            for pod in pods {
                let app = pod["metadata"]["labels"]["app"]
                    .as_str()
                    .context("no app")?;
                let since = *seen.entry(app.to_owned()).or_insert(now);
                let status = &pod["status"]["initContainerStatuses"][0];
                if status["state"]["running"].is_object() {
                    times.entry(app.to_owned()).or_insert(now - since);
                }
            }
        }
        ensure!(times.len() == count, "{} of {count} run", times.len());
        Ok(())
    })?;
    Ok(times)
}

/// Returns what Events report of containers that could not be configured, of the pods whose names begin with `prefix`.
pub(crate) fn config_errors(node: &Node, namespace: &str, prefix: &str) -> Result<Vec<String>> {
    let events = node
        .kubectl()
        .list(&["get", "events", "--namespace", namespace])?;
    // The kubelet's reason for CreateContainerConfigError is `Failed`, with the error as its message.
    let failed = |event: &&Value| {
        let of_pod = event["involvedObject"]["name"].as_str();
        of_pod.is_some_and(|pod| pod.starts_with(prefix))
            && event["type"] == "Warning"
            && event["reason"] == "Failed"
    };
    let text = |event: &Value| event["message"].as_str().unwrap_or_default().to_owned();
    Ok(events.iter().filter(failed).map(text).collect())
}
