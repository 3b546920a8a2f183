//! kubectl and helm, as a user would call them (I/O).

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::{
    processes::{Place, output},
    wait,
};

/// kubectl with one identity in one cluster.
#[derive(Clone, Debug)]
pub(crate) struct Kubectl {
    place: Place,
    program: PathBuf,
    kubeconfig: PathBuf,
}

impl Kubectl {
    /// Returns a kubectl that uses this client configuration.
    pub(crate) fn new(place: Place, program: PathBuf, kubeconfig: PathBuf) -> Self {
        Self {
            place,
            program,
            kubeconfig,
        }
    }

    /// Returns the same program with another client configuration.
    pub(crate) fn with(&self, kubeconfig: PathBuf) -> Self {
        Self {
            kubeconfig,
            ..self.clone()
        }
    }

    /// Returns the program.
    pub(crate) fn program(&self) -> &Path {
        &self.program
    }

    /// Returns the client configuration.
    pub(crate) fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Runs kubectl and returns what it printed.
    pub(crate) fn run(&self, arguments: &[&str]) -> Result<String> {
        output(
            self.place
                .command(&self.program)
                .arg("--kubeconfig")
                .arg(&self.kubeconfig)
                .args(arguments),
        )
    }

    /// Runs kubectl with `-o json`; several objects are returned as a List.
    pub(crate) fn json(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.run(&[arguments, &["--output", "json"]].concat())?;
        serde_json::from_str(&text)
            .with_context(|| format!("kubectl {arguments:?} printed no JSON"))
    }

    /// Returns the items of a list.
    pub(crate) fn list(&self, arguments: &[&str]) -> Result<Vec<Value>> {
        match self.json(arguments)?.get_mut("items").map(Value::take) {
            Some(Value::Array(items)) => Ok(items),
            _ => anyhow::bail!("kubectl {arguments:?} printed no list"),
        }
    }

    /// Returns the answer to a GET of a path of the API server.
    pub(crate) fn raw(&self, path: &str) -> Result<String> {
        self.run(&["get", "--raw", path])
    }

    /// Applies one object, or a List of them.
    pub(crate) fn apply(&self, manifest: &Value) -> Result<String> {
        self.feed(&["apply", "--filename", "-"], &manifest.to_string())
    }

    /// Returns what the API server would store for a new object; it drops unknown fields instead of refusing them.
    pub(crate) fn dry_run(&self, manifest: &Value) -> Result<Value> {
        let arguments = [
            "create",
            "--dry-run=server",
            "--validate=ignore",
            "--output=json",
            "--filename=-",
        ];
        let said = self.feed(&arguments, &manifest.to_string())?;
        // Warnings may follow.
        let object = serde_json::Deserializer::from_str(&said)
            .into_iter::<Value>()
            .next();
        object
            .and_then(Result::ok)
            .with_context(|| format!("no object: {said}"))
    }

    /// Returns what the API server would store for these new objects, each in its place; fails if it refuses one.
    pub(crate) fn dry_run_all(&self, manifests: &[Value]) -> Result<Vec<Value>> {
        let result = self.dry_run_list(manifests, "json")?;
        let objects = serde_json::Deserializer::from_slice(&result.stdout).into_iter();
        let objects: Vec<Value> = objects.collect::<Result<_, _>>()?;
        ensure!(
            result.status.success() && objects.len() == manifests.len(),
            "{} of {} were taken: {}",
            objects.len(),
            manifests.len(),
            String::from_utf8_lossy(&result.stderr)
        );
        Ok(objects)
    }

    /// Returns what the API server would store for each of these objects, in the form of `output`, without those that
    /// it refuses.
    pub(crate) fn dry_run_each(&self, manifests: &[Value], output: &str) -> Result<String> {
        let result = self.dry_run_list(manifests, output)?;
        Ok(String::from_utf8_lossy(&result.stdout).into_owned())
    }

    fn dry_run_list(&self, manifests: &[Value], output: &str) -> Result<Output> {
        let list = json!({"apiVersion": "v1", "kind": "List", "items": manifests});
        let arguments = [
            "create",
            "--dry-run=server",
            "--validate=ignore",
            &format!("--output={output}"),
            "--filename=-",
        ];
        self.call(&arguments, &list.to_string())
    }

    /// Applies manifests as text, as from a file.
    pub(crate) fn apply_text(&self, manifests: &str) -> Result<String> {
        self.feed(&["apply", "--filename", "-"], manifests)
    }

    /// Runs kubectl with text on stdin and returns stdout and stderr together, warnings included.
    pub(crate) fn feed(&self, arguments: &[&str], text: &str) -> Result<String> {
        let result = self.call(arguments, text)?;
        let said = [result.stdout, result.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        ensure!(result.status.success(), "kubectl {arguments:?}: {said}");
        Ok(said)
    }

    fn call(&self, arguments: &[&str], text: &str) -> Result<Output> {
        let mut child = self
            .place
            .command(&self.program)
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        child
            .stdin
            .take()
            .context("no stdin")?
            .write_all(text.as_bytes())?;
        Ok(child.wait_with_output()?)
    }

    /// Waits until the only pod with this label is Ready; returns it.
    pub(crate) fn ready_pod(
        &self,
        namespace: &str,
        selector: &str,
        limit: Duration,
    ) -> Result<Value> {
        wait::until(
            &format!("a pod {namespace}/{selector} is ready"),
            limit,
            || {
                let pods = self.list(&[
                    "get",
                    "pods",
                    "--namespace",
                    namespace,
                    "--selector",
                    selector,
                ])?;
                pods.into_iter()
                    .find(is_ready)
                    .with_context(|| self.why_not_ready(namespace, selector))
            },
        )
    }

    /// Returns what a user would look at: containers' states and the latest Events.
    pub(crate) fn why_not_ready(&self, namespace: &str, selector: &str) -> String {
        let pods = self
            .run(&["get", "pods", "--namespace", namespace, "--selector", selector, "--output",
                "jsonpath={range .items[*]}{.metadata.name} {.status.phase} {.status.initContainerStatuses[*].state} {.status.containerStatuses[*].state}{\"\\n\"}{end}"])
            .unwrap_or_else(|error| format!("{error:#}"));
        let events = self
            .run(&["get", "events", "--namespace", namespace, "--sort-by", ".lastTimestamp", "--output",
                "jsonpath={range .items[*]}{.involvedObject.kind} {.reason} {.message}{\"\\n\"}{end}"])
            .unwrap_or_default();
        let events: Vec<&str> = events.lines().collect();
        format!(
            "{pods}\n{}",
            events[events.len().saturating_sub(8)..].join("\n")
        )
    }
}

/// Returns whether a pod's condition Ready is true.
pub(crate) fn is_ready(pod: &Value) -> bool {
    pod["status"]["conditions"]
        .as_array()
        .is_some_and(|conditions| {
            conditions
                .iter()
                .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
        })
}

/// helm, with its own folders inside the run's.
#[derive(Clone, Debug)]
pub(crate) struct Helm {
    place: Place,
    program: PathBuf,
    kubeconfig: PathBuf,
    home: PathBuf,
}

impl Helm {
    /// Returns a helm that uses this client configuration and writes nothing outside the folder.
    pub(crate) fn new(place: Place, program: PathBuf, kubeconfig: PathBuf, folder: &Path) -> Self {
        Self {
            place,
            program,
            kubeconfig,
            home: folder.join("helm"),
        }
    }

    /// Runs helm and returns what it printed.
    pub(crate) fn run(&self, arguments: &[&str]) -> Result<String> {
        output(
            self.place
                .command(&self.program)
                .env("KUBECONFIG", &self.kubeconfig)
                .env("HELM_CACHE_HOME", self.home.join("cache"))
                .env("HELM_CONFIG_HOME", self.home.join("config"))
                .env("HELM_DATA_HOME", self.home.join("data"))
                .args(arguments),
        )
    }
}
