//! The context that all parts of rotation work with. State; its members do I/O.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use sidescale_control_plane::{Client, Endpoint, Error};
use sidescale_core::secret::StoredSecret;
use sidescale_rotation::owner::Installation;
use sidescale_webhook::profile::Policy;

use super::checkpoint::Checkpoint;
use crate::clock::Clock;
use crate::events::Events;
use crate::health::Health;
use crate::metrics::Metrics;
use crate::pods::Pods;
use crate::store::{Store, StoreError};

/// A key created this soon after another is written with it, which saves a write.
pub const CLOSE_BEHIND: Duration = Duration::from_millis(200);

/// Creates the clients of control planes.
#[derive(Clone)]
pub struct Connector(Arc<dyn Fn(Endpoint) -> Result<Client, Error> + Send + Sync>);

/// The context of rotation.
#[derive(Debug)]
pub struct Context {
    /// Storage of keys and API keys.
    pub store: Store,
    /// How control planes are reached.
    pub connector: Connector,
    /// The operator's configuration.
    pub policy: Arc<Policy>,
    pub clock: Clock,
    /// Events for people.
    pub events: Events,
    /// State of nodes for the next process.
    pub notebook: Checkpoint,
    /// The cluster's pods, read one at a time.
    pub pods: Pods,
    pub metrics: Arc<Metrics>,
    /// State shown on the admin port.
    pub health: Arc<Health>,
    /// Identity by which the users that it creates are recognized.
    pub installation: Installation,
    /// Flags to append to commands in messages, as in [`crate::cluster::flags`].
    pub flags: String,
    /// Id of this process, unique among all that ever wrote.
    pub writer: String,
    /// How long another process's intent is respected.
    pub respect: Duration,
    /// A key created this soon after another is written with it; zero: only one that is there already.
    pub close_behind: Duration,
}

impl Connector {
    /// Creates clients by this function.
    pub fn new(
        connect: impl Fn(Endpoint) -> Result<Client, Error> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(connect))
    }

    /// Prepares calls to a control plane; sends none yet.
    ///
    /// # Errors
    /// The endpoint cannot be used.
    pub fn connect(&self, endpoint: Endpoint) -> Result<Client, Error> {
        (self.0)(endpoint)
    }
}

/// Creates clients that call Headscale by REST.
impl Default for Connector {
    fn default() -> Self {
        Self::new(Client::new)
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connector")
    }
}

impl Context {
    /// Returns the context of a process that works alone: it logs Events, keeps no checkpoint, reads no pods and respects
    /// no intents of others.
    #[must_use]
    pub fn alone(
        store: Store,
        policy: Arc<Policy>,
        clock: Clock,
        metrics: Arc<Metrics>,
        installation: Installation,
        writer: String,
    ) -> Self {
        Self {
            store,
            connector: Connector::default(),
            policy,
            events: Events::log(clock.clone()),
            clock,
            notebook: Checkpoint::default(),
            pods: Pods::none(),
            metrics,
            health: Arc::default(),
            installation,
            flags: String::new(),
            writer,
            respect: Duration::ZERO,
            close_behind: CLOSE_BEHIND,
        }
    }

    /// Passes all Secrets of keys to a function one by one, as [`Store::fold`] does.
    ///
    /// # Errors
    /// The store was unavailable or refused: the Secrets passed until then are not all.
    pub(super) async fn each_secret(
        &self,
        mut each: impl FnMut(StoredSecret) + Send,
    ) -> Result<(), StoreError> {
        for name in self.policy.auth_key_secrets() {
            self.store.fold(name, &mut each).await?;
        }
        Ok(())
    }
}
