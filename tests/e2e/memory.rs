//! Peak memory of one replica, beside a tenant that makes everything large and a pod that posts hostile bodies.

use anyhow::{Result, ensure};

use crate::Case;
use crate::support::levels::Level;

mod fat;
mod storm;

pub(crate) use storm::ordered;

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "memory::fat_pods_and_secrets_cost_a_new_leader_little",
        needs: &[Level::Api],
        each: false,
        run: fat::run,
    },
    Case {
        name: "memory::a_pod_without_an_account_stops_no_injection",
        needs: &[Level::Node],
        each: false,
        run: storm::run,
    },
];

const MIB: u64 = 1 << 20;

/// The chart's limit.
const LIMIT: u64 = 256 * MIB;

/// Fails if the chart's limit would have killed the process.
fn check(peak: u64) -> Result<()> {
    ensure!(peak < LIMIT, "{} MiB at the peak", peak / MIB);
    Ok(())
}
