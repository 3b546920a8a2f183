//! The loop of rotation: waits for pods and times, gives out jobs, and keeps what came of them. I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use jiff::Timestamp;
use sidescale_webhook::identity::POD_SECRET;
use sidescale_webhook::profile::Policy;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::api_keys::{self, ApiKeys, Looked};
use super::demand::{Demands, KeyDemand, SecretRef};
use super::ending::Told;
use super::housekeeping::{self, Notebook, Up};
use super::known::{Known, LastKeys, Next};
use super::plan::{Held, Process};
use super::plane::{Plane, Trouble};
use super::planes::Planes;
use super::queue::{Class, Job, Queue};
use super::settle::{Outcome, Task, settle};
use super::standing::Standings;
use super::state::State;
use crate::clock::{Clock, after};
use crate::events::Events;
use crate::health::Health;
use crate::metrics::Metrics;
use crate::pods::Pods;
use crate::store::Store;

mod endings;
mod pass;
mod rotated;
mod shown;

use pass::{Pass, pass};

/// Everything is looked at this often, whatever happens.
const PASS_EVERY: Duration = Duration::from_secs(3_600);

/// Two passes are at least this far apart.
const PASS_GAP: Duration = Duration::from_secs(5);

/// Changes by others bring a pass about this often at most.
const CHANGED_GAP: Duration = Duration::from_secs(60);

/// A pass that failed is tried again after this long.
const PASS_RETRY: Duration = Duration::from_secs(60);

/// A clock that goes back by more is taken for one that was set.
const SET_BACK: Duration = Duration::from_secs(10);

/// Control planes waiting to be asked how they do; more are asked at the next look.
const SUSPECTS: usize = 8;

/// What is under way at the end may take this long.
const GRACE: Duration = Duration::from_secs(5);

/// Holds what rotation works with.
#[derive(Debug)]
pub struct Context {
    /// Where keys and API keys are kept.
    pub store: Store,
    /// The operator's configuration.
    pub policy: Arc<Policy>,
    /// The time.
    pub clock: Clock,
    /// Where people look.
    pub events: Events,
    /// What the next process should know of nodes.
    pub notebook: Notebook,
    /// The cluster's pods, one at a time.
    pub pods: Pods,
    /// Where it is counted.
    pub metrics: Arc<Metrics>,
    /// What the admin port says.
    pub health: Arc<Health>,
    /// Display name of the users that are ours: `sidescale <uid of kube-system> <release>`.
    pub mark: String,
    /// What a command that is told to people needs behind its words, as [`crate::cluster::flags`] says it.
    pub flags: String,
    /// Names this process among all that ever wrote.
    pub writer: String,
    /// How long another writer's intent is respected.
    pub respect: Duration,
}

pub(super) enum Done {
    Settled(SecretRef, u64, Box<Outcome>),
    Connected(String, Box<Result<Plane, Trouble>>),
    Passed(Box<Pass>),
    Looked(Box<Looked>),
    Told,
}

pub(super) struct Loop {
    context: Arc<Context>,
    queue: Queue,
    planes: Planes,
    api_keys: ApiKeys,
    secrets: BTreeMap<SecretRef, Known>,
    /// For whoever sweeps.
    pub(super) kept: LastKeys,
    /// For whoever looks after pods.
    standings: Standings,
    demands: Demands,
    pass_at: Timestamp,
    /// When the last one ended.
    passed_at: Timestamp,
    /// What the clock showed last.
    shown: Timestamp,
    passing: bool,
    pass_troubled: bool,
    told: Told,
    /// When there will be something to say of keys that were not renewed.
    endings_at: Option<Timestamp>,
    /// Given out, and not begun yet.
    pub(super) jobs: Vec<BoxFuture<'static, Done>>,
}

/// Rotates, and looks after nodes, until `shutdown`; what is under way then gets a moment to finish.
pub async fn run(
    context: Arc<Context>,
    demands: watch::Receiver<Demands>,
    shutdown: CancellationToken,
) {
    let (up, planes) = watch::channel(Up::new());
    let (suspects, suspected) = mpsc::channel(SUSPECTS);
    let rotation = Loop::new(Arc::clone(&context));
    let keeper = housekeeping::run(
        context,
        demands.clone(),
        (rotation.kept.clone(), rotation.standings.clone()),
        planes,
        suspects,
        shutdown.clone(),
    );
    tokio::join!(rotate(rotation, demands, up, suspected, shutdown), keeper);
}

async fn rotate(
    mut rotation: Loop,
    mut demands: watch::Receiver<Demands>,
    up: watch::Sender<Up>,
    mut suspected: mpsc::Receiver<String>,
    shutdown: CancellationToken,
) {
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
        rotation.tell(&up);
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
                Ok(done) => rotation.absorb(done).await,
                Err(error) => error!(%error, "A job of rotation panicked"),
            },
            Some(name) = suspected.recv() => rotation.planes.suspect(&name, clock.now()),
            () = clock.sleep_until(wake) => {}
        }
    }
    // Nobody looks after nodes by what is known no more.
    drop(up);
    rotation.show_nothing();
    let rest = async { while jobs.join_next().await.is_some() {} };
    if tokio::time::timeout(GRACE, rest).await.is_err() {
        warn!("Rotation was still busy at the end: the next one to act converges");
    }
}

impl Loop {
    pub(super) fn new(context: Arc<Context>) -> Self {
        let now = context.clock.now();
        // The model's world has pre-auth keys alone.
        #[cfg(test)]
        let stands_in = !matches!(context.store, Store::Model(_));
        #[cfg(not(test))]
        let stands_in = true;
        let planes = &context.policy.control_planes;
        let looked_after = planes.iter().filter(|_| stands_in);
        Self {
            planes: Planes::new(planes.keys(), now),
            api_keys: ApiKeys::new(looked_after, &context.writer, now),
            context,
            queue: Queue::default(),
            secrets: BTreeMap::new(),
            kept: LastKeys::default(),
            standings: Standings::default(),
            demands: Demands::default(),
            pass_at: now,
            passed_at: Timestamp::MIN,
            shown: now,
            passing: false,
            pass_troubled: false,
            told: Told::default(),
            endings_at: None,
            jobs: Vec::new(),
        }
    }

    /// Takes in what the pods need now.
    pub(super) fn take(&mut self, fresh: Demands) {
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
                        .map(|name| secret_ref(&namespace, name)),
                );
            }
        }
        let changes = self.demands.changes.iter();
        let changed = changes.filter(|(secret, count)| old.changes.get(*secret) != Some(*count));
        let changed: Vec<_> = changed.map(|(secret, _)| secret.clone()).collect();
        if !changed.is_empty() {
            // Whether a value that somebody put there is a living key, only a list of all can tell.
            let soonest = after(self.passed_at, CHANGED_GAP).max(after(now, PASS_GAP));
            self.pass_at = self.pass_at.min(soonest);
        }
        touched.extend(changed);
        for secret in touched {
            for demand in self.demand(&secret).values() {
                self.planes.hurry(&demand.control_plane, now);
            }
            self.queue.want(&secret, Class::New, now);
        }
    }

    /// Gives out the jobs whose time has come.
    pub(super) fn start(&mut self) {
        let now = self.context.clock.now();
        if std::mem::replace(&mut self.shown, now) > after(now, SET_BACK) {
            self.set_back(now);
        }
        for name in self.planes.due(now) {
            let context = Arc::clone(&self.context);
            self.jobs.push(Box::pin(async move {
                let connected = Plane::connect(&context, &name).await;
                Done::Connected(name, Box::new(connected))
            }));
        }
        for (name, keeper) in self.api_keys.due(now, |name| self.planes.answers(name)) {
            let looked = api_keys::look(Arc::clone(&self.context), name, keeper);
            self.jobs.push(Box::pin(
                async move { Done::Looked(Box::new(looked.await)) },
            ));
        }
        if !self.passing && now >= self.pass_at && !self.planes.up().is_empty() {
            self.passing = true;
            let (context, planes) = (Arc::clone(&self.context), self.planes.up());
            self.jobs.push(Box::pin(async move {
                Done::Passed(Box::new(pass(&context, planes).await))
            }));
        }
        self.tell_endings(now);
        while let Some(job) = self.queue.next(now) {
            let (number, task) = (job.number, self.task(job, now));
            let context = Arc::clone(&self.context);
            self.jobs.push(Box::pin(async move {
                let (secret, outcome) = settle(&context, task).await;
                Done::Settled(secret, number, Box::new(outcome))
            }));
        }
    }

    /// Looks at everything anew: what was put off to a time by a clock that was ahead may be due.
    fn set_back(&mut self, now: Timestamp) {
        info!("The clock was set back: looking at everything anew");
        self.queue.set_back();
        self.passed_at = Timestamp::MIN;
        self.pass_at = self.pass_at.min(now);
        let demanded = self.demands.namespaces.iter();
        let demanded = demanded.flat_map(|(namespace, demand)| {
            let names = demand.secrets.keys();
            names.map(|name| secret_ref(namespace, name))
        });
        let all: BTreeSet<_> = demanded.chain(self.secrets.keys().cloned()).collect();
        for secret in all {
            self.queue.want(&secret, Class::Renewal, now);
        }
    }

    fn task(&mut self, job: Job, now: Timestamp) -> Task {
        let Job {
            secret,
            class,
            number,
        } = job;
        let demand = self.demand(&secret);
        let known = self.secrets.entry(secret.clone()).or_default();
        let mut held = known.held(now);
        for (data_key, demand) in &demand {
            if let Some(trouble) = self.planes.trouble(&demand.control_plane) {
                let state = trouble.map_or(State::Degraded, |trouble| trouble.state);
                held.insert(data_key.clone(), Held { state, until: None });
            }
        }
        // A snapshot is good for one look; whatever else is done makes it old.
        let snapshot = known.snapshot.take().filter(|_| class == Class::Cleanup);
        let beside = known.beside.clone();
        Task {
            class,
            number,
            beside,
            demand,
            held: if secret.name == POD_SECRET {
                let namespace = self.demands.namespaces.get(secret.namespace.as_str());
                namespace
                    .map(|demand| demand.held.clone())
                    .unwrap_or_default()
            } else {
                BTreeSet::new()
            },
            secret,
            synced: self.demands.synced,
            planes: self.planes.up(),
            process: Process {
                writer: self.context.writer.clone(),
                respect: self.context.respect,
                live: BTreeSet::new(),
                beside: BTreeSet::new(),
                held,
            },
            snapshot,
        }
    }

    /// Tells which control planes answer, if that has changed.
    fn tell(&self, up: &watch::Sender<Up>) {
        let now = self.planes.up();
        let same = |known: &Up| {
            let both = known.iter().zip(&now);
            known.len() == now.len()
                && both
                    .into_iter()
                    .all(|(known, now)| known.0 == now.0 && Arc::ptr_eq(known.1, now.1))
        };
        up.send_if_modified(|known| {
            let changed = !same(known);
            if changed {
                known.clone_from(&now);
            }
            changed
        });
    }

    pub(super) fn wake(&self) -> Timestamp {
        let now = self.context.clock.now();
        let pass = (!self.passing && !self.planes.up().is_empty()).then_some(self.pass_at);
        let times = [
            self.queue.wake(),
            pass,
            self.planes.wake(),
            self.api_keys.wake(|name| self.planes.answers(name)),
            self.endings_at,
            Some(after(now, PASS_EVERY)),
        ];
        times.into_iter().flatten().min().unwrap_or(now)
    }

    pub(super) async fn absorb(&mut self, done: Done) {
        let now = self.context.clock.now();
        match done {
            Done::Settled(secret, number, outcome) => {
                self.queue.done(&secret, number);
                self.settled(secret, *outcome, now).await;
            }
            Done::Connected(name, connected) => {
                if self.planes.connected(&name, *connected, now) {
                    self.pass_at = self.pass_at.min(after(now, PASS_GAP));
                }
                // Also after a failure: the states of the keys, and their Events, change with it.
                self.wake_users_of(&name, now);
            }
            Done::Looked(looked) => {
                if looked.renewed {
                    // Its client still has the old key.
                    self.planes.suspect(&looked.name, now);
                }
                self.api_keys.looked(*looked, now);
            }
            Done::Told => {}
            Done::Passed(passed) => {
                self.passing = false;
                self.pass_at = after(now, PASS_EVERY);
                self.passed_at = now;
                self.passed(*passed, now);
            }
        }
    }

    async fn settled(&mut self, secret: SecretRef, outcome: Outcome, now: Timestamp) {
        for (name, trouble) in &outcome.suspects {
            debug!(
                control_plane = name,
                trouble = trouble.message,
                "Asking how the control plane does"
            );
            self.planes.suspect(name, now);
        }
        let times = [
            (Class::Renewal, outcome.plan.renew_at),
            (Class::Cleanup, outcome.plan.cleanup_at),
            (Class::New, outcome.again.then_some(now)),
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
        let known = self.secrets.entry(secret.clone()).or_default();
        let Next { retry, confirm } = known.absorb(&secret, outcome, now);
        if let Some(at) = retry {
            self.queue.want(&secret, Class::Renewal, at);
        }
        if confirm {
            self.pass_at = self.pass_at.min(after(now, PASS_GAP));
        }
        self.kept.set(&secret, known.kept(now));
        self.standings.set(&secret, known.standings());
        let planes = &self.planes;
        let of_plane = |data_key: &str| {
            let demand = demand.get(data_key)?;
            planes.trouble(&demand.control_plane).flatten()
        };
        let told = known.notices(&secret, of_plane);
        for notice in told.iter().chain(rotated.iter().flatten()) {
            self.context.events.publish(notice).await;
        }
        self.watch_endings(&secret, now);
    }

    fn passed(&mut self, passed: Pass, now: Timestamp) {
        let Pass {
            secrets,
            issued,
            suspects,
        } = passed;
        for name in suspects.keys() {
            self.planes.suspect(name, now);
        }
        let issued = Arc::new(issued);
        let secrets = match secrets {
            Ok(secrets) => {
                if std::mem::take(&mut self.pass_troubled) {
                    info!("Secrets can be listed again");
                }
                secrets
            }
            Err(trouble) if std::mem::replace(&mut self.pass_troubled, true) => {
                debug!(trouble = trouble.message, "Secrets still cannot be listed");
                self.pass_at = after(now, PASS_RETRY);
                return;
            }
            Err(trouble) => {
                warn!(
                    trouble = trouble.message,
                    "Secrets cannot be listed: old keys are not ended, and it is tried again every minute"
                );
                self.pass_at = after(now, PASS_RETRY);
                return;
            }
        };
        for secret in secrets {
            let name = secret_ref(&secret.namespace, &secret.name);
            self.secrets.entry(name.clone()).or_default().snapshot =
                Some((secret, Arc::clone(&issued)));
            self.queue.want(&name, Class::Cleanup, now);
        }
    }

    pub(super) fn wake_users_of(&mut self, plane: &str, now: Timestamp) {
        for (namespace, demand) in &self.demands.namespaces {
            for (name, keys) in &demand.secrets {
                if keys.values().any(|key| key.control_plane == plane) {
                    self.queue
                        .want(&secret_ref(namespace, name), Class::New, now);
                }
            }
        }
    }

    #[cfg(test)]
    pub(super) fn known(&self, secret: &SecretRef) -> Option<&Known> {
        self.secrets.get(secret)
    }

    fn demand(&self, secret: &SecretRef) -> BTreeMap<String, KeyDemand> {
        let namespace = self.demands.namespaces.get(secret.namespace.as_str());
        namespace
            .and_then(|namespace| namespace.secrets.get(&secret.name))
            .cloned()
            .unwrap_or_default()
    }
}

fn secret_ref(namespace: &str, name: &str) -> SecretRef {
    SecretRef {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    }
}
