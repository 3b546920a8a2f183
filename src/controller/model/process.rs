//! One rotating process, driven step by step: the caller chooses which of its calls continues. Tests.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use futures::task::noop_waker_ref;
use jiff::{SignedDuration, Timestamp};
use sidescale_control_plane::Client;
use sidescale_core::id::KeyId;
use sidescale_core::key_state::KeyState;
use sidescale_core::secret::SecretRef;
use sidescale_rotation::demand::Demands;
use sidescale_rotation::owner::Installation;
use sidescale_webhook::profile::Policy;

use super::doors::Door;
use crate::clock::Clock;
use crate::controller::api_keys::ApiKeys;
use crate::controller::context::{Connector, Context};
use crate::controller::{FinishedJob, Loop, Memory, waker};
use crate::metrics::Metrics;
use crate::store::Store;

pub(super) fn installation() -> Installation {
    Installation::new("model", &[])
}

pub(super) struct Process {
    /// Offset of its clock.
    pub(super) skew: SignedDuration,
    clock: Clock,
    rotation: Loop,
    jobs: Vec<BoxFuture<'static, FinishedJob>>,
    /// When it was last asked for due work, by its clock; none if something has changed since.
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
        let headscale = door.clone();
        let context = Context {
            respect: Duration::from_secs(120),
            // Model time does not advance on its own.
            close_behind: Duration::ZERO,
            connector: Connector::new(move |_| Ok(Client::of(Arc::new(headscale.clone())))),
            ..Context::alone(
                Store::of(door.clone()),
                Arc::clone(policy),
                clock.clone(),
                Arc::clone(metrics),
                installation(),
                uuid::Uuid::new_v4().simple().to_string(),
            )
        };
        // The model's world has only pre-auth keys.
        let api_keys = ApiKeys::new(&BTreeMap::new(), "", clock.now());
        let mut rotation = Loop::new(
            Arc::new(context),
            Memory::default(),
            api_keys,
            waker::queue().0,
        );
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

    /// Starts what is due by now; returns whether there is anything.
    pub(super) fn begin(&mut self, now: Timestamp) -> bool {
        let shown = now + self.skew;
        if self.asked.replace(shown) != Some(shown) {
            self.clock.set(shown);
            self.rotation.start();
            self.jobs.append(&mut self.rotation.jobs);
        }
        !self.jobs.is_empty()
    }

    /// Lets one of its jobs continue to the next call.
    pub(super) fn go_on(&mut self, which: u64) {
        let index = usize::try_from(which).unwrap() % self.jobs.len();
        let mut waiting = std::task::Context::from_waker(noop_waker_ref());
        if let std::task::Poll::Ready(done) = self.jobs[index].poll_unpin(&mut waiting) {
            drop(self.jobs.swap_remove(index));
            self.asked = None;
            // Not a future: the loop itself never waits.
            let absorb: fn(&mut Loop, FinishedJob) = Loop::apply_outcome;
            absorb(&mut self.rotation, done);
        }
    }

    /// Returns when it has to be woken, by the true time.
    pub(super) fn wake(&self) -> Timestamp {
        self.rotation.wake() - self.skew
    }

    /// Returns the state of the key.
    pub(super) fn state(&self, secret: &SecretRef, data_key: &str) -> Option<KeyState> {
        self.rotation
            .secrets
            .get(secret)?
            .states
            .get(data_key)
            .copied()
    }

    /// Returns the texts of Events about the Secret.
    pub(super) fn notes(&self, secret: &SecretRef) -> Vec<String> {
        let known = self.rotation.secrets.get(secret).into_iter();
        let notices = known.flat_map(|known| known.notices(secret, |_| None));
        notices.map(|notice| notice.note).collect()
    }

    /// Returns whether a sweep would keep the key.
    pub(super) fn keeps(&self, id: KeyId) -> bool {
        self.rotation.view.borrow().keys.is_contended("default", id)
    }
}
