//! Starts checks of the tailnet, one per control plane, and shows their results. I/O.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use jiff::Timestamp;
use sidescale_core::time::after;
use sidescale_rotation::demand::Demands;
use sidescale_rotation::nodes::claims::Claims;
use sidescale_rotation::nodes::{Counts, NodeCheckpoint, NodeState};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::checkpoint::{CheckpointContents, CheckpointWrite};
use super::context::Context;
use crate::outage::Outage;

mod findings;
mod hostnames;
mod look;
mod shared;
mod sweep;
mod unstarted;

use look::OnePlane;
pub(super) use shared::View;
use shared::{Connected, LOOK_EVERY, NodeMonitor};
use unstarted::Reads;

/// Minimum time between writes of the checkpoint.
const NOTE_EVERY: Duration = Duration::from_secs(60);

/// Starts the checks that are due. They are independent: a control plane that hangs delays no other.
struct Rounds {
    keeper: Arc<NodeMonitor>,
    planes: BTreeMap<String, MonitorSlot>,
    /// Pods to read because no check of the tailnet covers them; none while they are being read.
    reads: Option<Reads>,
    read_at: Timestamp,
    /// Contents of the checkpoint; none until it was read.
    noted: Option<CheckpointContents>,
    note_from: Timestamp,
    /// Whether a failure to write hostnames was reported.
    outage: Outage,
    under_way: FuturesUnordered<BoxFuture<'static, FinishedLook>>,
}

/// State of one control plane, kept while it is unavailable.
struct MonitorSlot {
    /// None while a check is running.
    idle: Option<OnePlane>,
    /// As of the last check.
    counts: Counts,
    note: Option<NodeCheckpoint>,
    hostnames: Option<String>,
    look_at: Timestamp,
}

/// A finished check.
enum FinishedLook {
    Looked(String, Box<OnePlane>, Timestamp),
    Read(Reads),
}

/// Checks until `shutdown`, or until the sender of control planes is dropped.
pub(super) async fn run(
    context: Arc<Context>,
    demands: watch::Receiver<Demands>,
    mut view: watch::Receiver<View>,
    suspects: mpsc::Sender<String>,
    shutdown: CancellationToken,
) {
    let clock = context.clock.clone();
    let keeper = NodeMonitor {
        evict_from: Mutex::new(Timestamp::MIN),
        context,
        demands,
        suspects,
        view: view.clone(),
    };
    let mut rounds = Rounds {
        keeper: Arc::new(keeper),
        planes: BTreeMap::new(),
        reads: Some(Reads::default()),
        read_at: Timestamp::MIN,
        noted: None,
        note_from: Timestamp::MIN,
        outage: Outage::default(),
        under_way: FuturesUnordered::new(),
    };
    let work = async {
        loop {
            let up = view.borrow_and_update().connected.clone();
            rounds.begin(&up).await;
            let wake = rounds.wake(&up);
            tokio::select! {
                changed = view.changed() => if changed.is_err() { break },
                Some(done) = rounds.under_way.next() => {
                    rounds.ended(done);
                    rounds.note().await;
                }
                () = clock.sleep_until(wake) => {}
            }
        }
    };
    tokio::select! {
        () = work => {}
        () = shutdown.cancelled() => {}
    }
    // The next leader counts them.
    rounds.planes.clear();
    rounds.show();
}

impl Rounds {
    /// Starts the checks that are due.
    async fn begin(&mut self, up: &Connected) {
        let context = &self.keeper.context;
        let now = context.clock.now();
        if now >= self.read_at
            && let Some(mut reads) = self.reads.take()
        {
            self.read_at = after(now, LOOK_EVERY);
            let (keeper, up) = (Arc::clone(&self.keeper), up.clone());
            self.under_way.push(Box::pin(async move {
                keeper.look_at_unstarted(&mut reads, &up).await;
                FinishedLook::Read(reads)
            }));
        }
        if self.noted.is_none() {
            self.noted = context.notebook.read().await;
        }
        let Some(noted) = &self.noted else {
            return;
        };
        for (name, plane) in up {
            let slot = self.planes.entry(name.clone());
            let slot = slot.or_insert_with(|| MonitorSlot {
                idle: Some(OnePlane::after(
                    noted.nodes.get(name).cloned(),
                    noted
                        .hostnames
                        .get(name)
                        .map(|text| Claims::read(text))
                        .unwrap_or_default(),
                    now,
                )),
                counts: Counts::default(),
                note: None,
                hostnames: None,
                look_at: now,
            });
            if now < slot.look_at {
                continue;
            }
            let Some(mut state) = slot.idle.take() else {
                continue;
            };
            let (keeper, name, plane) = (Arc::clone(&self.keeper), name.clone(), Arc::clone(plane));
            self.under_way.push(Box::pin(async move {
                let next = keeper.look(&name, &plane, &mut state).await;
                FinishedLook::Looked(name, Box::new(state), next)
            }));
        }
    }

    /// Applies the result of a check.
    fn ended(&mut self, done: FinishedLook) {
        match done {
            FinishedLook::Read(reads) => self.reads = Some(reads),
            FinishedLook::Looked(name, state, next) => {
                if let Some(slot) = self.planes.get_mut(&name) {
                    slot.counts = state.counts;
                    slot.note = state.note();
                    slot.hostnames = Some(state.claims.text());
                    slot.look_at = next;
                    slot.idle = Some(*state);
                }
                self.show();
            }
        }
    }

    /// Writes the checkpoint for the next process, if it has changed.
    async fn note(&mut self) {
        let context = &self.keeper.context;
        let now = context.clock.now();
        let Some(noted) = self.noted.as_mut().filter(|_| now >= self.note_from) else {
            return;
        };
        let is_configured = |name: &String| context.policy.control_planes.contains_key(name);
        let mut fresh = noted.clone();
        fresh.nodes.retain(|name, _| is_configured(name));
        fresh.hostnames.retain(|name, _| is_configured(name));
        for (name, slot) in &self.planes {
            if let Some(note) = &slot.note {
                fresh.nodes.insert(name.clone(), note.clone());
            }
            let noted = fresh.hostnames.get(name).map_or("", String::as_str);
            if let Some(text) = slot.hostnames.as_ref().filter(|text| *text != noted) {
                fresh.hostnames.insert(name.clone(), text.clone());
            }
        }
        if fresh == *noted {
            return;
        }
        self.note_from = after(now, NOTE_EVERY);
        if fresh.nodes != noted.nodes && context.notebook.write_nodes(&fresh.nodes).await {
            noted.nodes = fresh.nodes;
        }
        if fresh.hostnames != noted.hostnames {
            let (before, fresh) = (&noted.hostnames, fresh.hostnames);
            match context.notebook.write_hostnames(before, &fresh).await {
                CheckpointWrite::Yes => {
                    noted.hostnames = fresh;
                    self.outage = Outage::default();
                }
                CheckpointWrite::Away => {}
                CheckpointWrite::No(error) => {
                    if self.outage.failed() {
                        warn!(
                            error,
                            "Failed to write hostname owners: the next leader will not know them, and workloads get no warnings"
                        );
                    }
                }
            }
        }
    }

    fn wake(&self, up: &Connected) -> Timestamp {
        let idle = up.keys().filter_map(|name| self.planes.get(name));
        let idle = idle.filter(|slot| slot.idle.is_some());
        let looks = idle.map(|slot| slot.look_at);
        let reads = self.reads.as_ref().map(|_| self.read_at);
        let next = looks.chain(reads).min();
        next.unwrap_or_else(|| after(self.keeper.context.clock.now(), LOOK_EVERY))
    }

    fn show(&self) {
        let mut counts = Counts::default();
        for slot in self.planes.values() {
            counts.add(&slot.counts);
        }
        for state in NodeState::ALL {
            let gauge = &self.keeper.context.metrics.rotation.nodes;
            let count = i64::try_from(counts.of(state)).unwrap_or(i64::MAX);
            gauge.with_label_values(&[state.as_str()]).set(count);
        }
    }
}
