//! One thing is broken on purpose in each run, and the run must fail at that step, with that step's own evidence.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::Case;
use crate::first;
use crate::support::context::Context;
use crate::support::headscale::{self, Headscale};
use crate::support::levels::Level;
use crate::support::node::{GATEWAY, Node};
use crate::support::product::{KEYS, LIMIT, Product};
use crate::support::{metrics, wait};

pub(crate) const CASES: &[Case] = &[
    case(
        "negative::without_a_right_on_secrets_the_log_names_the_refusal",
        no_right,
    ),
    case(
        "negative::with_a_wrong_ca_bundle_the_pod_starts_without_a_sidecar",
        wrong_bundle,
    ),
    case(
        "negative::with_a_wrong_secret_key_the_container_names_it",
        wrong_secret_key,
    ),
    case(
        "negative::with_a_wrong_login_server_no_node_shows_up",
        wrong_login_server,
    ),
];

type Run = fn(&Context, Option<&headscale::Program>) -> Result<()>;

const fn case(name: &'static str, run: Run) -> Case {
    Case {
        name,
        needs: &[Level::Node, Level::Headscale],
        each: false,
        run,
    }
}

fn no_right(context: &Context, program: Option<&headscale::Program>) -> Result<()> {
    let (node, headscale) = prepare(context, program, "no-right")?;
    let product = Product::install(node, &headscale, "no-right", &[])?;
    product.take_right("secrets")?;
    product.apply_example(&[])?;
    wait::until("our log names the refused call", LIMIT, || {
        let logs = product.logs();
        let named = logs
            .lines()
            .any(|line| line.contains("403") && line.contains(KEYS));
        ensure!(named, "{}", last(&logs));
        Ok(())
    })?;
    waiting_for(node, &product, KEYS)?;
    ensure!(headscale.nodes()?.is_empty(), "a node without a key");
    Ok(())
}

fn wrong_bundle(context: &Context, program: Option<&headscale::Program>) -> Result<()> {
    let (node, headscale) = prepare(context, program, "wrong-bundle")?;
    let product = Product::install(node, &headscale, "wrong-bundle", &[])?;
    // Without the right, the product cannot repair what is broken next.
    product.take_right("mutatingwebhookconfigurations")?;
    let mut hooks = node
        .kubectl()
        .json(&["get", "mutatingwebhookconfiguration", "sidescale"])?;
    let stranger = rcgen::generate_simple_self_signed(vec!["stranger".to_owned()])?;
    let bundle = base64::Engine::encode(
        &base64::engine::general_purpose::STANDARD,
        stranger.cert.pem(),
    );
    for hook in hooks["webhooks"].as_array_mut().context("no entries")? {
        hook["clientConfig"]["caBundle"] = json!(bundle);
    }
    node.kubectl()
        .feed(&["replace", "--filename", "-"], &hooks.to_string())?;
    let before = failed_open(node)?;
    product.apply_example(&[])?;
    let pod = node
        .kubectl()
        .ready_pod(&product.workloads, "app=web", LIMIT)?;
    ensure!(
        pod["spec"]["initContainers"].is_null(),
        "injected all the same: {}",
        pod["spec"]["initContainers"]
    );
    let after = failed_open(node)?;
    ensure!(
        after > before,
        "the API server's fail-open counter stayed at {after}"
    );
    diagnosed(
        &product,
        &[
            "FAIL  injection  no sidecar: its annotations request one, and the webhook never saw the pod",
            "next: kubectl rollout restart",
        ],
    )
}

fn wrong_secret_key(context: &Context, program: Option<&headscale::Program>) -> Result<()> {
    let (node, headscale) = prepare(context, program, "wrong-key")?;
    let product = Product::install(node, &headscale, "wrong-key", &[])?;
    node.kubectl().apply(&json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": "by-hand", "namespace": product.workloads},
        "stringData": {"right": "of no use"},
    }))?;
    product.apply_example(&[("auth-key-secret", "by-hand/misspelt")])?;
    waiting_for(node, &product, "misspelt")?;
    // The test of new services really finds this Event when a Secret is missing.
    wait::until("an Event says so too", LIMIT, || {
        let errors = first::config_errors(node, &product.workloads, "web")?;
        ensure!(
            errors.iter().any(|error| error.contains("misspelt")),
            "{errors:?}"
        );
        Ok(())
    })?;
    wait::until("an Event of ours says what to do", LIMIT, || {
        let events = node
            .kubectl()
            .list(&["get", "events", "--namespace", &product.workloads])?;
        let ours = events.iter().find(|event| event["reason"] == "KeyMissing");
        let ours = ours.context("no such Event")?;
        ensure!(ours["involvedObject"]["kind"] == "Pod", "{ours}");
        let note = ours["message"].as_str().unwrap_or_default();
        for part in [
            "container tailscale",
            "/by-hand",
            "misspelt",
            "auth-key-secret",
        ] {
            ensure!(note.contains(part), "{part} is not in: {note}");
        }
        Ok(())
    })?;
    ensure!(headscale.nodes()?.is_empty(), "a node without a key");
    diagnosed(
        &product,
        &[
            "has no data key misspelt; it has right",
            "next: kubectl create secret generic by-hand",
        ],
    )
}

fn wrong_login_server(context: &Context, program: Option<&headscale::Program>) -> Result<()> {
    let (node, headscale) = prepare(context, program, "wrong-server")?;
    let nobody = format!("http://{GATEWAY}:9");
    let values = [
        ("controlPlane.loginServer", nobody.as_str()),
        ("controlPlane.apiUrl", headscale.url()),
    ];
    let product = Product::install(node, &headscale, "wrong-server", &values)?;
    product.apply_example(&[])?;
    wait::until("the tailscale container runs", LIMIT, || {
        let state = sidecar(node, &product)?["state"].take();
        ensure!(state["running"].is_object(), "{state}");
        Ok(())
    })?;
    wait::until("it tries the wrong server", LIMIT, || {
        let arguments = [
            "logs",
            "--namespace",
            &product.workloads,
            "--selector",
            "app=web",
            "--container",
            "tailscale",
            "--tail",
            "-1",
        ];
        let log = node.kubectl().run(&arguments)?;
        ensure!(log.contains(&format!("{GATEWAY}:9")), "{}", last(&log));
        Ok(())
    })?;
    ensure!(
        !product.key("web-authkey")?.is_empty(),
        "the key in the Secret is empty"
    );
    ensure!(
        headscale.nodes()?.is_empty(),
        "a node although its server is wrong"
    );
    diagnosed(
        &product,
        &[
            "no node web",
            &format!("the sidecar cannot reach the control server at {nobody}"),
            &format!("curl {nobody}/health"),
        ],
    )?;
    let status = sidecar(node, &product)?;
    ensure!(
        status["restartCount"] == 0 && status["state"]["running"].is_object(),
        "it did not keep running: {status}"
    );
    Ok(())
}

/// Checks that one command names the cause and what to type next.
fn diagnosed(product: &Product<'_>, parts: &[&str]) -> Result<()> {
    let (code, said) = product.check()?;
    for part in parts {
        ensure!(said.contains(part), "want {part:?} in\n{said}");
    }
    ensure!(code == Some(1), "{code:?}: {said}");
    Ok(())
}

fn prepare<'a>(
    context: &'a Context,
    program: Option<&headscale::Program>,
    test: &str,
) -> Result<(&'a Node, Headscale)> {
    let node = context.node_with_product()?;
    let folder = context.folder.inner(test)?;
    let program = program.context("runs for a Headscale")?;
    Ok((
        node,
        Headscale::start(program, node.place(), &folder, &context.gateway_address())?,
    ))
}

/// Waits until the sidecar waits for its Secret, with a message that contains this name.
fn waiting_for(node: &Node, product: &Product<'_>, name: &str) -> Result<()> {
    wait::until(
        "the container waits with CreateContainerConfigError",
        LIMIT,
        || {
            let waiting = sidecar(node, product)?["state"]["waiting"].take();
            ensure!(
                waiting["reason"] == "CreateContainerConfigError",
                "{waiting}"
            );
            ensure!(
                waiting["message"]
                    .as_str()
                    .is_some_and(|message| message.contains(name)),
                "{waiting}"
            );
            Ok(())
        },
    )
}

fn sidecar(node: &Node, product: &Product<'_>) -> Result<Value> {
    let pods = node.kubectl().list(&[
        "get",
        "pods",
        "--namespace",
        &product.workloads,
        "--selector",
        "app=web",
    ])?;
    let pod = pods.into_iter().next().context("no pod yet")?;
    let status = pod["status"]["initContainerStatuses"][0].clone();
    ensure!(status["name"] == "tailscale", "no sidecar: {status}");
    Ok(status)
}

/// Returns how often the API server admitted a pod because our webhook could not be called.
fn failed_open(node: &Node) -> Result<f64> {
    let page = node.kubectl().raw("/metrics")?;
    metrics::sum(
        &page,
        "apiserver_admission_webhook_fail_open_count",
        &["sidescale.io"],
    )
}

fn last(text: &str) -> &str {
    text.lines().last().unwrap_or_default()
}
