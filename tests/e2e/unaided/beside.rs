//! A Headscale that runs in the cluster, from the example, and calls to it at its Service (I/O).

use std::{fs::File, os::fd::AsFd as _, path::Path, thread};

use anyhow::{Context as _, Result, bail, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::{Value, json};
use sidescale_control_plane::{Client, Endpoint, Error};
use sidescale_core::id::NodeId;
use sidescale_core::key_value::KeyValue;
use sidescale_core::objects::{Node as TailnetNode, PreAuthKey};

use crate::support::context::Context;
use crate::support::headscale::{NO_RELAY, Program};
use crate::support::node::Node;
use crate::support::processes::Place;

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/headscale.yaml");
const PORT: u16 = 8080;

/// A Headscale in the cluster, from the example.
pub(super) struct Beside<'a> {
    pub(super) node: &'a Node,
    program: &'a Program,
    pub(super) namespace: String,
    /// The Service's address: there is no DNS in this cluster.
    address: String,
}

impl<'a> Beside<'a> {
    pub(super) fn new(
        context: &Context,
        node: &'a Node,
        program: &'a Program,
        test: &str,
    ) -> Result<Self> {
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

    pub(super) fn url(&self) -> String {
        format!("http://{}:{PORT}", self.address)
    }

    /// Applies the example with a local image, its address, and relays that need no internet.
    pub(super) fn apply(&self) -> Result<()> {
        self.apply_with("apikey-manager")
    }

    /// Does the same with these kinds of sidecar.
    pub(super) fn apply_with(&self, kinds: &str) -> Result<()> {
        let text = std::fs::read_to_string(Path::new(EXAMPLE))?;
        let mut objects: Vec<Value> = serde_saphyr::from_multiple(&text)?;
        for object in &mut objects {
            self.fit(object, kinds)?;
        }
        let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
        self.node.kubectl().apply(&list)?;
        Ok(())
    }

    fn fit(&self, object: &mut Value, kinds: &str) -> Result<()> {
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
                object["data"] = json!({"config.yaml": config, "derp.yaml": NO_RELAY});
            }
            "Service" => object["spec"]["clusterIP"] = json!(self.address),
            "Deployment" => {
                let template = &mut object["spec"]["template"];
                let annotations = &mut template["metadata"]["annotations"];
                ensure!(
                    *annotations == json!({"sidescale.io/inject": "apikey-manager"}),
                    "the example asks for something else: {annotations}"
                );
                annotations["sidescale.io/inject"] = json!(kinds);
                let container = &mut template["spec"]["containers"][0];
                container["image"] = json!(self.program.image()?.name);
            }
            _ => {}
        }
        Ok(())
    }

    pub(super) fn pod(&self) -> Result<Value> {
        let own = ["--namespace", &self.namespace];
        let list = [&["get", "pods", "--selector", "app=headscale"], &own[..]].concat();
        let pods = self.node.kubectl().list(&list)?;
        let running = |pod: &Value| pod["metadata"].get("deletionTimestamp").is_none();
        pods.into_iter().find(running).context("no pod yet")
    }

    /// Returns the key, which was never typed.
    fn api_key(&self) -> Result<String> {
        let own = ["--namespace", &self.namespace];
        let get = [&["get", "secret", "headscale-api-key"], &own[..]].concat();
        let secret = self.node.kubectl().json(&get)?;
        let encoded = secret["data"]["api-key"].as_str().context("no key yet")?;
        let key = String::from_utf8(STANDARD.decode(encoded)?)?;
        ensure!(!key.is_empty(), "no key yet");
        self.node.remember(&key);
        Ok(key)
    }

    /// Calls it at its Service's address, in the node's network.
    pub(super) fn call<T: Send>(
        &self,
        api_key: &str,
        calls: impl AsyncFn(&Client) -> Result<T, Error> + Sync,
    ) -> Result<T> {
        let control_plane = Client::new(Endpoint {
            name: "unaided".into(),
            api_url: self.url(),
            api_key: KeyValue::new(api_key.to_owned()),
            ca_bundle: None,
            allow_insecure: true,
        })?;
        let Place::Inside(init) = self.node.place() else {
            bail!("it is in the cluster");
        };
        let network = File::open(format!("/proc/{init}/ns/net"))?;
        let call = || -> Result<T> {
            move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))?;
            // Everything on this thread: the others are in the machine's own network.
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            Ok(runtime.block_on(calls(&control_plane))?)
        };
        let answer = thread::scope(|scope| scope.spawn(call).join());
        answer.map_err(|_| anyhow::anyhow!("the call panicked"))?
    }

    pub(super) fn nodes(&self) -> Result<Vec<TailnetNode>> {
        self.call(&self.api_key()?, async |headscale| {
            headscale.list_nodes().await
        })
    }

    pub(super) fn keys(&self) -> Result<Vec<PreAuthKey>> {
        self.call(&self.api_key()?, async |headscale| {
            headscale.list_pre_auth_keys().await
        })
    }

    pub(super) fn delete_node(&self, id: NodeId) -> Result<()> {
        self.call(&self.api_key()?, async |headscale| {
            headscale.delete_node(id).await
        })
    }

    pub(super) fn logs(&self) -> String {
        let arguments = [
            "logs",
            "--selector=app=headscale",
            "--all-containers",
            "--tail=30",
            "--namespace",
            &self.namespace,
        ];
        let kubectl = self.node.kubectl();
        let why = kubectl.why_not_ready(&self.namespace, "app=headscale");
        let logs = kubectl.run(&arguments);
        format!(
            "{why}\n{}",
            logs.unwrap_or_else(|error| format!("{error:#}"))
        )
    }
}
