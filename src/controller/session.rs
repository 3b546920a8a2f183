//! One control plane as rotation uses it: credentials from its Secret, users created by Sidescale, counted calls. I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use sidescale_control_plane::{Client, Endpoint, Error, RowList, Version};
use sidescale_core::id::KeyId;
use sidescale_core::key_state::KeyState;
use sidescale_core::objects::{MintedKey, NewPreAuthKey, User};
use sidescale_core::problem::Problem;
use sidescale_core::time::after;
use sidescale_rotation::budget::over_rows;
use sidescale_rotation::nodes::tailnet::KeyOrigin;
use sidescale_rotation::owner::{Installation, KeyClaim, ServiceOwner};
use sidescale_rotation::plan::{Claimed, IssuedKeys, mismatch};
use sidescale_rotation::record::Intent;
use sidescale_webhook::identity;
use sidescale_webhook::profile::{ControlPlaneSettings, Policy, UserPolicy};
use tokio::sync::Semaphore;
use tracing::{debug, info, warn};

use super::context::Context;
use crate::metrics::Metrics;

mod credentials;
mod foreign_keys;
mod nodes;
mod users;

use credentials::{FoundApiKey, api_key, invalid_credentials, no_placeholder_any_more};
pub(crate) use credentials::{no_api_key, no_credentials};
pub(super) use foreign_keys::ForeignKeys;

/// Maximum number of keys created at a time, for all Secrets: each call costs Headscale some 60 ms of a processor,
/// and no pod waits yet for what is queued here.
const CREATES_AT_ONCE: usize = 8;

/// How long a listing of users and keys is fresh enough to judge ownership.
const FRESH: Duration = Duration::from_secs(10);

/// Origin of each key, as last listed.
type Origins = BTreeMap<KeyId, KeyOrigin>;

/// All that a session takes from the configuration: with the same, it is as good after an edit as before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SessionBasis {
    settings: Option<ControlPlaneSettings>,
    users: UserPolicy,
    most_rows: u32,
    installation: Installation,
}

/// A connected control plane.
#[derive(Debug)]
pub struct Session {
    name: String,
    installation: Installation,
    adopted: Vec<String>,
    user_template: String,
    manages_users: bool,
    client: Client,
    users: Mutex<BTreeMap<String, User>>,
    minting: Semaphore,
    origins: Mutex<Origins>,
    /// Foreign keys that people put into Secrets of keys.
    lent: Arc<ForeignKeys>,
    /// Version of the control plane; none before it answered.
    version: Option<Version>,
    /// The last listing of all users and keys.
    looked: Mutex<Option<PlaneListing>>,
    /// Held by the one job that lists because of a claim; jobs that wait share its listing.
    looking: tokio::sync::Mutex<()>,
    most_rows: usize,
    /// Namespaces for which no key is created, as of the last listing.
    over_rows: Mutex<BTreeSet<String>>,
    metrics: Arc<Metrics>,
}

/// A listing of all users and keys.
#[derive(Clone, Debug)]
struct PlaneListing {
    /// When it began, by the loop's clock.
    at: Timestamp,
    /// When it began, by a monotonic clock.
    began: Instant,
    issued: IssuedKeys,
}

impl SessionBasis {
    pub(super) fn of(context: &Context, name: &str) -> Self {
        let Policy {
            control_planes,
            rotation,
            ..
        } = &*context.policy;
        Self {
            settings: control_planes.get(name).cloned(),
            users: rotation.users,
            most_rows: rotation.max_control_plane_rows,
            installation: context.installation.clone(),
        }
    }
}

impl Session {
    /// Reads the API key, requests the version and lists the users once.
    ///
    /// # Errors
    /// The API key is missing or refused, or the control plane does not answer as expected.
    pub async fn connect(context: &Context, name: &str) -> Result<Self, Problem> {
        let Some(config) = context.policy.control_planes.get(name) else {
            let known: Vec<_> = context
                .policy
                .control_planes
                .keys()
                .map(String::as_str)
                .collect();
            let message = format!(
                "control plane \"{name}\" is not in the configuration, which has {}: add it under controlPlanes, or remove \
                 the annotation sidescale.io/control-plane from the pods",
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
            client: context.connector.connect(endpoint)?,
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

    /// Takes over the foreign keys known to an earlier session.
    pub(super) fn share(&mut self, lent: &Arc<ForeignKeys>) {
        self.lent = Arc::clone(lent);
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Creates the key of an intent and checks the answer; a key with other properties is expired at once.
    ///
    /// # Errors
    /// Sidescale may not use the user, or the call failed.
    pub async fn create_key(
        &self,
        intent: &Intent,
        owner: &ServiceOwner,
    ) -> Result<MintedKey, Problem> {
        // It fails only if the semaphore is closed, which never happens.
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
                // The user may be gone: it is looked up again next time.
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
            "control plane \"{name}\" created key {} with another {field} than requested: Sidescale expired it; check that \
             nothing between Sidescale and Headscale rewrites requests",
            minted.key.id.0
        );
        Err(Problem {
            state: KeyState::Degraded,
            message,
            of_plane: false,
        })
    }

    /// Returns whether a key is the claiming service's own. A listing that is a few seconds old is enough to confirm it. Only a
    /// listing that began after the claim was `read` can deny it: the key may have been created since. All waiting jobs share
    /// such a listing, so any number of claims costs one listing at a time.
    ///
    /// # Errors
    /// A call failed, or the control plane has so many keys that this one was not read.
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

    /// Fails for a key that was not read.
    fn certain(&self, claimed: Option<Claimed>) -> Result<Claimed, Problem> {
        claimed.ok_or_else(|| Problem {
            state: KeyState::TooManyRows,
            message: format!(
                "control plane \"{}\" lists more pre-auth keys than Sidescale reads, and this is one of the oldest: delete \
                 expired pre-auth keys there",
                self.name
            ),
            of_plane: false,
        })
    }

    /// Returns whether the last listing read only the newest keys.
    pub(super) fn is_truncated(&self) -> bool {
        let looked = self.looked();
        looked.as_ref().is_some_and(|look| look.issued.truncated)
    }

    /// Expires a key that was judged to be a service's own, or that this process has just created; a key that has expired or
    /// is not there counts as expired.
    ///
    /// # Errors
    /// The call failed.
    pub async fn expire(&self, id: KeyId) -> Result<(), Problem> {
        Ok(self
            .counted("expire_pre_auth_key", self.client.expire_pre_auth_key(id))
            .await?)
    }

    /// Returns the users that keys are created for, and all keys of the control plane, or the newest where there are too many.
    ///
    /// # Errors
    /// A call failed.
    pub async fn issued(&self, now: Timestamp) -> Result<IssuedKeys, Problem> {
        let began = Instant::now();
        // Users first: a key whose user is created in between has no owner until the next listing, which is the safe side.
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

    /// Logs when the control plane begins to hold more keys than are read, and when it no longer does.
    fn note_truncated(&self, truncated: bool) -> bool {
        match (self.is_truncated(), truncated) {
            (false, true) => warn!(
                control_plane = self.name,
                state = KeyState::TooManyRows.as_str(),
                "Control plane has more keys than Sidescale reads: unread keys count as unknown"
            ),
            (true, false) => info!(
                control_plane = self.name,
                "Control plane's key list is complete again"
            ),
            (true, true) | (false, false) => {}
        }
        truncated
    }

    /// Refuses a namespace that owns most of the keys when the control plane holds too many.
    ///
    /// # Errors
    /// The control plane held too many keys at the last listing.
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
                "control plane \"{name}\" has more than {most_rows} pre-auth keys, most of them of namespace {namespace}: no \
                 more are created for it; wait an hour until Sidescale has deleted expired ones, or raise \
                 rotation.maxControlPlaneRows"
            ),
            of_plane: false,
        })
    }

    /// Returns the last listing, if it is fresh.
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
        debug!(
            control_plane = self.name,
            call, result, "Called control plane"
        );
        answer
    }
}
