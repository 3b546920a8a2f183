//! One sidecar of each kind on a real node: all join one Headscale, and do what their annotations ask for.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::Case;
use crate::diagnosis::{self, Person};
use crate::support::context::Context;
use crate::support::headscale::{self, Headscale, Node as TailnetNode};
use crate::support::kubectl::is_ready;
use crate::support::levels::Level;
use crate::support::node::Node;
use crate::support::product::Product;
use crate::support::wait;

mod manifests;

pub(crate) const CASES: &[Case] = &[Case {
    name: "sidecars::each_kind_joins_and_does_what_its_annotations_say",
    needs: &[Level::Node, Level::Headscale],
    each: false,
    run,
}];

/// Time for all of them on a busy machine.
const LIMIT: Duration = Duration::from_secs(240);

/// Everything that the checks use.
struct World<'a> {
    node: &'a Node,
    product: &'a Product<'a>,
    headscale: &'a Headscale,
}

fn run(context: &Context, program: Option<&headscale::Program>) -> Result<()> {
    let program = program.context("runs for a Headscale")?;
    let node = context.node_with_product()?;
    let folder = context.folder.inner("sidecars")?;
    let address = context.gateway_address();
    let beside = folder.join("relay");
    let relay = Headscale::start_tls(program, node.place(), &beside, &context.gateway_address())?;
    let headscale = Headscale::start_with_relay(program, node.place(), &folder, &address, &relay)?;
    let values = [("config.profiles.default.allowedTags", "{tag:web}")];
    let product = Product::install(node, &headscale, "sidecars", &values)?;
    let world = World {
        node,
        product: &product,
        headscale: &headscale,
    };
    let began = Instant::now();
    let state = folder.join("state");
    std::fs::create_dir_all(&state)?;
    let manifests = manifests::all(&product.workloads, &state);
    node.kubectl().apply(&manifests)?;
    let nodes = world.all_online().with_context(|| product.logs())?;
    let online = began.elapsed();
    println!("{} sidecars: all online after {online:.1?}", nodes.len());
    world.each_pod_is_a_node_of_its_own(&nodes)?;
    world.key_files_have_few_readers()?;
    world.forms_are_what_was_asked()?;
    world.shows_itself()?;
    world.reaches_another(&nodes)?;
    world.is_the_same_after_a_restart(&nodes)?;
    world.logs_in_anew()?;
    // Of all created objects, only this one is in no namespace.
    let volume = ["delete", "persistentvolume", &product.workloads];
    node.kubectl()
        .run(&[&volume[..], &["--wait=false"]].concat())?;
    println!("all of it: {:.1?}", began.elapsed());
    Ok(())
}

impl World<'_> {
    /// Waits until all are online and their pods ready; returns the nodes.
    fn all_online(&self) -> Result<Vec<TailnetNode>> {
        let nodes = wait::until("every sidecar is online", LIMIT, || {
            let nodes = self.headscale.nodes()?;
            let online = nodes.iter().filter(|node| node.online);
            let online: BTreeSet<&str> = online.map(|node| node.name.as_str()).collect();
            let want = BTreeSet::from(manifests::NAMES);
            let missing: Vec<_> = want.difference(&online).collect();
            ensure!(missing.is_empty(), "{missing:?} are missing");
            Ok(nodes)
        })?;
        wait::until("every pod is ready", LIMIT, || {
            let pods = ["get", "pods", "--namespace", &self.product.workloads];
            let pods = self.node.kubectl().list(&pods)?;
            let ready = pods.iter().filter(|pod| is_ready(pod)).count();
            ensure!(ready == manifests::NAMES.len(), "{ready} pods are ready");
            Ok(())
        })?;
        Ok(nodes)
    }

    /// Names, addresses and keys differ, and only the node that asked for a tag has it.
    fn each_pod_is_a_node_of_its_own(&self, nodes: &[TailnetNode]) -> Result<()> {
        let count = manifests::NAMES.len();
        ensure!(nodes.len() == count, "{nodes:?}");
        let keys: BTreeSet<_> = nodes.iter().map(|node| &node.key).collect();
        ensure!(keys.len() == count, "they share keys: {nodes:?}");
        let addresses = nodes.iter().map(|node| node.addresses.first());
        let addresses: BTreeSet<_> = addresses.collect();
        ensure!(addresses.len() == count, "they share addresses: {nodes:?}");
        for node in nodes {
            let want: &[&str] = match node.name.as_str() {
                "tagged" => &["tag:web"],
                _ => &[],
            };
            ensure!(node.tags == want, "{node:?}");
        }
        Ok(())
    }

    /// The key's file belongs to the pod's group if there is one, is mounted nowhere else, and no other process can read it.
    fn key_files_have_few_readers(&self) -> Result<()> {
        for (name, want) in [
            ("file", "440 0 1000"),
            ("file-own-group", "440 0 65532"),
            ("shared", "444 0 0"),
        ] {
            let pod = self.pod(name)?;
            let uid = pod["metadata"]["uid"].as_str().context("no uid")?;
            let file = self.node.folder().join(format!(
                "kubelet/pods/{uid}/volumes/kubernetes.io~secret/sidescale-auth-key/authkey"
            ));
            let said = format!("stat -L -c '%a %u %g' {}", file.display());
            let said = self.node.shell(&said)?;
            ensure!(said.trim() == want, "{name}: {said:?}, want {want:?}");
            let seen = self.exec(name, "app", &["/bin/busybox", "ls", "/etc/sidescale"]);
            ensure!(seen.is_err(), "{name}: the app sees {seen:?}");
            // Its environment contains the path of the key, not the key.
            let key = self.product.key(&format!("{name}-authkey"))?;
            ensure!(!pod.to_string().contains(&key), "the pod holds its key");
        }
        // In a shared process namespace the app sees tailscaled, but neither its files nor its environment.
        let look = "for process in /proc/[0-9]*; do
            case $(/bin/busybox cat $process/comm) in (tailscaled|containerboot) echo seen;; (*) continue;; esac
            /bin/busybox cat $process/root/etc/sidescale/auth-key/authkey && echo read
            /bin/busybox cat $process/environ && echo read
        done 2>/dev/null; exit 0";
        let said = self.exec("shared", "app", &["/bin/busybox", "sh", "-c", look])?;
        ensure!(
            said.contains("seen") && !said.contains("read"),
            "of its neighbours the app says {said:?}"
        );
        Ok(())
    }

    /// Checks the classic, in-memory and Guaranteed forms.
    fn forms_are_what_was_asked(&self) -> Result<()> {
        let classic = self.pod("classic")?;
        let last = classic["spec"]["containers"].as_array();
        let last = last.and_then(|containers| containers.last());
        ensure!(
            last.is_some_and(|last| last["name"] == "tailscale"),
            "{}",
            classic["spec"]
        );
        ensure!(
            classic["spec"]["initContainers"].is_null(),
            "{}",
            classic["spec"]
        );
        let memory = self.pod("memory")?;
        let volumes = memory["spec"]["volumes"].to_string();
        ensure!(!volumes.contains("sidescale-state"), "{volumes}");
        let class = self.pod("guaranteed")?["status"]["qosClass"].clone();
        ensure!(class == "Guaranteed", "the guaranteed one is {class}");
        Ok(())
    }

    /// Commands typed into the sidecar work without options.
    fn shows_itself(&self) -> Result<()> {
        let status = self.exec("backend", "tailscale", &["tailscale", "status"])?;
        ensure!(status.contains("backend"), "{status}");
        let ports = self.exec("backend", "tailscale", &["netstat", "-tln"])?;
        for port in manifests::PORTS {
            ensure!(ports.contains(&format!(":{port} ")), "no {port} in {ports}");
        }
        Ok(())
    }

    /// Both containers of another pod answer at its name and its address, on ports that no manifest declares.
    fn reaches_another(&self, nodes: &[TailnetNode]) -> Result<()> {
        let backend = nodes.iter().find(|node| node.name == "backend");
        let address = backend.and_then(|node| node.addresses.first());
        let address = address.context("no address")?;
        for host in ["backend", address.as_str()] {
            for port in manifests::PORTS {
                // busybox reads only the lower-case name.
                let get = format!(
                    "http_proxy=$HTTP_PROXY exec /bin/busybox timeout 5 /bin/busybox wget -q -O - http://{host}:{port}/"
                );
                let said = wait::until("the app gets an answer", LIMIT, || {
                    self.exec("proxied", "app", &["/bin/busybox", "sh", "-c", &get])
                })?;
                let want = format!("bytes from port {port}");
                ensure!(said.trim() == want, "{host}:{port} said {said:?}");
            }
        }
        // Without the proxy, the tailnet is unreachable.
        let page = format!("http://{address}:{}/", manifests::PORTS[0]);
        let direct = [
            "timeout",
            "2",
            "/bin/busybox",
            "wget",
            "-q",
            "-O",
            "-",
            &page,
        ];
        let said = self.exec("proxied", "app", &[&["/bin/busybox"], &direct[..]].concat());
        ensure!(said.is_err(), "reached without the proxy: {said:?}");
        Ok(())
    }

    /// The pod of the StatefulSet is replaced, and its node is the same.
    fn is_the_same_after_a_restart(&self, nodes: &[TailnetNode]) -> Result<()> {
        let before = nodes.iter().find(|node| node.name == "store-0");
        let before = before.context("no store-0")?;
        let kubectl = self.node.kubectl();
        let uid = |pod: &Value| pod["metadata"]["uid"].clone();
        let first = uid(&self.pod("store")?);
        let delete = ["delete", "pod", "store-0", "--namespace"];
        kubectl.run(&[&delete[..], &[&self.product.workloads]].concat())?;
        let address = wait::until("the next pod is up", LIMIT, || {
            let next = self.pod("store")?;
            ensure!(uid(&next) != first && is_ready(&next), "not yet");
            self.exec("store", "tailscale", &["tailscale", "ip", "-4"])
        })?;
        ensure!(
            before.addresses.iter().any(|known| known == address.trim()),
            "it was {before:?}, and is {address:?}"
        );
        let after = wait::until("its node is online", LIMIT, || {
            let nodes = self.headscale.nodes()?;
            let named = nodes
                .into_iter()
                .filter(|node| node.name.starts_with("store"));
            let named: Vec<_> = named.collect();
            ensure!(named.iter().all(|node| node.online), "{named:?}");
            Ok(named)
        })?;
        let ids: Vec<_> = after.iter().map(|node| &node.id).collect();
        ensure!(ids == [&before.id], "it was {before:?}, there is {after:?}");
        Ok(())
    }

    /// Uses each command of the page on diagnosis, each in another pod: it logs in, and is a node as before.
    fn logs_in_anew(&self) -> Result<()> {
        let began = Instant::now();
        let ways = [
            ("tagged", diagnosis::LOGOUT, 0),
            ("guaranteed", diagnosis::UP, 0),
            ("file", diagnosis::UP, 1),
        ];
        let mut under_way = Vec::new();
        for (app, heading, which) in ways {
            let person = Person::new(self.node, self.product, app, "-")?;
            let key = self.node_key(app)?;
            let starts = person.logs_in(heading, which, "-")?;
            under_way.push((app, person, key, starts));
        }
        for (app, person, key, starts) in under_way {
            wait::until("it has logged in", LIMIT, || {
                // A login cut off by the end of its container has kept its node key, and shows that at its next start.
                let (now, started) = (self.node_key(app)?, person.starts()?);
                ensure!(
                    now != key || started > starts,
                    "{app}: still {key}, {started} starts"
                );
                ensure!(is_ready(&self.pod(app)?), "{app} is not ready");
                Ok(())
            })?;
        }
        let nodes = self.all_online()?;
        self.each_pod_is_a_node_of_its_own(&nodes)?;
        println!("logged in anew: {:.1?}", began.elapsed());
        Ok(())
    }

    /// Returns the public half of the client's identity; each login generates another.
    fn node_key(&self, app: &str) -> Result<Value> {
        let status = ["tailscale", "status", "--json"];
        let status: Value = serde_json::from_str(&self.exec(app, "tailscale", &status)?)?;
        ensure!(status["BackendState"] == "Running", "{app}: {status}");
        Ok(status["Self"]["PublicKey"].clone())
    }

    /// Returns the only pod of this app.
    fn pod(&self, app: &str) -> Result<Value> {
        let selector = format!("app={app}");
        let pods = ["get", "pods", "--selector", &selector, "--namespace"];
        let pods = [&pods[..], &[&self.product.workloads]].concat();
        let pods = self.node.kubectl().list(&pods)?;
        ensure!(pods.len() == 1, "{} pods of {app}", pods.len());
        pods.into_iter().next().context("checked")
    }

    /// Runs a command in a container of that pod.
    fn exec(&self, app: &str, container: &str, command: &[&str]) -> Result<String> {
        let pod = self.pod(app)?;
        let name = pod["metadata"]["name"].as_str().context("no name")?;
        let exec = ["exec", name, "--container", container, "--namespace"];
        let exec = [&exec[..], &[&self.product.workloads, "--"], command].concat();
        self.node.kubectl().run(&exec)
    }
}
