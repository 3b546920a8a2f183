//! Looks at the tailnet every few seconds, and sweeps every hour: nodes, their names, and what nobody needs. I/O.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::demand::Demands;
use super::known::LastKeys;
use super::names::{Names, Step};
use super::nodes::{Counts, Look, NodeState, Notes, Place, Truth};
use super::plane::{Plane, Trouble};
use super::run::Context;
use super::standing::Standings;
use super::tailnet::Tailnet;
use crate::clock::after;
use crate::cluster::chain;
use crate::control_plane::Error;

mod findings;
mod notebook;
mod sweep;
mod unstarted;

pub use notebook::Notebook;
use unstarted::Reads;

/// The nodes are looked at this often: two looks and a new pod fit into a minute.
const LOOK_EVERY: Duration = Duration::from_secs(15);

/// A look that took long is followed by a rest that is so many times longer.
const REST: u32 = 10;

/// What nobody needs any more is looked for this often.
const SWEEP_EVERY: Duration = Duration::from_secs(3_600);

/// A sweep that did not get to its end is followed by another one.
const SWEEP_AGAIN: Duration = Duration::from_secs(60);

/// Notes are written at most this often.
const NOTE_EVERY: Duration = Duration::from_secs(60);

/// Bounds the calls that follow one look.
const MOST_STEPS: usize = 32;

/// The control planes that answer, by name.
pub(super) type Up = BTreeMap<String, Arc<Plane>>;

/// Looks after nodes, for as long as somebody tells of control planes.
struct Keeper {
    context: Arc<Context>,
    demands: watch::Receiver<Demands>,
    /// Control planes that may have lost us, for the loop that connects.
    suspects: mpsc::Sender<String>,
    /// Keys that no record names and that are left.
    kept: LastKeys,
    standings: Standings,
    /// Pods that are read because no look at the tailnet tells of them.
    reads: Reads,
    states: BTreeMap<String, OnePlane>,
    /// What is written in the notebook; none until it was read.
    noted: Option<Notes>,
    note_from: Timestamp,
    evict_from: Timestamp,
}

/// What is kept of one control plane, also while it is away.
struct OnePlane {
    truth: Truth,
    names: Names,
    counts: Counts,
    look_at: Timestamp,
    sweep_at: Timestamp,
    troubled: bool,
}

/// Looks until `shutdown`, or until nobody tells of control planes any more.
pub(super) async fn run(
    context: Arc<Context>,
    demands: watch::Receiver<Demands>,
    shared: (LastKeys, Standings),
    mut planes: watch::Receiver<Up>,
    suspects: mpsc::Sender<String>,
    shutdown: CancellationToken,
) {
    let (kept, standings) = shared;
    let mut keeper = Keeper {
        evict_from: Timestamp::MIN,
        note_from: Timestamp::MIN,
        noted: None,
        context,
        demands,
        suspects,
        kept,
        standings,
        reads: Reads::default(),
        states: BTreeMap::new(),
    };
    let work = async {
        loop {
            let up = planes.borrow_and_update().clone();
            keeper.look(&up).await;
            keeper.look_at_unstarted(&up).await;
            let wake = keeper.wake(&up);
            tokio::select! {
                changed = planes.changed() => if changed.is_err() { break },
                () = keeper.context.clock.sleep_until(wake) => {}
            }
        }
    };
    tokio::select! {
        () = work => {}
        () = shutdown.cancelled() => {}
    }
    // Whoever leads next counts them.
    keeper.states.clear();
    keeper.show();
}

impl Keeper {
    async fn look(&mut self, up: &Up) {
        if self.noted.is_none() {
            self.noted = self.context.notebook.read().await;
        }
        let Some(noted) = &self.noted else {
            return;
        };
        let noted = noted.clone();
        self.states
            .retain(|name, _| self.context.policy.control_planes.contains_key(name));
        for (name, plane) in up {
            let now = self.context.clock.now();
            let state = self.states.entry(name.clone()).or_insert(OnePlane {
                truth: Truth::after(noted.get(name).cloned()),
                names: Names::default(),
                counts: Counts::default(),
                look_at: now,
                sweep_at: now,
                troubled: false,
            });
            if now < state.look_at {
                continue;
            }
            let began = Instant::now();
            let lent_is_known = knows_lent(&self.context, plane).await;
            // What pods there are is read after the nodes: before, each new pod would seem to have none.
            let tailnet = plane.tailnet(now).await;
            let demands = self.demands.borrow().clone();
            match tailnet {
                Ok(tailnet) if demands.synced && lent_is_known => {
                    state.troubled = false;
                    self.looked(name, plane, &demands, &tailnet).await;
                }
                Ok(_) => {}
                Err(trouble) => self.failed(name, &trouble),
            }
            self.sweep_if_due(name, plane).await;
            let rest = LOOK_EVERY.max(began.elapsed() * REST);
            if let Some(state) = self.states.get_mut(name) {
                state.look_at = after(self.context.clock.now(), rest);
            }
        }
        self.show();
        self.note().await;
    }

    /// Notes for the next process what it could not see itself, if that is more than is noted.
    async fn note(&mut self) {
        let now = self.context.clock.now();
        let Some(noted) = self.noted.as_mut().filter(|_| now >= self.note_from) else {
            return;
        };
        let mut fresh = noted.clone();
        fresh.retain(|name, _| self.context.policy.control_planes.contains_key(name));
        for (name, state) in &self.states {
            if let Some(note) = state.truth.note() {
                fresh.insert(name.clone(), note);
            }
        }
        if fresh != *noted {
            self.note_from = after(now, NOTE_EVERY);
            if self.context.notebook.write(&fresh).await {
                *noted = fresh;
            }
        }
    }

    async fn sweep_if_due(&mut self, name: &str, plane: &Plane) {
        let now = self.context.clock.now();
        let paused = self.context.policy.rotation.paused;
        let due = self
            .states
            .get(name)
            .is_some_and(|state| now >= state.sweep_at && !paused);
        if !due {
            return;
        }
        let swept = self.sweep(name, plane).await;
        if let Err(trouble) = &swept {
            let trouble = trouble.message.as_str();
            debug!(
                control_plane = name,
                trouble, "Sweep did not get to its end"
            );
        }
        let rest = match swept {
            Ok(false) => SWEEP_EVERY,
            Ok(true) | Err(_) => SWEEP_AGAIN,
        };
        if let Some(state) = self.states.get_mut(name) {
            state.sweep_at = after(now, rest);
        }
    }

    fn wake(&self, up: &Up) -> Timestamp {
        let looks = up.keys().filter_map(|name| self.states.get(name));
        let next = looks.map(|state| state.look_at).min();
        next.unwrap_or_else(|| after(self.context.clock.now(), LOOK_EVERY))
    }

    async fn looked(&mut self, name: &str, plane: &Plane, demands: &Demands, tailnet: &Tailnet) {
        let now = self.context.clock.now();
        let Some(state) = self.states.get_mut(name) else {
            return;
        };
        let standings = &self.standings;
        let key_of = |place: &Place| {
            let standing = standings.of(&place.namespace, &place.secret, &place.data_key)?;
            standing.key
        };
        let Look { counts, findings } = state.truth.look(now, name, demands, tailnet, &key_of);
        state.counts = counts;
        if !self.context.policy.rotation.paused {
            let steps = state.names.steps(now, name, demands, tailnet);
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
        for finding in findings {
            self.found(name, &finding).await;
        }
    }

    fn failed(&mut self, name: &str, trouble: &Trouble) {
        if let Some(state) = self.states.get_mut(name)
            && !std::mem::replace(&mut state.troubled, true)
        {
            let trouble = trouble.message.as_str();
            info!(control_plane = name, trouble, "Nodes cannot be listed");
        }
        // A full queue has it asked soon anyway.
        if trouble.of_plane {
            let _ = self.suspects.try_send(name.to_owned());
        }
    }

    fn show(&self) {
        let mut counts = Counts::default();
        for state in self.states.values() {
            counts.add(&state.counts);
        }
        for state in NodeState::ALL {
            let gauge = &self.context.metrics.rotation.nodes;
            let count = i64::try_from(counts.of(state)).unwrap_or(i64::MAX);
            gauge.with_label_values(&[state.as_str()]).set(count);
        }
    }
}

/// Whether the keys of others are known that stand in Secrets of ours; reads them if they are not.
async fn knows_lent(context: &Context, plane: &Plane) -> bool {
    if plane.knows_lent() {
        return true;
    }
    let mut secrets = Vec::new();
    for name in context.policy.auth_key_secrets() {
        match context.store.list(name).await {
            Ok(found) => secrets.extend(found),
            Err(error) => {
                let trouble = chain(&error);
                debug!(trouble, "Nodes are not judged before all Secrets were read");
                return false;
            }
        }
    }
    plane.note_all_lent(&secrets);
    true
}

fn told(control_plane: &str, step: &Step) {
    match step {
        Step::Delete { node, name } => {
            info!(
                control_plane,
                node_id = node.0,
                name,
                "Removed the node of a pod that is gone"
            );
        }
        Step::Rename { node, from, to } => {
            info!(
                control_plane,
                node_id = node.0,
                from,
                to,
                "Gave a node its name again"
            );
        }
        Step::TellTaken { node, from, to } => {
            warn!(
                control_plane,
                node_id = node.0,
                name = from,
                taken = to,
                "A node has another name than it asked for, because a node of somebody else has that"
            );
        }
    }
}

fn refused(control_plane: &str, step: &Step, error: &Error) {
    debug!(control_plane, ?step, %error, "Node was not changed, trying again in a minute");
}
