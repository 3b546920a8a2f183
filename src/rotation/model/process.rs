//! One process that rotates, driven by hand: which of its calls goes on is the caller's choice. Tests.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt, task::noop_waker_ref};
use jiff::{SignedDuration, Timestamp};
use sidescale_webhook::profile::Policy;

use super::doors::Door;
use crate::clock::Clock;
use crate::control_plane::KeyId;
use crate::events::Events;
use crate::health::Health;
use crate::metrics::Metrics;
use crate::pods::Pods;
use crate::rotation::Checkpoint;
use crate::rotation::context::Context;
use crate::rotation::demand::{Demands, SecretRef};
use crate::rotation::owner::Installation;
use crate::rotation::run::{FinishedJob, Loop};
use crate::rotation::state::KeyState;
use crate::store::Store;

pub(super) fn installation() -> Installation {
    Installation::new("model", &[])
}

pub(super) struct Process {
    /// How far its clock is off.
    pub(super) skew: SignedDuration,
    clock: Clock,
    rotation: Loop,
    jobs: Vec<BoxFuture<'static, FinishedJob>>,
    /// By its clock, when it was last asked what is to be done; none if something has changed since.
    asked: Option<Timestamp>,
}

impl Process {
    pub(super) fn start(
        door: &Door,
        policy: &Arc<Policy>,
        metrics: &Arc<Metrics>,
        demands: &Demands,
        skew: SignedDuration,
    ) -> Self {
        let clock = Clock::scaled(door.world().now + skew, 0.0);
        let context = Context {
            store: Store::Model(door.clone()),
            policy: Arc::clone(policy),
            clock: clock.clone(),
            events: Events::log(clock.clone()),
            metrics: Arc::clone(metrics),
            health: Arc::<Health>::default(),
            installation: installation(),
            flags: String::new(),
            writer: uuid::Uuid::new_v4().simple().to_string(),
            respect: Duration::from_secs(120),
            notebook: Checkpoint::default(),
            pods: Pods::none(),
        };
        let mut rotation = Loop::new(Arc::new(context));
        rotation.take(demands.clone());
        Self {
            skew,
            clock,
            rotation,
            jobs: Vec::new(),
            asked: None,
        }
    }

    pub(super) fn take(&mut self, demands: &Demands) {
        self.asked = None;
        self.rotation.take(demands.clone());
    }

    /// Begins what is to be done by now; says whether there is anything.
    pub(super) fn begin(&mut self, now: Timestamp) -> bool {
        let shown = now + self.skew;
        if self.asked.replace(shown) != Some(shown) {
            self.clock.set(shown);
            self.rotation.start();
            self.jobs.append(&mut self.rotation.jobs);
        }
        !self.jobs.is_empty()
    }

    /// Lets one of its jobs go on to the next call.
    pub(super) fn go_on(&mut self, which: u64) {
        let index = usize::try_from(which).unwrap() % self.jobs.len();
        let mut waiting = std::task::Context::from_waker(noop_waker_ref());
        if let std::task::Poll::Ready(done) = self.jobs[index].poll_unpin(&mut waiting) {
            drop(self.jobs.swap_remove(index));
            self.asked = None;
            // No future: the loop itself waits for nothing.
            let absorb: fn(&mut Loop, FinishedJob) = Loop::apply_outcome;
            absorb(&mut self.rotation, done);
        }
    }

    /// When it wants to be woken, by the true time.
    pub(super) fn wake(&self) -> Timestamp {
        self.rotation.wake() - self.skew
    }

    /// How that key does.
    pub(super) fn state(&self, secret: &SecretRef, data_key: &str) -> Option<KeyState> {
        self.rotation.known(secret)?.states.get(data_key).copied()
    }

    /// What people were told of that Secret.
    pub(super) fn notes(&self, secret: &SecretRef) -> Vec<String> {
        let known = self.rotation.known(secret).into_iter();
        let notices = known.flat_map(|known| known.notices(secret, |_| None));
        notices.map(|notice| notice.note).collect()
    }

    /// Whether a sweep would leave that key.
    pub(super) fn keeps(&self, id: KeyId) -> bool {
        self.rotation.kept.hold("default", id)
    }
}
