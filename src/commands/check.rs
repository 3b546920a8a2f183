//! `sidescale check`: why one pod is, or is not, a node of the tailnet. I/O around pure judgement.

use std::io::Write;
use std::str::FromStr;

use anyhow::{Result, bail};
use serde::Serialize;

use super::view::form::OutputFormat;
use super::view::progress::Progress;
use super::view::release::{AccessArgs, ReleaseArgs, connect};
use facts::{CheckFinding, Level};

mod dns;
mod facts;
mod headscale;
mod judge;
mod look;
mod table;
mod words;

const HELP: &str = "\
One line per check: ok, warn or FAIL, and what was found; below a problem, the command to type next. It checks what the \
webhook did to the pod, the container tailscale, the Secret and the key that the pod refers to, the key and the node at \
the control plane, what Sidescale has reported about the policies that limit its own account, the names that Headscale \
provides, the owner of the pod's hostname, and, if there is no node, what the sidecar's log says about the control server. \
It shows the kind of a key, and never its value.

Rights that your own kubeconfig needs: get this pod. All others are optional, and check names each right that it lacks: \
get this namespace, list pods, get pods/log, list events and get the Secret of the key in this namespace; list configmaps \
and events in Sidescale's namespace; get the Secret of the control plane's API key, and network access to the control \
plane; list pods and get configmaps in the namespace of that Secret, where Headscale runs, and get configmap coredns in \
kube-system.

Exit codes: 0 no check failed; 1 a check failed, or the pod cannot be read; 2 bad usage.";

/// Flags of `sidescale check`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_long_help = HELP, after_help = HELP)]
pub struct CheckArgs {
    /// Pod to check, such as pod/web-7c9d8b-x2x4z
    #[arg(value_name = "pod/NAME")]
    pub pod: PodName,
    /// Namespace of the pod [default: the kubeconfig's]
    #[arg(long, short = 'n', value_name = "NAME")]
    pub namespace: Option<String>,
    /// Output format
    #[arg(long, short = 'o', default_value = "table", value_name = "FORM")]
    pub output: OutputFormat,
    /// Namespace that Sidescale is installed in
    #[arg(
        long,
        env = "SIDESCALE_NAMESPACE",
        default_value = "sidescale",
        value_name = "NAME"
    )]
    pub release_namespace: String,
    /// How that installation is reached.
    #[command(flatten)]
    pub access: AccessArgs,
}

/// Names a pod, as kubectl does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodName(String);

impl FromStr for PodName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let name = match text.split_once('/') {
            Some(("pod" | "pods" | "po", name)) => name,
            Some(_) => "",
            None => text,
        };
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c);
        if name.is_empty() || !name.chars().all(fits) {
            return Err(
                "want one pod, pod/NAME, such as pod/web-7c9d8b-x2x4z: kubectl get pods shows the names"
                    .to_owned(),
            );
        }
        Ok(Self(name.to_owned()))
    }
}

/// The complete report.
#[derive(Debug, Serialize)]
struct CheckReport<'a> {
    namespace: &'a str,
    pod: &'a str,
    findings: &'a [CheckFinding],
}

/// Checks a pod, and prints the findings.
///
/// # Errors
/// The pod cannot be read, or a check failed.
pub async fn run(args: CheckArgs, out: &mut (dyn Write + Send)) -> Result<()> {
    let CheckArgs {
        pod: PodName(pod),
        namespace,
        output,
        release_namespace,
        access,
    } = args;
    let progress = Progress::start();
    let client = connect(access.context.as_deref()).await?;
    let namespace = namespace.unwrap_or_else(|| client.default_namespace().to_owned());
    let release = ReleaseArgs {
        namespace: release_namespace,
        access,
    };
    let facts = look::look(&client, &release, &namespace, &pod, &progress).await?;
    drop(progress);
    let findings = judge::judge(&facts);
    let report = CheckReport {
        namespace: &namespace,
        pod: &pod,
        findings: &findings,
    };
    match output {
        OutputFormat::Table => write!(
            out,
            "{}",
            table::render(&format!("{namespace}/{pod}"), &findings)
        )?,
        OutputFormat::Json => writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?,
    }
    out.flush()?;
    let failed = |finding: &&CheckFinding| finding.result == Level::Fail;
    let failed = findings.iter().filter(failed).count();
    if failed > 0 {
        bail!(
            "{failed} of {} checks of pod {namespace}/{pod} failed",
            findings.len()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests;
