//! The product as a user installs it: our image, our chart by helm, our example (I/O).

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::headscale::{Headscale, Program};
use super::image::{Image, libraries};
use super::kubectl::Kubectl;
use super::metrics;
use super::node::{BUSYBOX, Node, TAILSCALE};

const REPOSITORY: &str = "docker.io/sidescale-e2e/sidescale";
const TAG: &str = "test";
const RELEASE: &str = "sidescale";
/// Public root certificates, where Debian stores them.
const ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";
/// The Secret that sidecars read.
pub(crate) const KEYS: &str = "headscale-auth-keys";
/// Time for anything that starts a pod.
pub(crate) const LIMIT: Duration = Duration::from_secs(120);

/// Returns an image with the files of the Dockerfile, taken from this machine.
pub(crate) fn image() -> Result<Image> {
    let program = Path::new(env!("CARGO_BIN_EXE_sidescale"));
    let mut files = libraries(program)?;
    files.push(("/usr/local/bin/sidescale".to_owned(), program.to_owned()));
    if Path::new(ROOTS).exists() {
        files.push((ROOTS.to_owned(), PathBuf::from(ROOTS)));
    }
    Ok(Image {
        name: format!("{REPOSITORY}:{TAG}"),
        entrypoint: vec!["/usr/local/bin/sidescale".to_owned()],
        user: "65532:65532".to_owned(),
        files,
    })
}

/// The product, installed for one test; dropping it uninstalls it.
#[derive(Debug)]
pub(crate) struct Product<'a> {
    node: &'a Node,
    /// Namespace of the product.
    pub(crate) namespace: String,
    api_keys: String,
    /// Namespace of its test's own pods.
    pub(crate) workloads: String,
}

impl<'a> Product<'a> {
    /// Installs it by helm for this Headscale, as in the README, and gives it an API key.
    pub(crate) fn install(
        node: &'a Node,
        headscale: &Headscale,
        test: &str,
        values: &[(&str, &str)],
    ) -> Result<Self> {
        let api_key = || headscale.create_api_key();
        Self::install_for(node, headscale.url(), &api_key, test, values)
    }

    /// Does the same for any server that sidecars log in to.
    pub(crate) fn install_for(
        node: &'a Node,
        login_server: &str,
        api_key: &dyn Fn() -> Result<String>,
        test: &str,
        values: &[(&str, &str)],
    ) -> Result<Self> {
        let this = Self::install_alone(node, login_server, test, values)?;
        let api_key = api_key()?;
        node.remember(&api_key);
        node.kubectl().apply(&json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": "headscale-api-key", "namespace": this.api_keys},
            "stringData": {"api-key": api_key},
        }))?;
        Ok(this)
    }

    /// Only installs it by helm, for a server at this URL.
    pub(crate) fn install_alone(
        node: &'a Node,
        login_server: &str,
        test: &str,
        values: &[(&str, &str)],
    ) -> Result<Self> {
        let this = Self {
            node,
            namespace: format!("{test}-sidescale"),
            api_keys: format!("{test}-headscale"),
            workloads: format!("{test}-apps"),
        };
        let given = [
            ("controlPlane.loginServer", login_server),
            ("controlPlane.allowInsecure", "true"),
            ("controlPlane.apiKeySecret.namespace", &this.api_keys),
            ("config.profiles.default.image", TAILSCALE),
            ("image.repository", REPOSITORY),
            ("image.tag", TAG),
            ("replicas", "1"),
        ];
        let settings: Vec<String> = given
            .iter()
            .chain(values)
            .flat_map(|(key, value)| {
                [
                    "--set".to_owned(),
                    format!("{key}={}", value.replace(',', "\\,")),
                ]
            })
            .collect();
        let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("charts/sidescale");
        let chart = chart.to_str().context("the checkout's path is no text")?;
        let mut arguments = vec!["install", RELEASE, chart, "--namespace", &this.namespace];
        arguments.extend(["--create-namespace", "--wait", "--timeout", "90s"]);
        arguments.extend(settings.iter().map(String::as_str));
        node.helm().run(&arguments).with_context(|| this.logs())?;
        node.control_plane()
            .namespace(&this.workloads, &json!({}))?;
        Ok(this)
    }

    /// Applies `examples/web.yaml` with a local image and these annotations in addition to its own.
    pub(crate) fn apply_example(&self, annotations: &[(&str, &str)]) -> Result<()> {
        self.node.kubectl().feed(
            &["apply", "--namespace", &self.workloads, "--filename", "-"],
            &Self::example(annotations)?,
        )?;
        Ok(())
    }

    /// Returns `examples/web.yaml` with a local image and these annotations in addition to its own.
    pub(crate) fn example(annotations: &[(&str, &str)]) -> Result<String> {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/web.yaml");
        let text = std::fs::read_to_string(file)?;
        let image = "docker.io/library/busybox:1.37";
        let own = "sidescale.io/inject: tailscale";
        let containers = "      containers:\n";
        ensure!(
            [image, own, containers]
                .iter()
                .all(|part| text.contains(part)),
            "examples/web.yaml has changed its image, annotation or containers"
        );
        // Its server does not react to SIGTERM, and half a minute for each rollout is too long here.
        let soon = format!("      terminationGracePeriodSeconds: 3\n{containers}");
        let indent = " ".repeat(8);
        let more: String = annotations
            .iter()
            .map(|(key, value)| format!("\n{indent}sidescale.io/{key}: \"{value}\""))
            .collect();
        Ok(text
            .replace(image, BUSYBOX)
            .replace(containers, &soon)
            .replace(own, &format!("{own}{more}")))
    }

    /// Returns the value in the keys' Secret under this data key.
    pub(crate) fn key(&self, data_key: &str) -> Result<String> {
        self.key_in(&self.workloads, data_key)
    }

    /// Returns the same in another namespace.
    pub(crate) fn key_in(&self, namespace: &str, data_key: &str) -> Result<String> {
        let key = self.value_in(namespace, data_key)?;
        self.node.remember(&key);
        Ok(key)
    }

    /// Returns the value beside the keys under this data key, which is not secret.
    pub(crate) fn value(&self, data_key: &str) -> Result<String> {
        self.value_in(&self.workloads, data_key)
    }

    fn value_in(&self, namespace: &str, data_key: &str) -> Result<String> {
        let secret =
            self.node
                .kubectl()
                .json(&["get", "secret", KEYS, "--namespace", namespace])?;
        let encoded = secret["data"][data_key]
            .as_str()
            .with_context(|| format!("{KEYS} has no {data_key}"))?;
        Ok(String::from_utf8(STANDARD.decode(encoded)?)?)
    }

    /// Returns the output of `sidescale check` on the only pod of the example, and its exit code.
    pub(crate) fn check(&self) -> Result<(Option<i32>, String)> {
        let selector = ["--selector", "app=web"];
        let list = ["get", "pods", "--namespace", &self.workloads];
        let pods = self.node.kubectl().list(&[&list[..], &selector].concat())?;
        let running = |pod: &&Value| pod["metadata"].get("deletionTimestamp").is_none();
        let pod = pods.iter().find(running).context("no pod")?;
        let name = pod["metadata"]["name"].as_str().context("no name")?;
        let program = Path::new(env!("CARGO_BIN_EXE_sidescale"));
        let output = (self.node.place().command(program))
            .args(["check", &format!("pod/{name}")])
            .args(["--namespace", &self.workloads])
            .args(["--release-namespace", &self.namespace])
            .args(["--release-name", RELEASE])
            .env("KUBECONFIG", self.node.kubectl().kubeconfig())
            .output()?;
        let said = String::from_utf8(output.stdout)?;
        let complaint = String::from_utf8_lossy(&output.stderr);
        Ok((output.status.code(), format!("{said}{complaint}")))
    }

    /// Returns the sum of a metric's samples that contain all these pieces, over all replicas.
    pub(crate) fn metric(&self, name: &str, pieces: &[&str]) -> Result<f64> {
        let pages = self.pages("metrics")?;
        pages
            .iter()
            .map(|page| metrics::sum(page, name, pieces))
            .sum()
    }

    /// Returns one page of each replica's admin port.
    fn pages(&self, page: &str) -> Result<Vec<String>> {
        let own = &self.namespace;
        let scrape = |pod: Value| {
            let name = pod["metadata"]["name"]
                .as_str()
                .context("a pod without a name")?;
            self.node.kubectl().raw(&format!(
                "/api/v1/namespaces/{own}/pods/{name}:8080/proxy/{page}"
            ))
        };
        self.pods()?.into_iter().map(scrape).collect()
    }

    /// Returns the product's log.
    pub(crate) fn logs(&self) -> String {
        let selector = [
            "--selector",
            "app.kubernetes.io/name=sidescale",
            "--tail",
            "-1",
        ];
        let arguments = [
            &["logs", "--namespace", &self.namespace],
            selector.as_slice(),
        ]
        .concat();
        self.node
            .kubectl()
            .run(&arguments)
            .unwrap_or_else(|error| format!("{error:#}"))
    }

    /// Returns what is deleted with the namespaces, and what the leak check wants to read.
    fn everything(&self) -> String {
        let apps = ["--namespace", &self.workloads];
        let own = ["--namespace", &self.namespace];
        let run = |arguments: &[&str], scope: &[&str]| {
            let said = self.node.kubectl().run(&[arguments, scope].concat());
            said.unwrap_or_else(|error| format!("{error:#}"))
        };
        let sidecars = [
            "logs",
            "--selector",
            "app=web",
            "--container",
            "tailscale",
            "--tail",
            "-1",
        ];
        [
            self.logs(),
            self.pages("metrics").unwrap_or_default().concat(),
            self.pages("readyz").unwrap_or_default().concat(),
            run(
                &[
                    "get",
                    "events,pods,replicasets,deployments",
                    "--output",
                    "yaml",
                ],
                &apps,
            ),
            run(&["get", "events,pods,configmaps", "--output", "yaml"], &own),
            run(&sidecars, &apps),
        ]
        .join("\n")
    }

    /// Removes the rules about this resource from its ClusterRole.
    pub(crate) fn take_right(&self, resource: &str) -> Result<()> {
        let mut role = self.node.kubectl().json(&["get", "clusterrole", RELEASE])?;
        let rules = role["rules"]
            .as_array_mut()
            .context("a ClusterRole without rules")?;
        let before = rules.len();
        rules.retain(|rule| {
            !rule["resources"]
                .as_array()
                .is_some_and(|resources| resources.contains(&json!(resource)))
        });
        ensure!(
            rules.len() < before,
            "the ClusterRole says nothing about {resource}"
        );
        self.node
            .kubectl()
            .feed(&["replace", "--filename", "-"], &role.to_string())?;
        Ok(())
    }

    fn pods(&self) -> Result<Vec<Value>> {
        let selector = "app.kubernetes.io/name=sidescale";
        self.node.kubectl().list(&[
            "get",
            "pods",
            "--namespace",
            &self.namespace,
            "--selector",
            selector,
        ])
    }
}

impl Drop for Product<'_> {
    fn drop(&mut self) {
        let kept = self.node.folder().join(format!("{}.log", self.namespace));
        let _ = std::fs::write(kept, self.everything());
        let kubectl = self.node.kubectl();
        let namespaces = [
            self.workloads.as_str(),
            self.namespace.as_str(),
            self.api_keys.as_str(),
        ];
        // Wait for their end: remaining pods would ask the next test's product for keys, and a process that is
        // still stopping would write into its Secrets.
        for namespace in namespaces {
            end_pods(kubectl, namespace);
        }
        let _ = self
            .node
            .helm()
            .run(&["uninstall", RELEASE, "--namespace", &self.namespace]);
        let delete = ["delete", "namespace", "--ignore-not-found"];
        let _ = kubectl.run(&[&delete[..], &namespaces].concat());
    }
}

/// Deletes all pods of a namespace, without their usual grace period.
pub(crate) fn end_pods(kubectl: &Kubectl, namespace: &str) {
    let owners = "deployments,replicasets,statefulsets,daemonsets,jobs,cronjobs";
    for (kinds, how) in [(owners, "--cascade=orphan"), ("pods", "--grace-period=1")] {
        let _ = kubectl.run(&["delete", kinds, "--all", how, "--namespace", namespace]);
    }
}

/// Returns a name for a test with this Headscale, short enough for a namespace.
pub(crate) fn label(test: &str, program: &Program) -> String {
    format!("{test}-{}", program.version.replace('.', "-"))
}
