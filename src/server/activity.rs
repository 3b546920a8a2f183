//! The state of each connection of a port, and the places they use. State, no I/O.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prometheus::IntCounterVec;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use super::evict::{Connection, Phase, evict};

/// Pause before the next check while every connection has a request in flight.
const NEXT_LOOK: Duration = Duration::from_millis(20);
/// How long to wait for an evicted connection before evicting another, on a busy machine.
const LEAVES_WITHIN: Duration = Duration::from_millis(100);

/// State of one connection; shared by its socket, its service and the places.
#[derive(Debug)]
pub(super) struct Activity {
    peer: IpAddr,
    state: Mutex<ActivityState>,
    evicted: Notify,
}

#[derive(Debug)]
struct ActivityState {
    phase: Phase,
    since: Instant,
    begun: usize,
    verified: bool,
    evicted: Option<Instant>,
}

/// Guard of a request while it is being answered.
#[derive(Debug)]
pub(super) struct OpenRequest(Arc<Activity>);

impl Activity {
    /// Starts in `phase`.
    pub(super) fn new(peer: IpAddr, phase: Phase) -> Self {
        Self {
            peer,
            state: Mutex::new(ActivityState {
                phase,
                since: Instant::now(),
                begun: 0,
                verified: false,
                evicted: None,
            }),
            evicted: Notify::new(),
        }
    }

    /// Records that the connection can take requests.
    pub(super) fn opened(&self, verified: bool) {
        self.enter(Phase::Fresh);
        self.lock().verified = verified;
    }

    /// Records a request with a complete head; dropping the guard records its answer.
    pub(super) fn begin(self: &Arc<Self>) -> OpenRequest {
        self.enter(Phase::Receiving);
        self.lock().begun += 1;
        OpenRequest(Arc::clone(self))
    }

    /// Records that the complete request has arrived.
    pub(super) fn received(&self) {
        if self.lock().phase == Phase::Receiving {
            self.enter(Phase::Answering);
        }
    }

    /// Returns the number of requests whose heads have arrived.
    pub(super) fn begun(&self) -> usize {
        self.lock().begun
    }

    /// Whether a request is in flight.
    pub(super) fn is_busy(&self) -> bool {
        !self.lock().phase.ends_at_once()
    }

    /// Whether a body has been arriving for so long that the connection counts as half-open.
    pub(super) fn is_stalled(&self) -> bool {
        let state = self.lock();
        state.phase == Phase::Receiving && state.since.elapsed() >= super::evict::HALF_OPEN
    }

    /// Waits until its place is needed for another.
    pub(super) async fn evicted(&self) {
        self.evicted.notified().await;
    }

    fn enter(&self, phase: Phase) {
        let mut state = self.lock();
        (state.phase, state.since) = (phase, Instant::now());
    }

    fn lock(&self) -> MutexGuard<'_, ActivityState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        self.0.enter(Phase::Idle);
    }
}

/// The places of one port, and the connections that use them.
#[derive(Debug)]
pub(super) struct Places {
    free: Arc<Semaphore>,
    taken: Mutex<Taken>,
    port: &'static str,
    evictions: IntCounterVec,
}

#[derive(Debug, Default)]
struct Taken {
    next: u64,
    by: BTreeMap<u64, Arc<Activity>>,
}

/// Guard of an open connection.
#[derive(Debug)]
pub(super) struct ConnectionGuard {
    pub(super) activity: Arc<Activity>,
    id: u64,
    places: Arc<Places>,
    _permit: OwnedSemaphorePermit,
}

impl Places {
    /// Creates `count` places; `port` is the label of evictions.
    pub(super) fn new(count: u16, port: &'static str, evictions: IntCounterVec) -> Arc<Self> {
        Arc::new(Self {
            free: Arc::new(Semaphore::new(usize::from(count))),
            taken: Mutex::default(),
            port,
            evictions,
        })
    }

    /// Takes a place for a connection from `peer`. If there is none, another connection is closed. It waits only while
    /// every connection has a request in flight, which takes milliseconds.
    pub(super) async fn take(self: &Arc<Self>, peer: IpAddr, phase: Phase) -> ConnectionGuard {
        let permit = loop {
            if let Ok(permit) = Arc::clone(&self.free).try_acquire_owned() {
                break permit;
            }
            self.evict();
            // An evicted connection returns its place when its task runs next, or after its current answer.
            let given_back = Arc::clone(&self.free).acquire_owned();
            if let Ok(Ok(permit)) = tokio::time::timeout(NEXT_LOOK, given_back).await {
                break permit;
            }
        };
        let activity = Arc::new(Activity::new(peer, phase));
        let mut taken = self.lock();
        let id = taken.next;
        taken.next += 1;
        taken.by.insert(id, Arc::clone(&activity));
        ConnectionGuard {
            activity,
            id,
            places: Arc::clone(self),
            _permit: permit,
        }
    }

    /// Evicts the least useful connection, if one may be closed and none is closing already.
    pub(super) fn evict(&self) {
        let taken = self.lock();
        let now = Instant::now();
        let mut open = Vec::with_capacity(taken.by.len());
        for (id, activity) in &taken.by {
            let state = activity.lock();
            match state.evicted {
                Some(at) if state.phase.ends_at_once() && now < at + LEAVES_WITHIN => return,
                Some(_) => {}
                None => open.push(Connection {
                    id: *id,
                    peer: activity.peer,
                    verified: state.verified,
                    phase: state.phase,
                    age: now.saturating_duration_since(state.since),
                }),
            }
        }
        let Some(activity) = evict(&open).and_then(|id| taken.by.get(&id)) else {
            return;
        };
        let phase = {
            let mut state = activity.lock();
            state.evicted = Some(now);
            state.phase
        };
        activity.evicted.notify_one();
        self.evictions
            .with_label_values(&[self.port, phase.as_str()])
            .inc();
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.places.lock().by.remove(&self.id);
    }
}
