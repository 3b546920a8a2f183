//! What one replica needs at its peak, beside a tenant that makes everything fat and a pod that posts hostile bodies.

use anyhow::{Result, ensure};
use kube::Client;
use serde_json::json;
use tokio::runtime::Runtime;

use crate::Case;
use crate::chart::Release;
use crate::support::api::ControlPlane;
use crate::support::context::Context;
use crate::support::levels::Level;
use crate::world::{client, forget_others};

mod fat;
mod storm;

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "memory::fat_pods_and_secrets_cost_a_new_leader_little",
        needs: &[Level::Api],
        each: false,
        run: fat::run,
    },
    Case {
        name: "memory::a_pod_without_an_account_stops_no_injection",
        needs: &[Level::Api],
        each: false,
        run: storm::run,
    },
];

const MIB: u64 = 1 << 20;

/// Is the chart's limit.
const LIMIT: u64 = 256 * MIB;

/// Fails where the chart's limit would have ended the process.
fn check(peak: u64) -> Result<()> {
    ensure!(peak < LIMIT, "{} MiB at the peak", peak / MIB);
    Ok(())
}

/// A release whose process the test starts by itself, and an administrator.
struct Stage {
    release: Release,
    runtime: Runtime,
    admin: Client,
}

impl Stage {
    /// Installs the chart and makes namespaces `<name>-<suffix>`.
    fn install(
        context: &Context,
        api: &ControlPlane,
        name: &str,
        suffixes: &[&str],
    ) -> Result<Self> {
        let release = Release::install(context, api, name)?;
        forget_others(api.kubectl())?;
        for suffix in suffixes {
            api.namespace(&format!("{name}-{suffix}"), &json!({}))?;
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()?;
        let admin = runtime.block_on(client(api.kubectl()))?;
        Ok(Self {
            release,
            runtime,
            admin,
        })
    }
}
