//! From an empty cluster to a node in the tailnet only by `helm install` and `kubectl apply`: no key is typed.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use jiff::Timestamp;
use serde_json::Value;
use sidescale_control_plane::Error;
use sidescale_core::id::KeyId;
use sidescale_core::objects::Node as TailnetNode;

use crate::diagnosis::Person;
use crate::support::context::Context;
use crate::support::headscale::Program;
use crate::support::levels::Level;
use crate::support::product::{LIMIT, Product, label};
use crate::support::wait;
use crate::{Case, diagnosis};

mod beside;
mod server_keys;

use beside::Beside;
use server_keys::ServerKeys;

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "unaided::install_and_apply_are_all_it_takes",
        needs: &[Level::Node, Level::Headscale],
        each: true,
        run: joins,
    },
    Case {
        name: "unaided::headscale_serves_with_the_keys_given_and_without_its_manager",
        needs: &[Level::Node, Level::Headscale],
        each: false,
        run: serves,
    },
];

/// Lifetime of the app's keys, and how long before expiry each is replaced.
const LIFE: Duration = Duration::from_secs(110);
const BUFFER: Duration = Duration::from_secs(80);
/// Node lists without the node until that is reported, and one that was in progress.
const LOOKS: f64 = 3.0;

fn joins(context: &Context, program: Option<&Program>) -> Result<()> {
    let program = program.context("runs for a Headscale")?;
    let node = context.node_with_product()?;
    let test = label("unaided", program);
    let headscale = Beside::new(context, node, program, &test)?;
    let overlap = [
        ("config.rotation.overlap", "10s"),
        ("config.rotation.minAuthKeyExpiration", "30s"),
        ("config.rotation.minAuthKeyRenewalGap", "10s"),
    ];
    let began = Instant::now();
    let product = Product::install_alone(node, &headscale.url(), &test, &overlap)?;
    headscale.apply()?;
    product.apply_example(&[
        ("auth-key-expiration", &format!("{}s", LIFE.as_secs())),
        (
            "auth-key-rotation-buffer",
            &format!("{}s", BUFFER.as_secs()),
        ),
    ])?;
    let pod = node
        .kubectl()
        .ready_pod(&headscale.namespace, "app=headscale", LIMIT)
        .with_context(|| headscale.logs())?;
    let containers = pod["spec"]["containers"].as_array();
    let names = containers.into_iter().flatten();
    let names: Vec<_> = names.map(|container| &container["name"]).collect();
    ensure!(names == ["headscale", "apikey-manager"], "{names:?}");
    let first = wait::until("the app's node is online", LIMIT, || {
        let nodes = headscale.nodes()?;
        let web = nodes.iter().find(|node| node.given_name == "web");
        let online = web.filter(|node| node.online);
        online.cloned().with_context(|| format!("{nodes:?}"))
    })
    .with_context(|| headscale.logs())
    .with_context(|| product.logs())?;
    let joined_after = began.elapsed();

    let second = rotates(&headscale, &product, &first)?;
    let old = ends_by_id(&headscale, first.pre_auth_key, second).with_context(|| product.logs())?;
    let rolled = Instant::now();
    let newest = rolls(&headscale, &product, &first, &old).with_context(|| product.logs())?;
    let named_after = rolled.elapsed();
    let newest = match context.preferred() {
        Some(preferred) if preferred.version == program.version => {
            diagnosed(&headscale, &product, &newest).with_context(|| product.logs())?
        }
        _ => newest,
    };
    let lost_after = loses(&headscale, &product, newest)?;
    println!(
        "Headscale {}: helm install -> node online {joined_after:.1?}; rollout -> named web again {named_after:.1?}; \
         node deleted -> Lost {lost_after:.1?}",
        program.version
    );
    Ok(())
}

/// The key is replaced while its node stays online; returns the new one.
fn rotates(headscale: &Beside<'_>, product: &Product<'_>, first: &TailnetNode) -> Result<KeyId> {
    let old = first.pre_auth_key.context("the node names no key")?;
    let mut seen = BTreeSet::new();
    let second = wait::until("the key is replaced", LIMIT, || {
        let online = headscale.nodes()?.into_iter().filter(|node| node.online);
        seen.insert(online.map(|node| node.id).collect::<Vec<_>>());
        let newest = headscale.keys()?.into_iter().map(|key| key.id).max();
        newest.filter(|newest| *newest != old).context("not yet")
    })
    .with_context(|| product.logs())?;
    ensure!(
        seen == BTreeSet::from([vec![first.id]]),
        "the node did not stay online throughout: {seen:?}"
    );
    Ok(second)
}

/// The old key expires long before its natural expiry, and one live key is left; returns the expired ones.
fn ends_by_id(
    headscale: &Beside<'_>,
    old: Option<KeyId>,
    second: KeyId,
) -> Result<BTreeSet<KeyId>> {
    let old = old.context("checked")?;
    let keys = wait::until("one live key is left", LIMIT, || {
        let (keys, now) = (headscale.keys()?, Timestamp::now());
        let live = keys
            .iter()
            .filter(|key| key.expiration.is_some_and(|end| now < end));
        let live: Vec<_> = live.map(|key| key.id).collect();
        ensure!(live.len() == 1 && live[0] >= second, "{live:?} live");
        Ok(keys)
    })?;
    let row = keys.iter().find(|key| key.id == old);
    let row = row.context("the old key's row is gone, which a node names")?;
    let (made, end) = (row.created_at.context("no time")?, row.expiration);
    let lived = end.context("no end")?.duration_since(made);
    let natural = i64::try_from(LIFE.as_secs())?;
    ensure!(
        lived.as_secs() < natural - 20,
        "the old key lived {lived}: nobody ended it"
    );
    let over = keys.iter().filter(|key| key.id < second);
    Ok(over.map(|key| key.id).collect())
}

/// A rolling restart: the new pod joins with a new key, and its node gets the hostname.
fn rolls(
    headscale: &Beside<'_>,
    product: &Product<'_>,
    first: &TailnetNode,
    old: &BTreeSet<KeyId>,
) -> Result<TailnetNode> {
    let own = ["--namespace", product.workloads.as_str()];
    let restart = ["rollout", "restart", "deployment", "web"];
    headscale
        .node
        .kubectl()
        .run(&[&restart[..], &own].concat())?;
    wait::until("the newest node has the name", 2 * LIMIT, || {
        let nodes = headscale.nodes()?;
        let named = nodes.iter().find(|node| node.given_name == "web");
        let newest = named.filter(|node| node.online && node.id != first.id);
        let newest = newest.with_context(|| format!("{nodes:?}"))?;
        ensure!(nodes.len() == 1, "older ones are left: {nodes:?}");
        let key = newest.pre_auth_key.context("the node names no key")?;
        ensure!(!old.contains(&key), "it joined with {key:?}, which is over");
        Ok(newest.clone())
    })
}

/// Every command of the page prints what it says, and the one for a new node works; returns that node.
fn diagnosed(
    headscale: &Beside<'_>,
    product: &Product<'_>,
    node: &TailnetNode,
) -> Result<TailnetNode> {
    let began = Instant::now();
    let person = Person::new(headscale.node, product, "web", &headscale.namespace)?;
    person.looks()?;
    let (code, said) = product.check()?;
    let named = "ok    names          web.tailnet.internal in the tailnet";
    ensure!(code == Some(0) && said.contains(named), "{code:?}: {said}");
    let looked = began.elapsed();
    let before = person.logs_in(diagnosis::NEW, 0, &node.id.0.to_string())?;
    let log = person.is_back(before)?;
    ensure!(log.contains("Running 'tailscale up'"), "{log}");
    let new = wait::until("a new node is online", LIMIT, || {
        let nodes = headscale.nodes()?;
        ensure!(nodes.len() == 1 && nodes[0].id != node.id, "{nodes:?}");
        ensure!(nodes[0].online, "{nodes:?}");
        Ok(nodes[0].clone())
    })?;
    println!(
        "diagnosis: looks {looked:.1?}, with a new node {:.1?}",
        began.elapsed()
    );
    Ok(new)
}

/// The node of a live pod is deleted; returns how long it took until that was reported.
fn loses(headscale: &Beside<'_>, product: &Product<'_>, node: TailnetNode) -> Result<Duration> {
    let is = |state: &str| -> Result<()> {
        let label = format!("state=\"{state}\"");
        let count = product.metric("sidescale_nodes", &[&label])?;
        ensure!((count - 1.0).abs() < 0.1, "{count} are {state}");
        Ok(())
    };
    wait::until("the pod counts as joined", LIMIT, || is("Joined"))?;
    // After a slow node list comes a longer pause: the number of lists counts.
    let listed = ["call=\"list_nodes\"", "result=\"ok\""];
    let looks = || product.metric("sidescale_control_plane_calls_total", &listed);
    headscale.delete_node(node.id)?;
    let (began, before) = (Instant::now(), looks()?);
    wait::until("the pod is Lost", LIMIT, || is("Lost")).with_context(|| product.logs())?;
    let (took, looked) = (began.elapsed(), looks()? - before);
    ensure!(looked <= LOOKS, "only told after {looked} looks");
    Ok(took)
}

/// A pod with an image that cannot be pulled is never ready; Headscale is reached anyway, with the keys of a
/// Secret created later.
fn serves(context: &Context, program: Option<&Program>) -> Result<()> {
    let program = program.context("runs for a Headscale")?;
    let node = context.node_with_product()?;
    let test = label("unpullable", program);
    let headscale = Beside::new(context, node, program, &test)?;
    let values = [("config.webhook.image", "docker.io/sidescale-e2e/nowhere:1")];
    let _product = Product::install_alone(node, &headscale.url(), &test, &values)?;
    headscale.apply_with("apikey-manager,server-keys")?;
    let keys = ServerKeys::new();
    keys.are_missed(&headscale)
        .with_context(|| headscale.logs())?;
    keys.give(&headscale)?;
    wait::until("the manager's image is missed", LIMIT, || {
        let pod = headscale.pod()?;
        let statuses = pod["status"]["containerStatuses"]
            .as_array()
            .context("no statuses")?;
        let state = |name: &str| {
            let found = statuses.iter().find(|status| status["name"] == name);
            found.map_or(Value::Null, |status| status["state"].clone())
        };
        let reason = state("apikey-manager")["waiting"]["reason"].clone();
        ensure!(
            reason == "ImagePullBackOff" || reason == "ErrImagePull",
            "{statuses:?}"
        );
        ensure!(state("headscale").get("running").is_some(), "{statuses:?}");
        Ok(())
    })
    .with_context(|| headscale.logs())?;
    wait::until("Headscale answers through its Service", LIMIT, || {
        let answer = headscale.call("hskey-api-nobodys", async |headscale| {
            Ok(headscale.list_users().await)
        })?;
        // It knows no API key yet, and answers so itself.
        match answer {
            Err(Error::Unauthorized { .. }) => Ok(()),
            other => bail!("{other:?}"),
        }
    })
    .with_context(|| headscale.logs())?;
    let pod = headscale.pod()?;
    let conditions = pod["status"]["conditions"].as_array();
    let ready = conditions.into_iter().flatten();
    let ready = ready.filter(|condition| condition["type"] == "Ready");
    let ready: Vec<_> = ready.map(|condition| &condition["status"]).collect();
    ensure!(ready == ["False"], "the pod is ready, so nothing was shown");
    keys.are_in(&headscale, &pod)?;
    keys.are_used(context, &headscale, program)
}
