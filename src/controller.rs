//! Obeys `sidescale_rotation`: creates, renews and expires the keys that injected sidecars refer to. I/O.
//!
//! ```text
//! pods ─► demand ─► queue ─► jobs ─► reconcile: plan ─► create, retire ─► control plane and Secret
//!                     ▲                                     │
//!                     └──── secret_state ◄──── outcomes ◄───┘
//! ```
//! This file is the loop in the middle: it waits for pods and times, starts jobs, and applies their outcomes. Beside it,
//! `node_monitor` compares nodes with pods, and `api_keys` renews the keys by which control planes are called.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use jiff::Timestamp;
use sidescale_core::problem::Problem;
use sidescale_core::secret::SecretRef;
use sidescale_core::time::after;
use sidescale_rotation::budget::Budget;
use sidescale_rotation::demand::{Demands, SecretDemand};
use sidescale_rotation::outcome::JobOutcome;
use sidescale_rotation::queue::{JobClass, JobQueue};
use sidescale_rotation::secret_state::SecretState;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use crate::outage::Outage;
use api_keys::{ApiKeys, TokenOutcome};
use context::Context;
use node_monitor::View;
use reconcile::Snapshot;
use session::Session;
use sessions::Sessions;
use snapshots::ReadSecret;
use waker::Wakes;

mod api_keys;
mod checkpoint;
pub mod context;
mod expiries;
mod jitter;
mod jobs;
#[cfg(test)]
mod model;
mod node_monitor;
mod outcomes;
mod pass;
mod reconcile;
pub mod session;
mod sessions;
mod shown;
mod snapshots;
pub(crate) mod sweep;
mod waker;

pub use checkpoint::Checkpoint;
use pass::Pass;

/// How often everything is checked, even without changes.
const PASS_EVERY: Duration = Duration::from_secs(3_600);

/// Minimum time between two passes.
const PASS_GAP: Duration = Duration::from_secs(5);

/// Minimum time between passes that are caused by changes of others.
const CHANGED_GAP: Duration = Duration::from_secs(60);

/// Capacity for control planes waiting to be rechecked; if full, the next check of nodes reports them again.
const SUSPECTS: usize = 8;

/// How long running jobs may take at shutdown.
const GRACE: Duration = Duration::from_secs(5);

enum FinishedJob {
    Reconciled(SecretRef, u64, Box<JobOutcome>),
    Connected(String, Box<Result<Session, Problem>>),
    Passed(Box<Pass>),
    Looked(Box<TokenOutcome>),
}

struct Loop {
    context: Arc<Context>,
    queue: JobQueue,
    sessions: Sessions,
    api_keys: ApiKeys,
    secrets: BTreeMap<SecretRef, SecretState>,
    /// The Secrets as the last pass has read them, until their next job.
    snapshots: BTreeMap<SecretRef, Snapshot>,
    /// What the node monitor and its sweep see of this.
    view: watch::Sender<View>,
    /// Pods whose kubelets are to be woken, for a task of its own.
    wakes: Wakes,
    /// How many keys each namespace may have created.
    budget: Arc<Mutex<Budget>>,
    demands: Demands,
    pass_at: Timestamp,
    /// When the last pass ended.
    passed_at: Timestamp,
    /// Time last read from the clock.
    shown: Timestamp,
    passing: bool,
    pass_outage: Outage,
    /// When the next expiry alert is due.
    endings_at: Option<Timestamp>,
    /// Jobs that are not spawned yet.
    jobs: Vec<BoxFuture<'static, FinishedJob>>,
}

/// What outlives an edit of the configuration: sessions, back-offs, contention, and what was reported.
#[derive(Debug, Default)]
pub struct Memory {
    sessions: Sessions,
    secrets: BTreeMap<SecretRef, SecretState>,
}

/// Runs rotation and the node monitor until `shutdown`; running jobs then get a moment to finish. Another process may have
/// rotated since the run that returned `memory`: then it is outdated.
pub async fn run(
    context: Arc<Context>,
    memory: Memory,
    demands: watch::Receiver<Demands>,
    shutdown: CancellationToken,
) -> Memory {
    let (suspects, suspected) = mpsc::channel(SUSPECTS);
    let (wakes, woken) = waker::queue();
    let planes = &context.policy.control_planes;
    let api_keys = ApiKeys::new(planes, &context.writer, context.clock.now());
    let rotation = Loop::new(Arc::clone(&context), memory, api_keys, wakes);
    let waker = waker::run(Arc::clone(&context), woken, shutdown.clone());
    let keeper = node_monitor::run(
        context,
        demands.clone(),
        rotation.view.subscribe(),
        suspects,
        shutdown.clone(),
    );
    let rotation = rotate(rotation, demands, suspected, shutdown);
    let (memory, (), ()) = tokio::join!(rotation, keeper, waker);
    memory
}

async fn rotate(
    mut rotation: Loop,
    mut demands: watch::Receiver<Demands>,
    mut suspected: mpsc::Receiver<String>,
    shutdown: CancellationToken,
) -> Memory {
    let mut jobs = JoinSet::new();
    let first = demands.borrow_and_update().clone();
    rotation.take(first);
    loop {
        rotation.start();
        for job in rotation.jobs.drain(..) {
            jobs.spawn(job);
        }
        if jobs.is_empty() {
            rotation.show();
        }
        rotation.notify();
        let wake = rotation.wake();
        let clock = rotation.context.clock.clone();
        tokio::select! {
            () = shutdown.cancelled() => break,
            changed = demands.changed() => {
                if changed.is_err() {
                    break;
                }
                let fresh = demands.borrow_and_update().clone();
                rotation.take(fresh);
            }
            Some(done) = jobs.join_next() => match done {
                Ok(done) => rotation.apply_outcome(done),
                Err(error) => error!(%error, "Rotation job panicked"),
            },
            Some(name) = suspected.recv() => rotation.sessions.recheck(&name, clock.now()),
            () = clock.sleep_until(wake) => {}
        }
    }
    // The node monitor must not act on outdated sessions.
    rotation.view = watch::Sender::default();
    rotation.show_nothing();
    let rest = async { while jobs.join_next().await.is_some() {} };
    if tokio::time::timeout(GRACE, rest).await.is_err() {
        warn!("Shutdown grace period exceeded; the next leader resumes");
    }
    Memory {
        sessions: rotation.sessions,
        secrets: rotation.secrets,
    }
}

impl Loop {
    /// `api_keys` are those that this process renews.
    fn new(context: Arc<Context>, memory: Memory, api_keys: ApiKeys, wakes: Wakes) -> Self {
        let now = context.clock.now();
        let Memory {
            mut sessions,
            mut secrets,
        } = memory;
        let same = sessions.resume(&context, now);
        let mut view = View::default();
        for (secret, known) in &mut secrets {
            known.resume(!same);
            view.keys
                .set(secret, known.statuses(), known.contended_keys(now));
        }
        Self {
            sessions,
            api_keys,
            context,
            queue: JobQueue::default(),
            secrets,
            snapshots: BTreeMap::new(),
            view: watch::Sender::new(view),
            wakes,
            budget: Arc::default(),
            demands: Demands::default(),
            pass_at: now,
            passed_at: Timestamp::MIN,
            shown: now,
            passing: false,
            pass_outage: Outage::default(),
            endings_at: None,
            jobs: Vec::new(),
        }
    }

    /// Applies what the pods need now.
    fn take(&mut self, fresh: Demands) {
        let now = self.context.clock.now();
        let old = std::mem::replace(&mut self.demands, fresh);
        let mut touched = BTreeSet::new();
        let names: BTreeSet<_> = old
            .namespaces
            .keys()
            .chain(self.demands.namespaces.keys())
            .cloned()
            .collect();
        for namespace in names {
            let (before, after) = (
                old.namespaces.get(&namespace),
                self.demands.namespaces.get(&namespace),
            );
            let same = before
                .zip(after)
                .is_some_and(|(before, after)| Arc::ptr_eq(before, after));
            if same {
                continue;
            }
            for demand in before.into_iter().chain(after) {
                touched.extend(
                    demand
                        .secrets
                        .keys()
                        .map(|name| SecretRef::new(&namespace, name)),
                );
            }
        }
        let changes = self.demands.changes.iter();
        let changed = changes.filter(|(secret, count)| old.changes.get(*secret) != Some(*count));
        let changed: Vec<_> = changed.map(|(secret, _)| secret.clone()).collect();
        if !changed.is_empty() {
            // Only a full list can tell whether a value that another writer put there is a valid key.
            let soonest = after(self.passed_at, CHANGED_GAP).max(after(now, PASS_GAP));
            self.pass_at = self.pass_at.min(soonest);
        }
        // A Secret that is written again and again is checked once a second.
        let changed = changed.into_iter().filter(|one| !touched.contains(one));
        let changed: Vec<_> = changed
            .map(|secret| {
                let known = self.secrets.entry(secret.clone()).or_default();
                let at = known.look_at(now);
                (secret, at)
            })
            .collect();
        let touched = touched.iter().map(|secret| (secret.clone(), now));
        for (secret, at) in touched.chain(changed) {
            for demand in self.demand(&secret).values() {
                self.sessions.retry_soon(&demand.control_plane, now);
            }
            self.queue.want(&secret, JobClass::New, at);
        }
    }

    /// Publishes which control planes are connected, if that has changed.
    fn notify(&self) {
        let now = self.sessions.answering();
        self.view.send_if_modified(|view| {
            let known = &view.connected;
            let mut both = known.iter().zip(&now);
            let same = known.len() == now.len()
                && both.all(|(known, now)| known.0 == now.0 && Arc::ptr_eq(known.1, now.1));
            if !same {
                view.connected.clone_from(&now);
            }
            !same
        });
    }

    fn wake(&self) -> Timestamp {
        let now = self.context.clock.now();
        let pass = (!self.passing && !self.sessions.answering().is_empty()).then_some(self.pass_at);
        let times = [
            self.queue.wake(),
            pass,
            self.sessions.wake(),
            self.api_keys.wake(|name| self.sessions.answers(name)),
            self.endings_at,
            Some(after(now, PASS_EVERY)),
        ];
        times.into_iter().flatten().min().unwrap_or(now)
    }

    fn demand(&self, secret: &SecretRef) -> SecretDemand {
        let namespace = self.demands.namespaces.get(secret.namespace.as_str());
        SecretDemand::new(namespace.cloned(), &secret.name)
    }
}
