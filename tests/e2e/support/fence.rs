//! A fence around one pod: its processes reach only two servers and their own loopback; the rest is refused and counted (I/O).

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::node::Node;

/// Rules in a pod's network namespace, which disappear with the pod.
pub(crate) struct Fence<'a> {
    node: &'a Node,
    /// A process in the namespace: the pod's own, which outlives a restart of its container.
    process: String,
}

impl<'a> Fence<'a> {
    /// Installs it; `servers` are addresses with their ports. Open connections stay open until the process ends.
    pub(crate) fn around(node: &'a Node, pod: &Value, servers: &[String]) -> Result<Self> {
        let process = process(node, pod, "catatonit")?;
        let fence = Self { node, process };
        let mut rules = vec![
            "-o lo -j RETURN".to_owned(),
            "-m conntrack --ctstate ESTABLISHED,RELATED -j RETURN".to_owned(),
        ];
        for server in servers {
            let (address, port) = server.rsplit_once(':').context("no port")?;
            rules.push(format!("-p tcp -d {address} --dport {port} -j RETURN"));
        }
        rules.push("-j REJECT".to_owned());
        for rule in rules {
            fence.run(&format!("iptables -w -A OUTPUT {rule}"))?;
        }
        Ok(fence)
    }

    /// Returns how many packets were refused.
    pub(crate) fn refused(&self) -> Result<u64> {
        let rules = self.run("iptables -w -L OUTPUT -v -n -x")?;
        let refused = rules.lines().find(|line| line.contains("REJECT"));
        let count = refused.and_then(|line| line.split_whitespace().next());
        count.and_then(|count| count.parse().ok()).context(rules)
    }

    /// Tries a forbidden connection, and checks that it is counted.
    pub(crate) fn is_tried(&self) -> Result<()> {
        let before = self.refused()?;
        // An address reserved for documentation.
        let tried = self.run("busybox nc -w 1 192.0.2.1 443 </dev/null");
        let after = self.refused()?;
        ensure!(
            tried.is_err() && after > before,
            "{before} refused, then {after}: {tried:?}"
        );
        Ok(())
    }

    fn run(&self, command: &str) -> Result<String> {
        let process = &self.process;
        self.node
            .shell(&format!("nsenter --net=/proc/{process}/ns/net {command}"))
    }
}

/// Kills the product's own process in this pod, for the kubelet to restart its container.
pub(crate) fn restart(node: &Node, pod: &Value) -> Result<()> {
    let process = process(node, pod, "sidescale serve")?;
    node.shell(&format!("kill -TERM {process}")).map(drop)
}

/// Returns the process of a pod whose command line contains these words.
fn process(node: &Node, pod: &Value, words: &str) -> Result<String> {
    let uid = pod["metadata"]["uid"].as_str().context("no uid")?;
    let found = node.shell(&format!(
        "for p in /proc/[0-9]*; do grep -qs '{uid}' $p/cgroup && tr '\\0' ' ' <$p/cmdline | grep -q '{words}' && echo ${{p#/proc/}}; done; true"
    ))?;
    let first = found.lines().next();
    Ok(first
        .with_context(|| format!("no {words:?} in pod {uid}"))?
        .trim()
        .to_owned())
}
