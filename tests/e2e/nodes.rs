//! Pods and their nodes on a real node and a real Headscale: hostnames after a rollout, lost nodes, unexpected ones.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use crate::support::context::Context;
use crate::support::headscale::{self, Headscale, Node};
use crate::support::kubectl::Kubectl;
use crate::support::levels::Level;
use crate::support::product::{LIMIT, Product, label};
use crate::support::wait;
use crate::{Case, join};

// Each takes minutes, which is why they run with one Headscale; SIDESCALE_E2E_HEADSCALE chooses another.
pub(crate) const CASES: &[Case] = &[
    Case {
        name: "nodes::a_rollout_a_lost_node_and_a_stranger_are_seen_and_mended",
        needs: &[Level::Node, Level::Headscale],
        each: false,
        run: seen_and_mended,
    },
    Case {
        name: "nodes::with_evict_a_lost_pod_is_back_within_a_minute",
        needs: &[Level::Node, Level::Headscale],
        each: true,
        run: evicted,
    },
];

/// Two node lists, each fifteen seconds after the one before, and time for a busy machine.
const TWO_LOOKS: Duration = Duration::from_secs(45);

fn seen_and_mended(context: &Context, program: Option<&headscale::Program>) -> Result<()> {
    let program = program.context("runs for a Headscale")?;
    let node = context.node_with_product()?;
    let test = label("nodes", program);
    let headscale = Headscale::start(
        program,
        node.place(),
        &context.folder.inner(&test)?,
        &context.gateway_address(),
    )?;
    let product = Product::install(node, &headscale, &test, &[])?;
    ensure!(
        !may_evict(node.kubectl(), &product),
        "it may evict, and nobody wants it to"
    );
    product.apply_example(&[])?;
    let first = headscale
        .online("web", LIMIT)
        .with_context(|| product.logs())?;
    let stranger = Stranger::join(node, &headscale, &product)?;

    let kubectl = node.kubectl();
    let apps = product.workloads.as_str();
    kubectl.run(&[
        "rollout",
        "restart",
        "deployment",
        "web",
        "--namespace",
        apps,
    ])?;
    let began = Instant::now();
    let second = wait::until("the new pod's node is online", LIMIT, || {
        let mut nodes = headscale.nodes()?.into_iter();
        let is_new = |node: &Node| node.online && node.id != first.id && node.name != "stranger";
        nodes.find(is_new).context("not yet")
    })?;
    wait::until("the newest node has the name again", 2 * LIMIT, || {
        let nodes = headscale.nodes()?;
        let named = nodes.iter().find(|node| node.name == "web");
        let right = named.is_some_and(|node| node.id == second.id && node.online);
        let gone = nodes.iter().all(|node| node.id != first.id);
        ensure!(right && gone, "{nodes:?}");
        Ok(())
    })
    .with_context(|| product.logs())?;
    println!(
        "rollout on Headscale {}: the new node was {:?}, and \"web\" after {:?}",
        program.version,
        second.name,
        began.elapsed()
    );

    // Before a node is lost: then the service has no more nodes than pods, and its two minutes would begin again.
    stranger.is_seen(kubectl, &product)?;
    let lost_for = lose(&headscale, &product, &second)?;
    let command = command(kubectl, apps)?;
    let arguments: Vec<&str> = command.split_whitespace().skip(1).collect();
    let began = Instant::now();
    kubectl.run(&arguments).with_context(|| command.clone())?;
    headscale.online("web", LIMIT)?;
    println!(
        "deleted node on Headscale {}: Lost after {lost_for:?}; {command:?} brought it back after {:?}",
        program.version,
        began.elapsed()
    );
    // The next process has to know by now that the pod had joined.
    let leases = kubectl.list(&["get", "leases", "--namespace", &product.namespace])?;
    let note = |lease: &serde_json::Value| {
        let noted = lease["metadata"]["annotations"]["sidescale.io/nodes"].as_str()?;
        serde_json::from_str::<serde_json::Value>(noted).ok()
    };
    let note = leases
        .iter()
        .find_map(note)
        .context("no Lease has a note")?;
    ensure!(note["default"]["waiting"] == json!([]), "{note}");
    stranger.end(kubectl)
}

fn evicted(context: &Context, program: Option<&headscale::Program>) -> Result<()> {
    let program = program.context("runs for a Headscale")?;
    let node = context.node_with_product()?;
    let test = label("evict", program);
    let headscale = Headscale::start(
        program,
        node.place(),
        &context.folder.inner(&test)?,
        &context.gateway_address(),
    )?;
    let evict = [("config.rotation.onLost", "evict")];
    let product = Product::install(node, &headscale, &test, &evict)?;
    ensure!(may_evict(node.kubectl(), &product), "it may not evict");
    product.apply_example(&[])?;
    let first = headscale
        .online("web", LIMIT)
        .with_context(|| product.logs())?;
    joined(&product)?;
    delete(&headscale, &first)?;
    let began = Instant::now();
    headscale
        .online("web", Duration::from_secs(60))
        .with_context(|| product.logs())?;
    println!(
        "deleted node on Headscale {}: evicted and back after {:?}",
        program.version,
        began.elapsed()
    );
    Ok(())
}

/// Returns whether the product's account has the right to evict pods.
fn may_evict(kubectl: &Kubectl, product: &Product<'_>) -> bool {
    let account = format!("system:serviceaccount:{}:sidescale", product.namespace);
    // "pods/eviction" would mean a pod with that name.
    let right = ["auth", "can-i", "create", "pods", "--subresource=eviction"];
    let arguments = [right.as_slice(), &["--as", &account]].concat();
    let asked = kubectl.run(&[&arguments[..], &["--namespace", &product.workloads]].concat());
    asked.is_ok_and(|answer| answer.trim() == "yes")
}

/// Deletes the node of a live pod; returns how long it took until that was reported.
fn lose(headscale: &Headscale, product: &Product<'_>, node: &Node) -> Result<Duration> {
    joined(product)?;
    delete(headscale, node)?;
    let began = Instant::now();
    wait::until("the pod is Lost", TWO_LOOKS, || {
        let lost = product.metric("sidescale_nodes", &["state=\"Lost\""])?;
        ensure!(lost > 0.5, "{lost} are lost");
        Ok(())
    })
    .with_context(|| product.logs())?;
    Ok(began.elapsed())
}

fn joined(product: &Product<'_>) -> Result<()> {
    wait::until("the pod counts as joined", LIMIT, || {
        let joined = product.metric("sidescale_nodes", &["state=\"Joined\""])?;
        ensure!((joined - 1.0).abs() < 0.1, "{joined} have joined");
        Ok(())
    })
}

fn delete(headscale: &Headscale, node: &Node) -> Result<()> {
    headscale.cli(&["nodes", "delete", "--identifier", &node.id, "--force"])?;
    Ok(())
}

/// Returns the command in the Event of the lost pod.
fn command(kubectl: &Kubectl, namespace: &str) -> Result<String> {
    let message = event(kubectl, namespace, "Pod", "Lost")?;
    let at = message.find("kubectl exec").context(message.clone())?;
    Ok(message[at..].to_owned())
}

fn event(kubectl: &Kubectl, namespace: &str, kind: &str, reason: &str) -> Result<String> {
    let selector = format!("involvedObject.kind={kind},reason={reason}");
    let arguments = [
        "get",
        "events",
        "--namespace",
        namespace,
        "--field-selector",
        &selector,
    ];
    wait::until(&format!("an Event {reason}"), LIMIT, || {
        let events = kubectl.list(&arguments)?;
        let event = events.first().context("not yet")?;
        Ok(event["message"].as_str().context("no message")?.to_owned())
    })
}

/// A node that joins with the service's key and belongs to no pod.
struct Stranger {
    namespace: String,
}

impl Stranger {
    fn join(
        node: &crate::support::node::Node,
        headscale: &Headscale,
        product: &Product<'_>,
    ) -> Result<Self> {
        let namespace = format!("{}-stranger", product.workloads);
        node.control_plane().namespace(&namespace, &json!({}))?;
        node.kubectl().apply(&json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": "web", "namespace": namespace},
            "stringData": {"key": product.key("web-authkey")?},
        }))?;
        let mut deployment = join::deployment(&namespace, headscale.url());
        let sidecar = &mut deployment["spec"]["template"]["spec"]["initContainers"][0];
        for variable in sidecar["env"].as_array_mut().context("no env")? {
            if variable["name"] == "TS_HOSTNAME" {
                variable["value"] = json!("stranger");
            }
        }
        node.kubectl().apply(&deployment)?;
        headscale.online("stranger", LIMIT)?;
        Ok(Self { namespace })
    }

    fn is_seen(&self, kubectl: &Kubectl, product: &Product<'_>) -> Result<()> {
        wait::until("the stranger is Uninvited", 2 * LIMIT, || {
            let uninvited = product.metric("sidescale_nodes", &["state=\"Uninvited\""])?;
            ensure!((uninvited - 1.0).abs() < 0.1, "{uninvited} are uninvited");
            Ok(())
        })
        .with_context(|| product.logs())?;
        let note = event(kubectl, &product.workloads, "Secret", "Uninvited")?;
        ensure!(
            note.contains("sidescale rotate --now --revoke") && note.contains("nodes delete"),
            "{note}"
        );
        Ok(())
    }

    fn end(&self, kubectl: &Kubectl) -> Result<()> {
        kubectl.run(&["delete", "namespace", &self.namespace, "--wait=false"])?;
        Ok(())
    }
}
