//! `sidescale status`: every key, its user, age and expiration, its users, and its problems. I/O around a pure report.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

use anyhow::{Result, bail};
use jiff::Timestamp;

use super::view::form::OutputFormat;
use super::view::held::PlaneView;
use super::view::inventory::Inventory;
use super::view::progress::Progress;
use super::view::release::{Release, ReleaseArgs};
use super::view::verify;
use crate::cluster;
use report::StatusReport;
use row::Hints;

mod fold;
mod missing;
mod report;
mod row;
mod secret;
mod table;

const HELP: &str = "\
One row per key. NEXT shows when the key is renewed, or why a new one is being created now. NODES counts the nodes that \
are online, of the pods that should have one, and SEEN shows when one of them was last online (both with --verify). \
Problems are listed below the table, each with its fix.

Rights that your own kubeconfig needs: list configmaps in Sidescale's namespace; list pods, namespaces and the Secrets \
named headscale-auth-keys and headscale-pod-auth-keys, in all namespaces or (with NAMESPACE) get and list in that one; \
list events there, to show why a key is missing. With --verify: get the Secret of the control plane's API key. No key \
value is ever shown.

Exit codes: 0 done; 1 failed, or --verify found a problem with a key; 2 bad usage.";

/// Flags of `sidescale status`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_long_help = HELP, after_help = HELP)]
pub struct StatusArgs {
    /// Namespace to show [default: all]
    #[arg(value_name = "NAMESPACE")]
    pub only: Option<String>,
    /// Output format
    #[arg(long, short = 'o', default_value = "table", value_name = "FORM")]
    pub output: OutputFormat,
    /// Ask each control plane whether the keys exist and which nodes have joined
    #[arg(long)]
    pub verify: bool,
    /// Which installation.
    #[command(flatten)]
    pub release: ReleaseArgs,
}

/// Shows the keys.
///
/// # Errors
/// The cluster is unavailable, or a key failed verification.
pub async fn run(args: StatusArgs, out: &mut (dyn Write + Send)) -> Result<()> {
    let StatusArgs {
        only,
        output,
        verify: verifying,
        release,
    } = args;
    let progress = Progress::start();
    progress.doing("Reading the configuration");
    let release = Release::open(&release).await?;
    progress.doing("Reading Secrets and pods");
    let mut inventory = Inventory::read(&release, only.as_deref()).await?;
    let mut planes: BTreeMap<String, PlaneView> = BTreeMap::new();
    if verifying {
        for (name, config) in &release.policy.control_planes {
            progress.doing(&format!("Reading control plane {name}"));
            planes.insert(name.clone(), verify::view(&release, name, config).await);
        }
    }
    let hints = Hints {
        logs: format!(
            "kubectl logs --namespace {} --selector app.kubernetes.io/instance={} --tail 100",
            release.namespace, release.name
        ),
        flags: cluster::flags(&release.namespace, &release.name),
    };
    let now = Timestamp::now();
    let mut report = StatusReport::new(now, &inventory, &release.policy, &planes, &hints);
    let troubled: BTreeSet<String> = report
        .keys
        .iter()
        .filter(|key| key.unexplained)
        .map(|key| key.namespace.clone())
        .collect();
    if !troubled.is_empty() {
        progress.doing("Reading Events");
        inventory.read_notes(&release.client, &troubled).await;
        report = StatusReport::new(now, &inventory, &release.policy, &planes, &hints);
    }
    drop(progress);
    match output {
        OutputFormat::Table => write!(out, "{}", table::render(now, &report))?,
        OutputFormat::Json => writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?,
    }
    out.flush()?;
    let wrong = report.unverified();
    if wrong > 0 {
        bail!("{wrong} of {} keys have problems", report.keys.len());
    }
    Ok(())
}

#[cfg(test)]
mod tests;
