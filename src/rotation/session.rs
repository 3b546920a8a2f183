//! One control plane as rotation uses it: credentials from its Secret, users of ours, calls counted. I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use sidescale_webhook::identity;
use sidescale_webhook::profile::UserPolicy;
use tokio::sync::Semaphore;
use tracing::{debug, info, warn};

use super::budget::over_rows;
use super::context::Context;
use super::owner::{Installation, KeyClaim, ServiceOwner};
use super::plan::{Claimed, IssuedKeys, mismatch};
use super::problem::Problem;
use super::record::Intent;
use super::state::KeyState;
use super::tailnet::KeyOrigin;
use crate::clock::after;
use crate::control_plane::{
    ControlPlane, Endpoint, Error, KeyId, MintedKey, NewPreAuthKey, RowList, User, Version,
};
use crate::metrics::Metrics;

mod credentials;
mod foreign_keys;
mod nodes;
mod users;

use credentials::{FoundApiKey, api_key, invalid_credentials, no_placeholder_any_more};
pub(crate) use credentials::{no_api_key, no_credentials};
pub(in crate::rotation) use foreign_keys::ForeignKeys;

/// Keys are made this many at a time, whatever the number of Secrets: each call costs Headscale some 60 ms of a processor,
/// and what waits here is not yet waited for.
const CREATES_AT_ONCE: usize = 8;

/// For so long a look at users and keys tells whose each key is.
const FRESH: Duration = Duration::from_secs(10);

/// Whose each key is, as it was listed last.
type Origins = BTreeMap<KeyId, KeyOrigin>;

/// A control plane that answered.
#[derive(Debug)]
pub struct Session {
    name: String,
    installation: Installation,
    adopted: Vec<String>,
    user_template: String,
    manages_users: bool,
    client: ControlPlane,
    users: Mutex<BTreeMap<String, User>>,
    minting: Semaphore,
    origins: Mutex<Origins>,
    /// Keys of others that people put into Secrets of ours.
    lent: Arc<ForeignKeys>,
    /// What answered; none before anything did.
    version: Option<Version>,
    /// The last look at all users and keys.
    looked: Mutex<Option<PlaneListing>>,
    /// Held by the one job that looks because of a claim; what others wait for is then the same look.
    looking: tokio::sync::Mutex<()>,
    most_rows: usize,
    /// Namespaces for which no key is created, as of the last look.
    over_rows: Mutex<BTreeSet<String>>,
    metrics: Arc<Metrics>,
}

/// A look at all users and keys.
#[derive(Clone, Debug)]
struct PlaneListing {
    /// When it began, by the loop's clock.
    at: Timestamp,
    /// The same, by a clock that only goes on.
    began: Instant,
    issued: IssuedKeys,
}

impl Session {
    /// Reads the API key, asks for the version and lists the users once.
    ///
    /// # Errors
    /// No API key, one that is refused, or a control plane that does not answer as it should.
    pub async fn connect(context: &Context, name: &str) -> Result<Self, Problem> {
        let Some(config) = context.policy.control_planes.get(name) else {
            let known: Vec<_> = context
                .policy
                .control_planes
                .keys()
                .map(String::as_str)
                .collect();
            let message = format!(
                "control plane \"{name}\" is not in the configuration, which has {}: add it under controlPlanes, or \
                 take the annotation sidescale.io/control-plane off the pods",
                known.join(", ")
            );
            return Err(Problem {
                state: KeyState::Degraded,
                message,
                of_plane: true,
            });
        };
        let FoundApiKey {
            api_key,
            placeholder,
        } = api_key(context, name, config).await?;
        let endpoint = Endpoint {
            name: name.to_owned(),
            api_url: config.api_url.clone(),
            api_key,
            ca_bundle: config.ca_bundle.clone(),
            allow_insecure: config.allow_insecure,
        };
        let mut plane = Self {
            name: name.to_owned(),
            installation: context.installation.clone(),
            adopted: config.adopt_users.clone(),
            user_template: config.user_template.clone(),
            manages_users: context.policy.rotation.users == UserPolicy::Manage,
            client: client(context, endpoint)?,
            users: Mutex::default(),
            minting: Semaphore::new(CREATES_AT_ONCE),
            origins: Mutex::default(),
            lent: Arc::default(),
            version: None,
            looked: Mutex::default(),
            looking: tokio::sync::Mutex::default(),
            most_rows: usize::try_from(context.policy.rotation.max_control_plane_rows)
                .unwrap_or(usize::MAX),
            over_rows: Mutex::default(),
            metrics: Arc::clone(&context.metrics),
        };
        let refused = |error| match error {
            Error::Unauthorized { at } => invalid_credentials(name, config, &at),
            error => Problem::from(error),
        };
        let probed = plane.counted("probe", plane.client.probe()).await;
        plane.version = Some(probed.map_err(refused)?);
        plane.list_users().await.map_err(refused)?;
        if placeholder {
            no_placeholder_any_more(context, config).await;
        }
        Ok(plane)
    }

    /// Goes on with what an earlier connection knew of keys of others.
    pub(super) fn share(&mut self, lent: &Arc<ForeignKeys>) {
        self.lent = Arc::clone(lent);
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Makes the key that was written down, and checks the answer; a key that is not as asked is ended at once.
    ///
    /// # Errors
    /// The user is not ours, or the call failed.
    pub async fn create_key(
        &self,
        intent: &Intent,
        owner: &ServiceOwner,
    ) -> Result<MintedKey, Problem> {
        // Its only error is that it was closed, which nobody does.
        let _turn = self.minting.acquire().await;
        let user = self.user(&intent.asked.user, owner).await?;
        let new = NewPreAuthKey {
            user,
            reusable: intent.asked.reusable,
            ephemeral: intent.asked.ephemeral,
            expiration: intent.expires,
            tags: intent.asked.tags.clone(),
        };
        let minted = match self
            .counted("create_pre_auth_key", self.client.create_pre_auth_key(&new))
            .await
        {
            Ok(minted) => minted,
            Err(error) => {
                // It may be the user that is gone: it is looked for again next time.
                self.users().remove(&intent.asked.user);
                return Err(error.into());
            }
        };
        let Some(field) = mismatch(&minted.key, user, intent) else {
            return Ok(minted);
        };
        self.expire(minted.key.id).await?;
        let Self { name, .. } = self;
        let message = format!(
            "control plane \"{name}\" made key {} with another {field} than was asked for: it was ended again; \
             check that nothing between us and Headscale rewrites requests",
            minted.key.id.0
        );
        Err(Problem {
            state: KeyState::Degraded,
            message,
            of_plane: false,
        })
    }

    /// Asks whether a key is the claiming service's own. A look at users and keys that is a few seconds old may say that it is;
    /// that it is not, only one that began after the claim was `read`: the key may have been created since. Such a look is
    /// shared by all who wait for one, so that claims of any number cost one look at a time.
    ///
    /// # Errors
    /// A call failed, or the control plane holds so many keys that this one was not read.
    pub async fn judge(
        &self,
        claim: &KeyClaim<'_>,
        read: Instant,
        now: Timestamp,
    ) -> Result<Claimed, Problem> {
        let ServiceOwner { namespace, service } = claim.owner;
        let adopted = identity::user(&self.user_template, namespace, service);
        let known = |look: &PlaneListing| {
            let claimed = look.issued.claimed(claim, &adopted);
            (claimed == Some(Claimed::Owned) || read <= look.began).then_some(claimed)
        };
        if let Some(claimed) = self.last_look(now).as_ref().and_then(known) {
            return self.certain(claimed);
        }
        let _turn = self.looking.lock().await;
        if let Some(claimed) = self.last_look(now).as_ref().and_then(known) {
            return self.certain(claimed);
        }
        self.certain(self.issued(now).await?.claimed(claim, &adopted))
    }

    /// Refuses what was not read.
    fn certain(&self, claimed: Option<Claimed>) -> Result<Claimed, Problem> {
        claimed.ok_or_else(|| Problem {
            state: KeyState::TooManyRows,
            message: format!(
                "control plane \"{}\" lists more pre-auth keys than are read, and this is one of the oldest: delete \
                 expired pre-auth keys there",
                self.name
            ),
            of_plane: false,
        })
    }

    /// Whether the last look read only the youngest keys.
    pub(super) fn is_truncated(&self) -> bool {
        let looked = self.looked();
        looked.as_ref().is_some_and(|look| look.issued.truncated)
    }

    /// Expires a key that was judged to be a service's own, or that this process has just created; one that is over or not
    /// there counts as expired.
    ///
    /// # Errors
    /// The call failed.
    pub async fn expire(&self, id: KeyId) -> Result<(), Problem> {
        Ok(self
            .counted("expire_pre_auth_key", self.client.expire_pre_auth_key(id))
            .await?)
    }

    /// All keys that the control plane holds, or where these are too many the youngest, and the users that keys are made for.
    ///
    /// # Errors
    /// A call failed.
    pub async fn issued(&self, now: Timestamp) -> Result<IssuedKeys, Problem> {
        let began = Instant::now();
        // The users first: a key of a user that is created in between is nobody's until the next look, which is the safe way.
        self.list_users().await?;
        let keys = self.client.list_last_pre_auth_keys();
        let RowList { rows: keys, beyond } = self.counted("list_pre_auth_keys", keys).await?;
        let truncated = self.note_truncated(beyond.is_some());
        if !truncated {
            self.note_origins(&keys);
        }
        let issued = IssuedKeys {
            truncated,
            keys: Arc::new(keys.into_iter().map(|key| (key.id, key)).collect()),
            users: Arc::new(self.key_users()),
            online: BTreeSet::new(),
        };
        let over_rows = over_rows(issued.keys.values(), &issued.users, self.most_rows);
        *self
            .over_rows
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = over_rows;
        *self.looked() = Some(PlaneListing {
            at: now,
            began,
            issued: issued.clone(),
        });
        Ok(issued)
    }

    /// Logs it when the control plane begins to hold more keys than are read, and when that is over.
    fn note_truncated(&self, truncated: bool) -> bool {
        match (self.is_truncated(), truncated) {
            (false, true) => warn!(
                control_plane = self.name,
                state = KeyState::TooManyRows.as_str(),
                "Control plane lists more keys than are read: what is not read counts as unknown"
            ),
            (true, false) => info!(
                control_plane = self.name,
                "Control plane's keys are read whole again"
            ),
            (true, true) | (false, false) => {}
        }
        truncated
    }

    /// Refuses a namespace to which most of the rows belong that are too many for the control plane.
    ///
    /// # Errors
    /// The control plane held too many rows at the last look.
    pub fn check_rows(&self, namespace: &str) -> Result<(), Problem> {
        let over = self
            .over_rows
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if !over.contains(namespace) {
            return Ok(());
        }
        let Self {
            name, most_rows, ..
        } = self;
        Err(Problem {
            state: KeyState::TooManyRows,
            message: format!(
                "control plane \"{name}\" holds more than {most_rows} pre-auth keys, most of them of namespace \
                 {namespace}: no more are created for it; ended ones are deleted within the hour, or raise \
                 rotation.maxControlPlaneRows"
            ),
            of_plane: false,
        })
    }

    /// The last look, if it is fresh.
    fn last_look(&self, now: Timestamp) -> Option<PlaneListing> {
        let looked = self.looked();
        let fresh = |look: &&PlaneListing| look.at <= now && now < after(look.at, FRESH);
        looked.as_ref().filter(fresh).cloned()
    }

    fn looked(&self) -> MutexGuard<'_, Option<PlaneListing>> {
        self.looked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn counted<T>(
        &self,
        call: &'static str,
        answer: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let began = Instant::now();
        let answer = answer.await;
        let result = match &answer {
            Ok(_) => "ok",
            Err(error) => error.as_str(),
        };
        let metrics = &self.metrics.rotation;
        metrics
            .calls
            .with_label_values(&[self.name.as_str(), call, result])
            .inc();
        metrics
            .call_seconds
            .with_label_values(&[call])
            .observe(began.elapsed().as_secs_f64());
        debug!(control_plane = self.name, call, result, "Called");
        answer
    }
}

#[cfg(not(test))]
fn client(_: &Context, endpoint: Endpoint) -> Result<ControlPlane, Error> {
    ControlPlane::new(endpoint)
}

/// Keys in a model's memory are made by the model's Headscale.
#[cfg(test)]
fn client(context: &Context, endpoint: Endpoint) -> Result<ControlPlane, Error> {
    match &context.store {
        crate::store::Store::Model(door) => Ok(ControlPlane::Model(door.clone())),
        crate::store::Store::Directory(_) | crate::store::Store::Kubernetes(_) => {
            ControlPlane::new(endpoint)
        }
    }
}
