//! Keys that live for seconds on a real Headscale: every join with the current value of the Secret succeeds.

use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::Case;
use crate::support::context::Context;
use crate::support::headscale::{Headscale, Node, Program};
use crate::support::levels::Level;
use crate::support::processes::{Place, output};
use crate::support::product::{LIMIT, Product, label};
use crate::support::programs::Programs;
use crate::support::wait;

// It takes three minutes, which is why it runs with one Headscale; SIDESCALE_E2E_HEADSCALE chooses another.
pub(crate) const CASES: &[Case] = &[Case {
    name: "joiner::a_node_each_second_is_never_refused_while_keys_of_seconds_are_replaced",
    needs: &[Level::Node, Level::Headscale],
    each: false,
    run: never_refused,
}];

const NODES: u32 = 180;
const EACH: Duration = Duration::from_secs(1);
/// Each key is in the Secret for 20 s.
const LIFE: &str = "40s";
const BUFFER: &str = "20s";
/// Short durations, and as many keys as needed.
const VALUES: [(&str, &str); 3] = [
    ("config.rotation.overlap", "5s"),
    ("config.rotation.minAuthKeyExpiration", "30s"),
    ("config.rotation.keysPerService", "100"),
];

/// Time between a key's replacement and its natural expiry.
const LEFT: Duration = Duration::from_secs(20);

fn never_refused(context: &Context, program: Option<&Program>) -> Result<()> {
    let program = program.context("runs for a Headscale")?;
    let node = context.node_with_product()?;
    let test = label("joiner", program);
    let folder = context.folder.inner(&test)?;
    let address = context.gateway_address();
    let headscale = Headscale::start(program, node.place(), &folder, &address)?;
    let product = Product::install(node, &headscale, &test, &VALUES)?;
    product.apply_example(&[
        ("auth-key-expiration", LIFE),
        ("auth-key-rotation-buffer", BUFFER),
    ])?;
    let live = headscale
        .online("web", LIMIT)
        .with_context(|| product.logs())?;
    let pod = node
        .kubectl()
        .ready_pod(&product.workloads, "app=web", LIMIT)?;

    let joiner = Joiner {
        program: Programs::prepare()?.tailscale("joiner"),
        place: node.place(),
        server: headscale.url(),
    };
    let mut keys = Vec::new();
    let mut refused = Vec::new();
    let mut slowest = Duration::ZERO;
    thread::scope(|scope| -> Result<()> {
        let (sender, answers) = mpsc::channel();
        let began = Instant::now();
        for n in 0..NODES {
            thread::sleep((began + EACH * n).saturating_duration_since(Instant::now()));
            let key = product.key("web-authkey")?;
            if keys.last() != Some(&key) {
                keys.push(key.clone());
            }
            if n % 5 == 0 {
                stays_online(&headscale, &live)?;
            }
            let (joiner, sender) = (&joiner, sender.clone());
            scope.spawn(move || {
                let began = Instant::now();
                let joined = joiner.join(&format!("n{n}"), &key);
                sender.send((joined, began.elapsed()))
            });
        }
        ensure!(
            began.elapsed() < EACH * NODES * 5 / 4,
            "{NODES} nodes took {:?}: not one each second",
            began.elapsed()
        );
        drop(sender);
        for (joined, took) in answers {
            refused.extend(joined.err().map(|error| format!("{error:#}")));
            slowest = slowest.max(took);
        }
        Ok(())
    })?;
    println!(
        "{NODES} nodes, one each second, with {} keys, each replaced after 20 s, on Headscale {}: {} refused; the slowest took {slowest:.1?}",
        keys.len(),
        program.version,
        refused.len()
    );
    ensure!(
        refused.is_empty(),
        "such as {:?}\n{}",
        refused.first(),
        product.logs()
    );
    ensure!(keys.len() >= 7, "only {} keys", keys.len());
    let now = node
        .kubectl()
        .ready_pod(&product.workloads, "app=web", LIMIT)?;
    ensure!(
        started(&now) == started(&pod),
        "the live pod was disturbed: {:?}, before {:?}",
        started(&now),
        started(&pod)
    );
    ends_after_its_overlap(&joiner, &product)
}

/// Checks that the node that joined first is connected, whatever happens to the key that it joined with.
fn stays_online(headscale: &Headscale, live: &Node) -> Result<()> {
    let nodes = headscale.nodes()?;
    let found = nodes.iter().find(|node| node.id == live.id);
    let found = found.context("the live pod's node is gone")?;
    ensure!(found.online, "the live pod's node is offline: {found:?}");
    Ok(())
}

/// Returns the pod, and when and how often each of its containers was started.
fn started(pod: &Value) -> Vec<Value> {
    let status = &pod["status"];
    let containers = ["initContainerStatuses", "containerStatuses"].map(|of| status[of].as_array());
    let containers = containers.into_iter().flatten().flatten();
    let runs = containers.map(|one| {
        json!([
            one["name"],
            one["containerID"],
            one["restartCount"],
            one["state"]
        ])
    });
    [pod["metadata"]["uid"].clone()]
        .into_iter()
        .chain(runs)
        .collect()
}

/// Checks that the replaced key is refused before its natural expiry, and that the new one is not.
fn ends_after_its_overlap(joiner: &Joiner<'_>, product: &Product<'_>) -> Result<()> {
    let old = product.key("web-authkey")?;
    wait::until("the key is replaced", LIMIT, || {
        ensure!(product.key("web-authkey")? != old, "not yet");
        Ok(())
    })?;
    let replaced = Instant::now();
    wait::until("the old key is refused", LEFT, || {
        let answer = joiner.join("late", &old);
        let error = answer.err().context("it is taken")?;
        ensure!(format!("{error:#}").contains("expired"), "{error:#}");
        Ok(())
    })?;
    let after = replaced.elapsed();
    ensure!(
        after < LEFT,
        "refused after {after:?}: that was its natural end"
    );
    println!("the old key is refused {after:.1?} after the new one was in the Secret");
    joiner.join("last", &product.key("web-authkey")?)
}

/// Logs nodes in with tailscaled's client.
struct Joiner<'a> {
    program: std::path::PathBuf,
    place: Place,
    server: &'a str,
}

impl Joiner<'_> {
    fn join(&self, hostname: &str, key: &str) -> Result<()> {
        let mut command = self.place.command(Path::new(&self.program));
        command.env("TS_AUTHKEY", key).args([
            format!("--login-server={}", self.server),
            format!("--hostname={hostname}"),
        ]);
        output(&mut command).map(drop)
    }
}
