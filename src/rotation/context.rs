//! What everything that acts in rotation works with. State; what it leads to is I/O.

use std::sync::Arc;
use std::time::Duration;

use sidescale_webhook::profile::Policy;

use super::checkpoint::Checkpoint;
use super::owner::Installation;
use crate::clock::Clock;
use crate::events::Events;
use crate::health::Health;
use crate::metrics::Metrics;
use crate::pods::Pods;
use crate::store::{Store, StoreError, StoredSecret};

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
    pub notebook: Checkpoint,
    /// The cluster's pods, one at a time.
    pub pods: Pods,
    /// Where it is counted.
    pub metrics: Arc<Metrics>,
    /// What the admin port says.
    pub health: Arc<Health>,
    /// By which the users that it creates are known.
    pub installation: Installation,
    /// What a command that is told to people needs behind its words, as [`crate::cluster::flags`] says it.
    pub flags: String,
    /// Names this process among all that ever wrote.
    pub writer: String,
    /// How long another writer's intent is respected.
    pub respect: Duration,
}

impl Context {
    /// Gives all Secrets of keys one by one, as [`Store::fold`] does.
    ///
    /// # Errors
    /// The store could not be asked or refused: what was given until then is not all.
    pub(super) async fn each_secret(
        &self,
        mut each: impl FnMut(StoredSecret),
    ) -> Result<(), StoreError> {
        for name in self.policy.auth_key_secrets() {
            self.store.fold(name, &mut each).await?;
        }
        Ok(())
    }
}
