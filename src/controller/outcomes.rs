//! Applies the outcomes of jobs, reports them, and schedules what comes next. I/O.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use sidescale_core::notice::Topic;
use sidescale_core::secret::SecretRef;
use sidescale_core::time::after;
use sidescale_rotation::outcome::JobOutcome;
use sidescale_rotation::queue::JobClass;
use sidescale_rotation::secret_state::{JobEffects, Surroundings};
use sidescale_rotation::{rotated, wake};
use tracing::{debug, info, warn};

use super::pass::Pass;
use super::{FinishedJob, Loop, PASS_GAP};
use crate::alert_log::WINDOW;
use crate::controller::jitter::jitter;
use crate::controller::reconcile::Snapshot;
use crate::metrics::WakeResult;

/// How long to wait after a failed pass.
const PASS_RETRY: Duration = Duration::from_secs(60);

impl Loop {
    /// Applies the outcome of a job. It never blocks, and so neither does the loop.
    pub(super) fn apply_outcome(&mut self, done: FinishedJob) {
        let now = self.context.clock.now();
        match done {
            FinishedJob::Reconciled(secret, number, outcome) => {
                self.queue.done(&secret, number);
                self.reconciled(secret, *outcome, now);
            }
            FinishedJob::Connected(name, connected) => {
                if self.sessions.connected(&name, *connected, now) {
                    self.pass_at = self.pass_at.min(after(now, PASS_GAP));
                }
                // Also after a failure: it changes the states of the keys, and their Events.
                self.wake_users_of(&name, now);
            }
            FinishedJob::Looked(looked) => {
                if looked.renewed {
                    // Its client still has the old API key.
                    self.sessions.recheck(&looked.name, now);
                }
                self.api_keys.looked(*looked, now);
            }
            FinishedJob::Passed(passed) => {
                self.passing = false;
                self.passed_at = now;
                // Another pass may have been requested meanwhile.
                self.pass_at = self.pass_at.max(after(now, PASS_GAP));
                self.passed(*passed, now);
            }
        }
    }

    fn reconciled(&mut self, secret: SecretRef, outcome: JobOutcome, now: Timestamp) {
        for (name, problem) in &outcome.suspects {
            debug!(
                control_plane = name,
                error = problem.message,
                "Re-checking control plane"
            );
            self.sessions.recheck(name, now);
        }
        let times = [
            (JobClass::Renewal, outcome.plan.renew_at),
            (JobClass::Cleanup, outcome.plan.cleanup_at),
            (JobClass::New, outcome.again.then_some(now)),
        ];
        for (class, at) in times {
            if let Some(at) = at {
                self.queue.want(&secret, class, at);
            }
        }
        if let Some(at) = outcome.plan.confirm_at {
            self.pass_at = self.pass_at.min(at.max(after(now, PASS_GAP)));
        }
        let demand = self.demand(&secret);
        let namespace = self.demands.namespaces.get(secret.namespace.as_str());
        let overlap = self.context.policy.rotation.overlap;
        let rotated = namespace
            .map(|namespace| rotated::notices(&secret, &outcome, &namespace.users, overlap));
        if let Some(namespace) = namespace
            && self.context.policy.rotation.wake_pods
        {
            let groups = &namespace.replica_groups;
            let wake = wake::waiting(&secret, &outcome.minted, groups, now);
            // A full queue: these pods wait for their kubelet, as without it.
            if wake.is_some_and(|wake| self.wakes.try_send(wake).is_err()) {
                self.context
                    .metrics
                    .rotation
                    .count_wake(WakeResult::Dropped);
            }
        }
        let may_log = |topic: &Topic| self.context.events.may_log(WINDOW, topic);
        let surroundings = Surroundings {
            jitter: &jitter,
            may_log: &may_log,
        };
        let known = self.secrets.entry(secret.clone()).or_default();
        let JobEffects { retry, confirm } =
            known.apply_outcome(&secret, outcome, now, &surroundings);
        if let Some(at) = retry {
            self.queue.want(&secret, JobClass::Renewal, at);
        }
        if confirm {
            self.pass_at = self.pass_at.min(after(now, PASS_GAP));
        }
        let (statuses, contended) = (known.statuses(), known.contended_keys(now));
        // Nobody is woken: a check reads it when it is due.
        self.view.send_if_modified(|view| {
            view.keys.set(&secret, statuses, contended);
            false
        });
        let planes = &self.sessions;
        let of_plane = |data_key: &str| {
            let demand = demand.get(data_key)?;
            planes.problem(&demand.control_plane).flatten()
        };
        let told = known.notices(&secret, of_plane);
        for notice in told.iter().chain(rotated.iter().flatten()) {
            self.context.events.publish(notice);
        }
        self.watch_expiries(&secret, now);
    }

    fn passed(&mut self, passed: Pass, now: Timestamp) {
        let Pass {
            read_at,
            secrets,
            issued,
            suspects,
        } = passed;
        for name in suspects.keys() {
            self.sessions.recheck(name, now);
        }
        let issued = Arc::new(issued);
        let secrets = match secrets {
            Ok(secrets) => {
                if self.pass_outage.recovered().is_some() {
                    info!("Listing Secrets succeeded again");
                }
                secrets
            }
            Err(problem) => {
                let problem = problem.message;
                if self.pass_outage.failed() {
                    warn!(
                        error = problem,
                        "Failed to list Secrets: old keys are not expired; retrying every minute"
                    );
                } else {
                    debug!(error = problem, "Still failing to list Secrets");
                }
                self.pass_at = self.pass_at.min(after(now, PASS_RETRY));
                return;
            }
        };
        for (name, seen) in secrets {
            let snapshot = Snapshot {
                seen,
                issued: Arc::clone(&issued),
                read_at,
            };
            self.secrets.entry(name.clone()).or_default();
            self.snapshots.insert(name.clone(), snapshot);
            self.queue.want(&name, JobClass::Cleanup, now);
        }
    }

    fn wake_users_of(&mut self, plane: &str, now: Timestamp) {
        for (namespace, demand) in &self.demands.namespaces {
            for (name, keys) in &demand.secrets {
                if keys.values().any(|key| key.control_plane == plane) {
                    self.queue
                        .want(&SecretRef::new(namespace, name), JobClass::New, now);
                }
            }
        }
    }
}
