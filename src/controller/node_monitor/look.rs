//! One check of one control plane: nodes, their names, and four times an hour what is no longer needed. I/O.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use sidescale_control_plane::Error;
use sidescale_core::notice::Topic;
use sidescale_core::problem::Problem;
use sidescale_core::time::after;
use sidescale_rotation::demand::Demands;
use sidescale_rotation::nodes::claims::{Claims, Rules};
use sidescale_rotation::nodes::rename::{NodeRenamer, RenameStep};
use sidescale_rotation::nodes::tailnet::Tailnet;
use sidescale_rotation::nodes::{Counts, NodeCheckpoint, NodeReport, NodeTracker, PodOwner};
use sidescale_rotation::ownership::foreign_keys;
use sidescale_webhook::hostnames::MOST;
use tracing::{debug, info, warn};

use super::shared::{LOOK_EVERY, NodeMonitor};
use crate::cluster::chain;
use crate::controller::context::Context;
use crate::controller::session::Session;
use crate::outage::Outage;

/// Factor for the pause after a check: the pause is this many times as long as the check.
const REST: u32 = 10;

/// Longest pause: a server that was slow for a moment must not hide lost nodes for minutes.
const LONGEST_REST: Duration = Duration::from_secs(60);

/// How often to sweep what is no longer needed. Rows are kept for an hour after their key expired: with a sweep an hour, a
/// namespace that uses its whole budget of keys would have nearly twice as many rows.
const SWEEP_EVERY: Duration = Duration::from_secs(900);

/// How long to wait after a sweep that did not finish.
const SWEEP_AGAIN: Duration = Duration::from_secs(60);

/// Maximum number of renaming steps after one check.
const MOST_STEPS: usize = 32;

/// State of one control plane between checks.
pub(super) struct OnePlane {
    truth: NodeTracker,
    names: NodeRenamer,
    pub(super) claims: Claims,
    pub(super) counts: Counts,
    /// Topics that were open at the last check.
    open: BTreeSet<Topic>,
    sweep_at: Timestamp,
    outage: Outage,
}

impl OnePlane {
    /// Resumes from what an earlier process has stored.
    pub(super) fn after(noted: Option<NodeCheckpoint>, claims: Claims, now: Timestamp) -> Self {
        Self {
            truth: NodeTracker::after(noted),
            names: NodeRenamer::default(),
            claims,
            counts: Counts::default(),
            open: BTreeSet::new(),
            sweep_at: now,
            outage: Outage::default(),
        }
    }

    /// Returns the checkpoint for the next process.
    pub(super) fn note(&self) -> Option<NodeCheckpoint> {
        self.truth.note()
    }
}

impl NodeMonitor {
    /// Checks one control plane, and sweeps it if that is due; returns when to check again.
    pub(super) async fn look(
        &self,
        name: &str,
        plane: &Session,
        state: &mut OnePlane,
    ) -> Timestamp {
        let now = self.context.clock.now();
        let began = Instant::now();
        let lent_is_known = knows_lent(&self.context, plane).await;
        // The pods are read after the nodes: the other way round, each new node would seem to have no pod.
        let tailnet = plane.tailnet(now).await;
        let demands = self.demands.borrow().clone();
        match tailnet {
            Ok(tailnet) if demands.synced && lent_is_known => {
                state.outage = Outage::default();
                self.looked(name, plane, state, &demands, &tailnet).await;
            }
            Ok(_) => {}
            Err(problem) => self.failed(name, state, &problem),
        }
        self.sweep_if_due(name, plane, state).await;
        let rest = (began.elapsed() * REST).clamp(LOOK_EVERY, LONGEST_REST);
        after(self.context.clock.now(), rest)
    }

    async fn sweep_if_due(&self, name: &str, plane: &Session, state: &mut OnePlane) {
        let now = self.context.clock.now();
        if now < state.sweep_at || self.context.policy.rotation.paused {
            return;
        }
        let swept = self.sweep(name, plane).await;
        if let Err(problem) = &swept {
            let problem = problem.message.as_str();
            debug!(
                control_plane = name,
                error = problem,
                "Failed to complete sweep"
            );
        }
        let rest = match swept {
            Ok(false) => SWEEP_EVERY,
            Ok(true) | Err(_) => SWEEP_AGAIN,
        };
        state.sweep_at = after(now, rest);
    }

    async fn looked(
        &self,
        name: &str,
        plane: &Session,
        state: &mut OnePlane,
        demands: &Demands,
        tailnet: &Tailnet,
    ) {
        let now = self.context.clock.now();
        let key_of = |place: &PodOwner| {
            let status = self.key(&place.namespace, &place.secret, &place.data_key)?;
            status.key
        };
        let NodeReport { counts, findings } =
            state.truth.look(now, name, demands, tailnet, &key_of);
        state.counts = counts;
        let policy = &self.context.policy;
        let rules = Rules {
            reserved: &policy.reserved_hostnames,
            most_of_namespace: policy.rotation.max_services_per_namespace,
            // Each control plane has its share, so that its hostnames leave room for those of the others.
            most: MOST / policy.control_planes.len().max(1),
        };
        let claimed = state.claims.look(now, name, demands, tailnet, &rules);
        if !self.context.policy.rotation.paused {
            let steps = state.names.steps(now, name, demands, tailnet, &claimed);
            for step in steps.into_iter().take(MOST_STEPS) {
                match plane.name_step(&step).await {
                    Ok(()) => told(name, &step),
                    Err(error) => {
                        refused(name, &step, &error);
                        state.names.refused(&step, now);
                    }
                }
            }
        }
        let mut open = self.report_hostnames(name, &claimed);
        for finding in findings {
            open.extend(self.found(name, &finding).await);
        }
        for over in state.open.difference(&open) {
            self.context.events.over(over);
        }
        state.open = open;
    }

    fn failed(&self, name: &str, state: &mut OnePlane, problem: &Problem) {
        if state.outage.failed() {
            let problem = problem.message.as_str();
            info!(
                control_plane = name,
                error = problem,
                "Failed to list nodes"
            );
        }
        // If the queue is full, a recheck happens soon anyway.
        if problem.of_plane {
            let _ = self.suspects.try_send(name.to_owned());
        }
    }
}

/// Returns whether all foreign keys in Secrets are known; reads them if they are not.
async fn knows_lent(context: &Context, plane: &Session) -> bool {
    if plane.knows_foreign_keys() {
        return true;
    }
    let mut keys = BTreeSet::new();
    let read = context.each_secret(|secret| keys.extend(foreign_keys([&secret])));
    if let Err(error) = read.await {
        let problem = chain(&error);
        debug!(
            error = problem,
            "Node check skipped: failed to read all Secrets"
        );
        return false;
    }
    plane.note_foreign_keys(&keys);
    true
}

fn told(control_plane: &str, step: &RenameStep) {
    match step {
        RenameStep::Delete { node, name } => {
            info!(
                control_plane,
                node_id = %node.0,
                name,
                "Deleted the node of a deleted pod"
            );
        }
        RenameStep::Rename { node, from, to } => {
            info!(
                control_plane,
                node_id = %node.0,
                from,
                to,
                "Renamed a node back to its requested name"
            );
        }
        RenameStep::TellTaken { node, from, to } => {
            warn!(
                control_plane,
                node_id = %node.0,
                name = from,
                taken = to,
                "Node did not get its requested name: a node of another owner has it"
            );
        }
    }
}

fn refused(control_plane: &str, step: &RenameStep, error: &Error) {
    debug!(control_plane, ?step, %error, "Failed to rename or delete node, retrying in a minute");
}
