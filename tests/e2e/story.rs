//! The whole path: helm installs the product, a Deployment is applied, its node appears in Headscale.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use crate::support::context::Context;
use crate::support::fence::{self, Fence};
use crate::support::headscale::{self, Headscale, Node};
use crate::support::levels::Level;
use crate::support::node::Node as Machine;
use crate::support::product::{LIMIT, Product, label};
use crate::support::stand_in::StandIn;
use crate::support::wait;
use crate::{Case, join};

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "story::an_annotated_deployment_joins_the_tailnet",
        needs: &[Level::Node, Level::Headscale],
        each: true,
        run: joins,
    },
    Case {
        name: "story::a_private_authority_is_trusted_from_end_to_end",
        needs: &[Level::Node, Level::Headscale],
        each: false,
        run: joins_over_https,
    },
    Case {
        name: "story::without_a_headscale_tailscales_own_control_server_stands_in",
        needs: &[Level::Node],
        each: false,
        run: joins_the_stand_in,
    },
    Case {
        name: "story::a_live_service_gets_a_new_key",
        needs: &[Level::Node, Level::Headscale],
        each: true,
        run: rotates,
    },
];

const CREATED: [&str; 2] = ["call=\"create_pre_auth_key\"", "result=\"ok\""];

fn joins(context: &Context, program: Option<&headscale::Program>) -> Result<()> {
    let program = program.context("runs for a Headscale")?;
    let node = context.node_with_product()?;
    let test = label("story", program);
    let headscale = Headscale::start(
        program,
        node.place(),
        &context.folder.inner(&test)?,
        &context.gateway_address(),
    )?;
    let product = Product::install(node, &headscale, &test, &[])?;
    let pod = join(node, &headscale, &product)?;
    ensure!(pod["status"]["phase"] == "Running", "{}", pod["status"]);
    ensure!(
        pod["metadata"]["ownerReferences"][0]["kind"] == "ReplicaSet",
        "{}",
        pod["metadata"]
    );
    ensure!(
        pod["spec"]["initContainers"][0]["name"] == "tailscale",
        "no native sidecar"
    );
    ensure!(
        !product.key("web-authkey")?.is_empty(),
        "the key in the Secret is empty"
    );
    let injected = product.metric("sidescale_reviews_total", &["verdict=\"inject\""])?;
    ensure!(
        (injected - 1.0).abs() < 0.1,
        "{injected} injections counted"
    );
    let minted = product.metric("sidescale_control_plane_calls_total", &CREATED)?;
    ensure!((minted - 1.0).abs() < 0.1, "{minted} mints counted");
    let (code, said) = product.check()?;
    ensure!(
        code == Some(0) && said.contains("8 checks passed"),
        "{code:?}: {said}"
    );
    each_with_its_own(node, &headscale, &product)
}

/// Two pods of a service have one single-use key each; a restarted container is the same node.
fn each_with_its_own(node: &Machine, headscale: &Headscale, product: &Product<'_>) -> Result<()> {
    let workloads = &product.workloads;
    let example = Product::example(&[("key-mode", "per-pod")])?;
    let example = example
        .replace("web", "own")
        .replace("replicas: 1", "replicas: 2");
    let arguments = ["apply", "--namespace", workloads, "--filename", "-"];
    node.kubectl().feed(&arguments, &example)?;
    let joined = || {
        let nodes = headscale.nodes()?.into_iter();
        let mut nodes: Vec<_> = nodes.filter(|node| node.name.starts_with("own")).collect();
        nodes.sort_by(|one, other| one.id.cmp(&other.id));
        ensure!(
            nodes.len() == 2 && nodes.iter().all(|node| node.online),
            "{nodes:?}"
        );
        let keys: BTreeSet<_> = nodes.iter().filter_map(|node| node.key.clone()).collect();
        Ok((
            nodes.into_iter().map(|node| node.id).collect::<Vec<_>>(),
            keys,
        ))
    };
    let (nodes, keys) =
        wait::until("both pods have joined", LIMIT, joined).with_context(|| product.logs())?;
    ensure!(keys.len() == 2, "two pods joined with keys {keys:?}");
    let listed = headscale.keys()?;
    let used = listed
        .iter()
        .filter(|key| key.used_up && keys.contains(&key.id));
    ensure!(used.count() == 2, "not used up: {listed:?}");

    let secret = [
        "get",
        "secret",
        "headscale-pod-auth-keys",
        "--namespace",
        workloads,
    ];
    let held = || {
        let data = node.kubectl().json(&secret)?["data"].clone();
        let data: std::collections::BTreeMap<String, String> = serde_json::from_value(data)?;
        let keys = data
            .into_iter()
            .filter(|(data_key, _)| data_key.ends_with("-authkey"));
        anyhow::Ok(keys.collect::<Vec<_>>())
    };
    let before = held()?;
    ensure!(before.len() == 2, "{} keys for two pods", before.len());
    let pods = || {
        let selector = ["--selector", "app=own", "--namespace", workloads];
        node.kubectl()
            .list(&[&["get", "pods"], &selector[..]].concat())
    };
    let name = pods()?[0]["metadata"]["name"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let kill = [
        "exec",
        "--namespace",
        workloads,
        &name,
        "--container",
        "tailscale",
    ];
    node.kubectl()
        .run(&[&kill[..], &["--", "killall", "containerboot"]].concat())?;
    wait::until("the container has started again", LIMIT, || {
        let status = pods()?[0]["status"]["initContainerStatuses"][0].clone();
        let again = status["restartCount"] == 1 && status["state"]["running"].is_object();
        ensure!(again, "{status}");
        Ok(())
    })?;
    wait::until("its node is back", LIMIT, || {
        let (now, _) = joined()?;
        ensure!(now == nodes, "{now:?} are online, want {nodes:?}");
        Ok(())
    })?;
    ensure!(held()? == before, "a pod that has joined got another key");
    Ok(())
}

/// Headscale has a certificate that only the configuration trusts: both rotation and the sidecar have to use it.
fn joins_over_https(context: &Context, program: Option<&headscale::Program>) -> Result<()> {
    let program = program.context("runs for a Headscale")?;
    let node = context.node_with_product()?;
    let test = label("https", program);
    let headscale = Headscale::start_tls(
        program,
        node.place(),
        &context.folder.inner(&test)?,
        &context.gateway_address(),
    )?;
    ensure!(
        headscale.url().starts_with("https://"),
        "{}",
        headscale.url()
    );
    let authority = headscale.authority().context("no private authority")?;
    let values = [
        ("controlPlane.allowInsecure", "false"),
        ("controlPlane.caBundle", authority),
    ];
    let product = Product::install(node, &headscale, &test, &values)?;
    let fence = fenced(node, &product, headscale.url())?;
    let pod = join(node, &headscale, &product)?;
    let refused = fence.refused()?;
    ensure!(
        refused == 0,
        "{refused} packets to others than Headscale and the API server"
    );
    fence.is_tried()?;
    let held = product.value("ca.crt")?;
    ensure!(
        held.trim() == authority.trim(),
        "ca.crt in the Secret is another: {held}"
    );
    let sidecar = &pod["spec"]["initContainers"][0];
    let folder = sidecar["env"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|variable| variable["name"] == "SSL_CERT_DIR")
        .context("the sidecar has no SSL_CERT_DIR")?;
    let mounted = sidecar["volumeMounts"]
        .as_array()
        .into_iter()
        .flatten()
        .any(|mount| mount["mountPath"] == folder["value"]);
    ensure!(mounted, "nothing is mounted at {folder}");
    Ok(())
}

/// From its start on, the product reaches only this server and the API server, whose Service it knows.
fn fenced<'a>(node: &'a Machine, product: &Product<'_>, url: &str) -> Result<Fence<'a>> {
    let selector = "app.kubernetes.io/name=sidescale";
    let own = &product.namespace;
    let pod = node.kubectl().ready_pod(own, selector, LIMIT)?;
    let service = ["get", "service", "kubernetes", "--namespace", "default"];
    let service = node.kubectl().json(&service)?;
    let address = service["spec"]["clusterIP"]
        .as_str()
        .context("no address")?;
    let headscale = url.rsplit('/').next().unwrap_or_default().to_owned();
    let fence = Fence::around(node, &pod, &[format!("{address}:443"), headscale])?;
    fence::restart(node, &pod)?;
    wait::until("the product is up again", LIMIT, || {
        let pod = node.kubectl().ready_pod(own, selector, LIMIT)?;
        let status = &pod["status"]["containerStatuses"][0];
        ensure!(status["restartCount"] == 1, "{status}");
        Ok(())
    })?;
    Ok(fence)
}

/// The part of the test that works without a Headscale: real sidecars, and keys that a real control server checks.
fn joins_the_stand_in(context: &Context, _: Option<&headscale::Program>) -> Result<()> {
    let node = context.node_with_product()?;
    let addresses = [context.gateway_address(), context.gateway_address()];
    let mut server = StandIn::start(node.place(), &context.folder.inner("stand-in")?, addresses)?;
    let api_key = || Ok(server.create_api_key());
    let values = [("controlPlane.apiUrl", server.api_url())];
    let product = Product::install_for(node, server.login_server(), &api_key, "stand-in", &values)?;
    product.apply_example(&[])?;
    wait::until("the node has joined", LIMIT, || {
        let nodes = server.nodes()?;
        ensure!(nodes == ["web"], "{nodes:?}");
        Ok(())
    })
    .with_context(|| product.logs())?;
    node.kubectl()
        .ready_pod(&product.workloads, "app=web", LIMIT)?;
    let minted = product.metric("sidescale_control_plane_calls_total", &CREATED)?;
    ensure!((minted - 1.0).abs() < 0.1, "{minted} mints counted");
    Ok(())
}

/// Applies the example and waits until its node is online; returns its pod.
fn join(node: &Machine, headscale: &Headscale, product: &Product<'_>) -> Result<serde_json::Value> {
    product.apply_example(&[])?;
    let joined = headscale
        .online("web", LIMIT)
        .with_context(|| product.logs())?;
    let pod = node
        .kubectl()
        .ready_pod(&product.workloads, "app=web", LIMIT)?;
    let keys = headscale.keys()?;
    ensure!(keys.len() == 1, "one pod, {} keys: {keys:?}", keys.len());
    ensure!(
        joined.key.as_ref() == keys.first().map(|key| &key.id),
        "the node names another key than {keys:?}: {joined:?}"
    );
    Ok(pod)
}

fn rotates(context: &Context, program: Option<&headscale::Program>) -> Result<()> {
    let program = program.context("runs for a Headscale")?;
    let node = context.node_with_product()?;
    let test = label("rotate", program);
    let headscale = Headscale::start(
        program,
        node.place(),
        &context.folder.inner(&test)?,
        &context.gateway_address(),
    )?;
    let product = Product::install(
        node,
        &headscale,
        &test,
        &[
            ("config.rotation.overlap", "10s"),
            ("config.rotation.minAuthKeyExpiration", "30s"),
            ("config.rotation.minAuthKeyRenewalGap", "10s"),
        ],
    )?;
    // Due 30 s after creation.
    product.apply_example(&[
        ("auth-key-expiration", "110s"),
        ("auth-key-rotation-buffer", "80s"),
    ])?;
    let first = headscale
        .online("web", LIMIT)
        .with_context(|| product.logs())?;
    let old_key = product.key("web-authkey")?;

    let mut seen = BTreeSet::new();
    wait::until("the key is replaced", LIMIT, || {
        seen.insert(online_ids(&headscale)?);
        ensure!(
            product.key("web-authkey")? != old_key,
            "still the first key"
        );
        Ok(())
    })?;
    let stayed = BTreeSet::from([vec![first.id.clone()]]);
    ensure!(
        seen == stayed,
        "the node did not stay online throughout: {seen:?}, want {stayed:?}"
    );

    node.kubectl().run(&[
        "scale",
        "deployment",
        "web",
        "--replicas",
        "2",
        "--namespace",
        &product.workloads,
    ])?;
    wait::until("a new pod joins with the new key", LIMIT, || {
        let online = online_ids(&headscale)?;
        ensure!(
            online.len() == 2 && online.contains(&first.id),
            "online: {online:?}"
        );
        Ok(())
    })?;

    wait::until("the old key has ended", LIMIT, || {
        let now = jiff::Timestamp::now().as_second();
        let live = headscale
            .keys()?
            .into_iter()
            .filter(|key| key.expires > now)
            .count();
        ensure!(live == 1, "{live} live keys");
        Ok(())
    })?;
    refuses(node, &headscale, &product, &old_key)
}

/// A real containerboot cannot join with an expired key.
fn refuses(node: &Machine, headscale: &Headscale, product: &Product<'_>, key: &str) -> Result<()> {
    let namespace = format!("{}-late", product.workloads);
    node.control_plane().namespace(&namespace, &json!({}))?;
    node.kubectl().apply(&json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": "web", "namespace": namespace},
        "stringData": {"key": key},
    }))?;
    let mut late = join::deployment(&namespace, headscale.url());
    for variable in late["spec"]["template"]["spec"]["initContainers"][0]["env"]
        .as_array_mut()
        .context("no env")?
    {
        if variable["name"] == "TS_HOSTNAME" {
            variable["value"] = json!("late");
        }
    }
    node.kubectl().apply(&late)?;
    wait::until("containerboot says that the key is refused", LIMIT, || {
        let arguments = [
            "logs",
            "--namespace",
            &namespace,
            "--selector",
            "app=web",
            "--container",
            "tailscale",
            "--tail",
            "-1",
        ];
        let log = node.kubectl().run(&arguments)?;
        ensure!(
            log.contains("expired"),
            "{}",
            log.lines().last().unwrap_or_default()
        );
        Ok(())
    })?;
    let nodes = headscale.nodes()?;
    ensure!(
        nodes.iter().all(|node| node.name != "late"),
        "joined with an ended key: {nodes:?}"
    );
    node.kubectl()
        .run(&["delete", "namespace", &namespace, "--wait=false"])?;
    Ok(())
}

fn online_ids(headscale: &Headscale) -> Result<Vec<String>> {
    let online = headscale.nodes()?.into_iter().filter(|node| node.online);
    let mut ids: Vec<String> = online.map(|Node { id, .. }| id).collect();
    ids.sort();
    Ok(ids)
}
