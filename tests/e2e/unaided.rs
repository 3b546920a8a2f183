//! From an empty cluster to a node in the tailnet by `helm install` and `kubectl apply` alone: nobody types a key.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use crate::Case;
use crate::support::context::Context;
use crate::support::headscale::{self, Program, RELAYS};
use crate::support::levels::Level;
use crate::support::node::Node;
use crate::support::processes::output;
use crate::support::product::{LIMIT, Product, label};
use crate::support::wait;

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "unaided::install_and_apply_are_all_it_takes",
        needs: &[Level::Node, Level::Headscale],
        each: true,
        run: joins,
    },
    Case {
        name: "unaided::headscale_serves_while_the_managers_image_cannot_be_pulled",
        needs: &[Level::Node, Level::Headscale],
        each: false,
        run: serves,
    },
];

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/headscale.yaml");
const PORT: u16 = 8080;

/// A Headscale in the cluster, from the example.
struct Beside<'a> {
    node: &'a Node,
    program: &'a Program,
    namespace: String,
    /// The Service's: there is no DNS in this cluster.
    address: String,
}

impl<'a> Beside<'a> {
    fn new(context: &Context, node: &'a Node, program: &'a Program, test: &str) -> Result<Self> {
        node.import(&program.image()?)?;
        let port = context.gateway_address();
        let port: u16 = port.rsplit(':').next().context("no port")?.parse()?;
        Ok(Self {
            node,
            program,
            namespace: format!("{test}-headscale"),
            address: format!("10.96.77.{}", port % 250 + 2),
        })
    }

    fn url(&self) -> String {
        format!("http://{}:{PORT}", self.address)
    }

    /// Applies the example with an image that is here, its address, and relays that need no internet.
    fn apply(&self) -> Result<()> {
        let text = std::fs::read_to_string(Path::new(EXAMPLE))?;
        let mut objects: Vec<Value> = serde_saphyr::from_multiple(&text)?;
        for object in &mut objects {
            self.fit(object)?;
        }
        let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
        self.node.kubectl().apply(&list)?;
        Ok(())
    }

    fn fit(&self, object: &mut Value) -> Result<()> {
        let kind = object["kind"].as_str().unwrap_or_default().to_owned();
        if kind == "Namespace" {
            object["metadata"]["name"] = json!(self.namespace);
        } else {
            ensure!(
                object["metadata"]["namespace"] == "headscale",
                "{kind} is elsewhere"
            );
            object["metadata"]["namespace"] = json!(self.namespace);
        }
        match kind.as_str() {
            "ConfigMap" => {
                let config = object["data"]["config.yaml"]
                    .as_str()
                    .context("no config.yaml")?;
                let mut config = config.to_owned();
                let relays = "paths: [/etc/headscale/derp.yaml]";
                for (from, to) in [
                    ("http://headscale.headscale.svc:8080", self.url().as_str()),
                    (
                        "urls: [https://controlplane.tailscale.com/derpmap/default]",
                        relays,
                    ),
                ] {
                    ensure!(config.contains(from), "the example has no {from} any more");
                    config = config.replace(from, to);
                }
                object["data"] = json!({"config.yaml": config, "derp.yaml": RELAYS});
            }
            "Service" => object["spec"]["clusterIP"] = json!(self.address),
            "Deployment" => {
                let container = &mut object["spec"]["template"]["spec"]["containers"][0];
                container["image"] = json!(self.program.image()?.name);
            }
            _ => {}
        }
        Ok(())
    }

    fn pod(&self) -> Result<Value> {
        let own = ["--namespace", &self.namespace];
        let list = [&["get", "pods", "--selector", "app=headscale"], &own[..]].concat();
        let pods = self.node.kubectl().list(&list)?;
        let running = |pod: &Value| pod["metadata"].get("deletionTimestamp").is_none();
        pods.into_iter().find(running).context("no pod yet")
    }

    fn api_key(&self) -> Result<String> {
        let get = [
            "get",
            "secret",
            "headscale-api-key",
            "--namespace",
            &self.namespace,
        ];
        let secret = self.node.kubectl().json(&get)?;
        let encoded = secret["data"]["api-key"].as_str().context("no key yet")?;
        Ok(String::from_utf8(STANDARD.decode(encoded)?)?)
    }

    /// What it answers through its Service, asked from the node.
    fn ask(&self, path: &str, key: &str) -> Result<String> {
        // bash speaks TCP itself; the key is in no argument.
        let script = format!(
            "exec 3<>/dev/tcp/{}/{PORT}; printf 'GET {path} HTTP/1.0\\r\\nAuthorization: Bearer %s\\r\\n\\r\\n' \"$KEY\" >&3; cat <&3",
            self.address
        );
        let mut command = self.node.place().command(Path::new("bash"));
        output(command.env("KEY", key).args(["-c", &script]))
    }

    fn logs(&self) -> String {
        let arguments = [
            "logs",
            "--selector=app=headscale",
            "--all-containers",
            "--tail=30",
            "--namespace",
            &self.namespace,
        ];
        let logs = self.node.kubectl().run(&arguments);
        let why = self
            .node
            .kubectl()
            .why_not_ready(&self.namespace, "app=headscale");
        format!(
            "{why}\n{}",
            logs.unwrap_or_else(|error| format!("{error:#}"))
        )
    }
}

fn joins(context: &Context, program: Option<&headscale::Program>) -> Result<()> {
    let program = program.context("runs for a Headscale")?;
    let node = context.node_with_product()?;
    let test = label("unaided", program);
    let headscale = Beside::new(context, node, program, &test)?;
    let product = Product::install_alone(node, &headscale.url(), &test, &[])?;
    headscale.apply()?;
    product.apply_example(&[])?;

    let pod = node
        .kubectl()
        .ready_pod(&headscale.namespace, "app=headscale", LIMIT)
        .with_context(|| headscale.logs())?;
    let containers = pod["spec"]["containers"]
        .as_array()
        .context("no containers")?;
    let names: Vec<_> = containers
        .iter()
        .map(|container| &container["name"])
        .collect();
    ensure!(names == ["headscale", "apikey-manager"], "{names:?}");
    let online = || -> Result<()> {
        let key = headscale.api_key()?;
        node.remember(&key);
        let answer = headscale.ask("/api/v1/node", &key)?;
        let (_, body) = answer.split_once("\r\n\r\n").context("no body")?;
        let nodes: Value = serde_json::from_str(body)?;
        let found = nodes["nodes"].as_array().is_some_and(|nodes| {
            let web = |node: &Value| node["givenName"] == "web" && node["online"] == true;
            nodes.iter().any(web)
        });
        ensure!(found, "{nodes}");
        Ok(())
    };
    wait::until("the app's node is online", LIMIT, online)
        .with_context(|| headscale.logs())
        .with_context(|| product.logs())?;
    node.kubectl()
        .ready_pod(&product.workloads, "app=web", LIMIT)?;
    let began = |pod: &Value| {
        pod["metadata"]["creationTimestamp"]
            .as_str()
            .map(str::to_owned)
    };
    println!(
        "Headscale {}: its pod was made {:?}",
        program.version,
        began(&pod)
    );
    Ok(())
}

/// A pod with an image that cannot be pulled is never ready; Headscale is reached all the same.
fn serves(context: &Context, program: Option<&headscale::Program>) -> Result<()> {
    let program = program.context("runs for a Headscale")?;
    let node = context.node_with_product()?;
    let test = label("unpullable", program);
    let headscale = Beside::new(context, node, program, &test)?;
    let values = [("config.webhook.image", "docker.io/sidescale-e2e/nowhere:1")];
    let _product = Product::install_alone(node, &headscale.url(), &test, &values)?;
    headscale.apply()?;
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
        let answer = headscale.ask("/health", "")?;
        ensure!(answer.contains("pass"), "{answer}");
        Ok(())
    })
    .with_context(|| headscale.logs())
}
