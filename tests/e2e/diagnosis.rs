//! `docs/diagnosis.md` as a user follows it: its commands are read from the page and run in a shell (I/O).

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::support::kubectl::is_ready;
use crate::support::leaks;
use crate::support::node::Node;
use crate::support::product::{LIMIT, Product};
use crate::support::wait;

const PAGE: &str = include_str!("../../docs/diagnosis.md");

/// The values that the user fills in.
const VALUES: &str = "# When a pod is not in the tailnet";

/// The sections that change nothing, in the page's order.
const LOOKS: [&str; 5] = [
    "## 1. What the pod says",
    "## 2. What all keys say",
    "## 3. Headscale",
    "## 4. Names",
    "## 5. The client",
];

/// Logs out.
pub(crate) const LOGOUT: &str = "### By tailscale logout";
/// Removes the node and logs out.
pub(crate) const NEW: &str = "### As a new node";
/// Logs in with a key from a pipe, and with one from a file of the container.
pub(crate) const UP: &str = "### By tailscale up";

/// Errors that a command of the last section may print, by the page.
const COMPLAINTS: [&str; 3] = ["context canceled", "EOF", "exit code 137"];

/// Longer than the kubelet's pause between two starts.
const ANSWER: Duration = Duration::from_secs(60);

/// A block of shell commands from the page.
struct Block {
    heading: &'static str,
    commands: String,
    healthy: Vec<&'static str>,
}

fn blocks() -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let (mut heading, mut inside) = ("", None);
    for line in PAGE.lines() {
        match (&mut inside, line) {
            (None, "```sh") => inside = Some(String::new()),
            (Some(commands), "```") => {
                blocks.push(Block {
                    heading,
                    commands: std::mem::take(commands),
                    healthy: Vec::new(),
                });
                inside = None;
            }
            (Some(commands), line) => {
                commands.push_str(line);
                commands.push('\n');
            }
            (None, line) if line.starts_with('#') => heading = line,
            (None, line) => {
                let pieces = line.strip_prefix("Healthy: ").into_iter();
                let pieces = pieces.flat_map(|pieces| pieces.split('`').skip(1).step_by(2));
                if let Some(block) = blocks.last_mut() {
                    block.healthy.extend(pieces);
                }
            }
        }
    }
    blocks
}

/// A user who follows the page, for one pod.
pub(crate) struct Person<'a> {
    node: &'a Node,
    namespace: &'a str,
    service: &'a str,
    pod: String,
    headscale: &'a str,
    release: &'a str,
}

impl<'a> Person<'a> {
    /// Returns a user for the only pod of this service; `headscale` is Headscale's namespace.
    pub(crate) fn new(
        node: &'a Node,
        product: &'a Product<'_>,
        service: &'a str,
        headscale: &'a str,
    ) -> Result<Self> {
        let selector = format!("app={service}");
        let pod = node
            .kubectl()
            .ready_pod(&product.workloads, &selector, LIMIT)?;
        let name = pod["metadata"]["name"].as_str().context("no name")?;
        Ok(Self {
            node,
            namespace: &product.workloads,
            service,
            pod: name.to_owned(),
            headscale,
            release: &product.namespace,
        })
    }

    /// Runs everything that changes nothing, and checks that the page calls the result healthy.
    pub(crate) fn looks(&self) -> Result<()> {
        let known = [&[VALUES, LOGOUT, NEW, UP][..], &LOOKS].concat();
        let all = blocks();
        let values: Vec<_> = all.iter().filter(|block| block.heading == VALUES).collect();
        ensure!(values.len() == 1, "want one piece with values to fill in");
        for name in ["NS", "POD", "SERVICE", "HS"] {
            let line = format!("export {name}=");
            ensure!(values[0].commands.contains(&line), "no {line} on the page");
        }
        for block in &all {
            ensure!(
                known.contains(&block.heading),
                "{} is not tried",
                block.heading
            );
        }
        for heading in LOOKS {
            let own = all.iter().filter(|block| block.heading == heading);
            let own: Vec<_> = own.collect();
            ensure!(!own.is_empty(), "the page has no commands at {heading:?}");
            for block in own {
                ensure!(
                    !block.healthy.is_empty(),
                    "{heading}: what is healthy is not said of {}",
                    block.commands
                );
                // A key may just be in replacement, or a connection in setup.
                wait::until(heading, ANSWER, || self.is_healthy(block))?;
            }
        }
        Ok(())
    }

    fn is_healthy(&self, block: &Block) -> Result<()> {
        let (output, said) = self.run(&block.commands, "")?;
        ensure!(output.status.success(), "{}:\n{said}", block.commands);
        for piece in &block.healthy {
            ensure!(
                said.contains(piece),
                "no {piece:?}: {}\n{said}",
                block.commands
            );
        }
        Ok(())
    }

    /// Runs a block of the last section, which ends the container's program; returns how often that had started before.
    pub(crate) fn logs_in(&self, heading: &str, which: usize, id: &str) -> Result<u64> {
        let mut own = blocks()
            .into_iter()
            .filter(|block| block.heading == heading);
        let block = own.nth(which);
        let block = block.with_context(|| format!("no such piece at {heading:?}"))?;
        let before = self.starts()?;
        let (output, said) = self.run(&block.commands, id)?;
        let expected = COMPLAINTS.iter().any(|part| said.contains(part));
        ensure!(
            output.status.success() || expected,
            "{}: {}\n{said}",
            block.commands,
            output.status
        );
        for part in COMPLAINTS {
            ensure!(PAGE.contains(&format!("`{part}`")), "the page omits {part}");
        }
        Ok(before)
    }

    /// Waits until the container has started again since then and is up; returns its log from there.
    pub(crate) fn is_back(&self, before: u64) -> Result<String> {
        wait::until("the container has started again", ANSWER, || {
            let starts = self.starts()?;
            ensure!(starts > before, "{starts} starts");
            ensure!(is_ready(&self.read()?), "the pod is not ready");
            let logs = ["logs", &self.pod, "--container", "tailscale", "--namespace"];
            let logs = [&logs[..], &[self.namespace]].concat();
            let said = self.node.kubectl().run(&logs)?;
            ensure!(said.contains("Startup complete"), "{}: {said}", self.pod);
            Ok(said)
        })
    }

    fn read(&self) -> Result<Value> {
        let pod = ["get", "pod", &self.pod, "--namespace", self.namespace];
        self.node.kubectl().json(&pod)
    }

    /// Returns how often the sidecar has started.
    pub(crate) fn starts(&self) -> Result<u64> {
        let pod = self.read()?;
        let status = &pod["status"]["initContainerStatuses"][0];
        ensure!(status["name"] == "tailscale", "{status}");
        status["restartCount"].as_u64().context("no count")
    }

    /// Runs commands as written on the page; none of their output may be a key.
    fn run(&self, commands: &str, id: &str) -> Result<(Output, String)> {
        let kubectl = self.node.kubectl();
        let own = Path::new(env!("CARGO_BIN_EXE_sidescale"));
        let folders = [kubectl.program().parent(), own.parent()];
        let mut path: Vec<PathBuf> = folders.into_iter().flatten().map(Path::to_owned).collect();
        let others = std::env::var_os("PATH").unwrap_or_default();
        path.extend(std::env::split_paths(&others));
        let output = (self.node.place().command(Path::new("bash")))
            .args(["-euo", "pipefail", "-c", commands])
            .env("PATH", std::env::join_paths(path)?)
            .env("KUBECONFIG", kubectl.kubeconfig())
            .env("SIDESCALE_NAMESPACE", self.release)
            .envs([("NS", self.namespace), ("SERVICE", self.service)])
            .envs([("POD", &*self.pod), ("HS", self.headscale), ("ID", id)])
            .stdin(Stdio::null())
            .output()?;
        let said = [output.stdout.as_slice(), &output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        let keys: Vec<String> = self.node.keys().into_iter().collect();
        let found = leaks::leaks(&[(commands.to_owned(), said.clone())], &keys);
        ensure!(found.is_empty(), "a key is shown: {found:?}");
        Ok((output, said))
    }
}
