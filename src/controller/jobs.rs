//! Starts the jobs that are due, each with the input it needs. I/O.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use sidescale_core::key_state::KeyState;
use sidescale_core::secret::SecretRef;
use sidescale_core::time::after;
use sidescale_rotation::plan::{Blocked, Process};
use sidescale_rotation::queue::{Job, JobClass};
use sidescale_rotation::quota::Quota;
use tracing::info;

use super::pass::pass;
use super::{FinishedJob, Loop, PASS_EVERY};
use crate::controller::api_keys;
use crate::controller::reconcile::{Task, reconcile};
use crate::controller::session::Session;

/// A clock that goes back by more than this counts as set back.
const SET_BACK: Duration = Duration::from_secs(10);

impl Loop {
    /// Starts the jobs that are due.
    pub(super) fn start(&mut self) {
        let now = self.context.clock.now();
        if std::mem::replace(&mut self.shown, now) > after(now, SET_BACK) {
            self.set_back(now);
        }
        for name in self.sessions.due(now) {
            let context = Arc::clone(&self.context);
            self.jobs.push(Box::pin(async move {
                let connected = Session::connect(&context, &name).await;
                FinishedJob::Connected(name, Box::new(connected))
            }));
        }
        for (name, keeper) in self.api_keys.due(now, |name| self.sessions.answers(name)) {
            let looked = api_keys::look(Arc::clone(&self.context), name, keeper);
            self.jobs.push(Box::pin(async move {
                FinishedJob::Looked(Box::new(looked.await))
            }));
        }
        if !self.passing && now >= self.pass_at && !self.sessions.answering().is_empty() {
            self.passing = true;
            // A pass requested from now on is the next one.
            self.pass_at = after(now, PASS_EVERY);
            let (context, planes) = (Arc::clone(&self.context), self.sessions.answering());
            self.jobs.push(Box::pin(async move {
                FinishedJob::Passed(Box::new(pass(&context, planes).await))
            }));
        }
        self.report_expiries(now);
        while let Some(job) = self.queue.next(now) {
            let (number, task) = (job.number, self.task(job, now));
            let context = Arc::clone(&self.context);
            self.jobs.push(Box::pin(async move {
                let (secret, outcome) = reconcile(&context, task).await;
                FinishedJob::Reconciled(secret, number, Box::new(outcome))
            }));
        }
    }

    /// Schedules everything again: times that a fast clock postponed may be due.
    fn set_back(&mut self, now: Timestamp) {
        info!("Clock was set back: rescheduling all work");
        self.queue.set_back();
        self.passed_at = Timestamp::MIN;
        self.pass_at = self.pass_at.min(now);
        let demanded = self.demands.namespaces.iter();
        let demanded = demanded.flat_map(|(namespace, demand)| {
            let names = demand.secrets.keys();
            names.map(|name| SecretRef::new(namespace, name))
        });
        let all: BTreeSet<_> = demanded.chain(self.secrets.keys().cloned()).collect();
        for secret in all {
            self.queue.want(&secret, JobClass::Renewal, now);
        }
    }

    /// Returns which of a Secret's keys exceed the namespace's quota, over all Secrets there.
    fn quota(&self, secret: &SecretRef) -> Quota {
        let most = self.context.policy.rotation.max_services_per_namespace;
        let from = SecretRef {
            namespace: secret.namespace.clone(),
            name: String::new(),
        };
        let namespace = self
            .secrets
            .range(from..)
            .take_while(|(other, _)| other.namespace == secret.namespace);
        let with_key = namespace.flat_map(|(_, known)| known.services());
        let demand = self.demands.namespaces.get(secret.namespace.as_str());
        let demand = demand.map(|demand| &**demand);
        Quota::of(&secret.name, demand, with_key, most)
    }

    fn task(&mut self, job: Job, now: Timestamp) -> Task {
        let Job {
            secret,
            class,
            number,
        } = job;
        let demand = self.demand(&secret);
        let quota = self.quota(&secret);
        let known = self.secrets.entry(secret.clone()).or_default();
        let mut held = known.held(now);
        for (data_key, demand) in demand.iter() {
            if let Some(problem) = self.sessions.problem(&demand.control_plane) {
                let state = problem.map_or(KeyState::Degraded, |problem| problem.state);
                held.insert(data_key.clone(), Blocked { state, until: None });
            }
        }
        // A snapshot is only good for the next job: any other work makes it outdated.
        let snapshot = self.snapshots.remove(&secret);
        let snapshot = snapshot.filter(|_| class == JobClass::Cleanup);
        let (beside, resting) = (known.beside.clone(), known.resting(now));
        Task {
            class,
            number,
            beside,
            demand,
            secret,
            synced: self.demands.synced,
            planes: self.sessions.answering(),
            process: Process {
                writer: self.context.writer.clone(),
                intent_ttl: self.context.respect,
                live: BTreeSet::new(),
                beside: BTreeSet::new(),
                held,
            },
            resting,
            budget: Arc::clone(&self.budget),
            over_quota: quota.over,
            excess: quota.excess,
            snapshot,
        }
    }
}
