//! The first pod of a new service, on a real kubelet: its key exists before the kubelet looks for it.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::Case;
use crate::support::context::Context;
use crate::support::headscale::{self, Headscale};
use crate::support::levels::Level;
use crate::support::node::{BUSYBOX, Node};
use crate::support::product::{LIMIT, Product, end_pods};
use crate::support::wait;

pub(crate) const CASES: &[Case] = &[Case {
    name: "first::no_new_service_waits_for_its_secret",
    needs: &[Level::Node, Level::Headscale],
    each: false,
    run: ten_services,
}];

const SERVICES: usize = 10;

fn ten_services(context: &Context, program: Option<&headscale::Program>) -> Result<()> {
    let program = program.context("runs for a Headscale")?;
    let node = context.node_with_product()?;
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
    let mut waited = Vec::new();
    let example = Product::example(&[])?;
    for n in 0..SERVICES {
        let service = format!("s{n}");
        // Half of them are also the first of their namespace, whose Secret does not exist yet.
        let namespace = match n % 2 {
            0 => product.workloads.clone(),
            _ => format!("{}-{n}", product.workloads),
        };
        node.control_plane().namespace(&namespace, &json!({}))?;
        node.kubectl().feed(
            &["apply", "--namespace", &namespace, "--filename", "-"],
            &example.replace("web", &service),
        )?;
        started(node, &namespace, &service)?;
        let errors = config_errors(node, &namespace, &service)?;
        if !errors.is_empty() {
            waited.push(format!("{service}: {}", errors.join("; ")));
        }
        let key = product.key_in(&namespace, &format!("{service}-authkey"))?;
        ensure!(!key.is_empty(), "the key of {service} is empty");
        if namespace != product.workloads {
            end_pods(node.kubectl(), &namespace);
            node.kubectl()
                .run(&["delete", "namespace", &namespace, "--wait=false"])?;
        }
    }
    eprintln!(
        "e2e: {} of {SERVICES} new services started without CreateContainerConfigError",
        SERVICES - waited.len()
    );
    ensure!(waited.is_empty(), "{}", waited.join("\n"));
    Ok(())
}

/// Waits until the sidecar of the only pod runs.
fn started(node: &Node, namespace: &str, service: &str) -> Result<()> {
    let selector = format!("app={service}");
    wait::until("the sidecar runs", LIMIT, || {
        let pods = node.kubectl().list(&[
            "get",
            "pods",
            "--namespace",
            namespace,
            "--selector",
            &selector,
        ])?;
        let pod = pods.first().context("no pod yet")?;
        let status = &pod["status"]["initContainerStatuses"][0];
        ensure!(status["state"]["running"].is_object(), "{}", pod["status"]);
        Ok(())
    })
}

/// Returns what the Events of a Deployment's pods report of containers that could not be configured.
pub(crate) fn config_errors(node: &Node, namespace: &str, deployment: &str) -> Result<Vec<String>> {
    let events = node
        .kubectl()
        .list(&["get", "events", "--namespace", namespace])?;
    // The kubelet's reason for CreateContainerConfigError is `Failed`, with the error as its message.
    let failed = |event: &&Value| {
        let of_pod = event["involvedObject"]["name"].as_str();
        of_pod.is_some_and(|pod| pod.starts_with(&format!("{deployment}-")))
            && event["type"] == "Warning"
            && event["reason"] == "Failed"
    };
    let text = |event: &Value| event["message"].as_str().unwrap_or_default().to_owned();
    Ok(events.iter().filter(failed).map(text).collect())
}
