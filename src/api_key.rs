//! Performs the actions of a [`TokenKeeper`] until it rests: reads and writes the Secret, calls Headscale. I/O.

use jiff::Timestamp;
use sidescale_control_plane::{self as control_plane, ApiKeyClient, Endpoint};
use sidescale_core::id::ApiKeyId;
use sidescale_core::key_value::KeyValue;
use sidescale_core::quote::quoted;
use sidescale_core::secret::StoredSecret;
use sidescale_rotation::tokens::form::Stated;
use sidescale_rotation::tokens::keeper::{Action, ActionOutcome, Change, Idle, TokenKeeper, Write};
use sidescale_rotation::tokens::need::TokenReason;
use sidescale_rotation::tokens::value::ListedApiKey;
use tracing::{info, warn};

use crate::clock::Clock;
use crate::store::{Store, StoreError};

/// Maximum rounds of one run: each round reads both sides, so more rounds than this mean contention for the Secret.
const ROUNDS: usize = 30;

/// Where a key is stored, and who creates it.
#[derive(Debug)]
pub struct KeyPlace<'a> {
    pub store: &'a Store,
    pub namespace: &'a str,
    pub name: &'a str,
    /// Creates the keys.
    pub headscale: &'a ApiKeyClient,
    /// Where a new key is verified before the write; its own API key is not used. `None`: its row in the list has to
    /// do.
    pub used_at: Option<&'a Endpoint>,
    pub clock: &'a Clock,
}

/// Outcome of a run.
#[derive(Clone, Debug)]
pub struct TokenResult {
    /// Why there is nothing more to do.
    pub rest: Idle,
    /// Revision of the Secret as read last; `None` where it does not exist.
    pub revision: Option<String>,
    /// Whether a new key was written.
    pub renewed: bool,
}

/// What stopped a run. No message contains a byte of a key.
#[derive(Debug, thiserror::Error)]
pub enum TokenProblem {
    /// The Secret could not be read or written.
    #[error("the API key's Secret")]
    Secret(#[source] StoreError),
    /// Headscale did not answer a call with success.
    #[error("{doing}")]
    Headscale {
        /// The call.
        doing: &'static str,
        /// The cause.
        #[source]
        source: control_plane::Error,
    },
    /// A new key was of no use, and was expired again.
    #[error("discarded the new API key: {0}")]
    GivenUp(&'static str),
    /// Another writer changes the Secret as fast as Sidescale.
    #[error("Secret {namespace}/{name} was changed {ROUNDS} times in a row by another writer")]
    Restless {
        /// Namespace of the Secret.
        namespace: String,
        name: String,
    },
}

/// Runs until there is nothing left to do.
///
/// # Errors
/// The Secret or Headscale failed; the keeper knows how to continue.
pub async fn settle(
    keeper: &mut TokenKeeper,
    place: &KeyPlace<'_>,
) -> Result<TokenResult, TokenProblem> {
    let KeyPlace {
        store,
        namespace,
        name,
        headscale: client,
        used_at: _,
        clock,
    } = place;
    let mut renewed = false;
    for _ in 0..ROUNDS {
        let found = store
            .read(namespace, name)
            .await
            .map_err(TokenProblem::Secret)?;
        let secret = found.unwrap_or_else(|| StoredSecret::absent(namespace, name));
        let listed = client.list().await;
        let listed: Vec<_> = listed
            .map_err(|source| headscale("list the API keys", source))?
            .into_iter()
            .map(ListedApiKey::new)
            .collect();
        let random = u64::from(uuid::Uuid::new_v4().as_fields().0);
        let action = keeper.next(clock.now(), &secret, &listed, random);
        let (done, problem) = match &action {
            Action::Rest(rest) => {
                return Ok(TokenResult {
                    rest: rest.clone(),
                    revision: secret.revision,
                    renewed,
                });
            }
            Action::Write(write) => place.write(write).await,
            Action::Create { expires } => place.create(*expires).await,
            Action::Verify { value, key } => (place.verify(value, key.id).await, None),
            Action::Expire { key, orphan } => place.expire(key.id, *orphan).await,
        };
        let stored = |action: &Action| matches!(action, Action::Write(write) if matches!(write.change, Change::Store(_)));
        renewed |= done == ActionOutcome::Ok && stored(&action);
        keeper.absorb(clock.now(), action, done);
        if let Some(problem) = problem {
            return Err(problem);
        }
    }
    Err(TokenProblem::Restless {
        namespace: (*namespace).to_owned(),
        name: (*name).to_owned(),
    })
}

impl KeyPlace<'_> {
    async fn write(&self, write: &Write) -> (ActionOutcome, Option<TokenProblem>) {
        let Write { secret, change } = write;
        match self.store.write(secret).await {
            Ok(_) => {
                self.tell(change);
                let given_up = match change {
                    Change::GiveUp(why) => Some(TokenProblem::GivenUp(why)),
                    Change::Intend(..)
                    | Change::Store(_)
                    | Change::PutBack(_)
                    | Change::Repair
                    | Change::Tidy
                    | Change::CheckIn => None,
                };
                (ActionOutcome::Ok, given_up)
            }
            // Another writer was faster: its content decides.
            Err(StoreError::Conflict { .. }) => (ActionOutcome::Failed, None),
            Err(error) => (ActionOutcome::Failed, Some(TokenProblem::Secret(error))),
        }
    }

    fn tell(&self, change: &Change) {
        let (namespace, secret) = (self.namespace, self.name);
        match change {
            Change::Intend(_, TokenReason::Unstated(stated)) => {
                let stated = match stated {
                    Stated::Absent => "nothing".to_owned(),
                    Stated::Unreadable(text) => quoted(text),
                    Stated::At(at) => at.to_string(),
                };
                warn!(
                    namespace,
                    secret,
                    stated,
                    "API key's expiration annotation is missing or invalid: creating a new key"
                );
            }
            Change::Intend(_, why) => {
                info!(namespace, secret, why = why.as_str(), "Creating API key");
            }
            Change::Store(key) => info!(
                namespace, secret, key_id = %key.id.0, expires = %key.expires, "Wrote a new API key"
            ),
            Change::PutBack(key) => warn!(
                namespace,
                secret,
                key_id = %key.id.0,
                "Restored API key to its Secret: another writer removed it within an hour of its creation"
            ),
            Change::GiveUp(why) => info!(namespace, secret, why, "Discarded new API key"),
            Change::Repair => info!(
                namespace,
                secret, "Updated API key annotations from Headscale"
            ),
            Change::Tidy | Change::CheckIn => {}
        }
    }

    async fn create(&self, expires: Timestamp) -> (ActionOutcome, Option<TokenProblem>) {
        match self.headscale.create(expires).await {
            Ok(minted) => (ActionOutcome::Created(minted.value), None),
            Err(source) => (
                ActionOutcome::Failed,
                Some(headscale("create an API key", source)),
            ),
        }
    }

    /// Calls Headscale with the new key, at the endpoint that will use it.
    async fn verify(&self, value: &KeyValue, key_id: ApiKeyId) -> ActionOutcome {
        let Some(used_at) = self.used_at else {
            return ActionOutcome::Ok;
        };
        let endpoint = Endpoint {
            api_key: value.clone(),
            ..used_at.clone()
        };
        let answer = match ApiKeyClient::new(endpoint) {
            Ok(client) => client.list().await.map(drop),
            Err(error) => Err(error),
        };
        match answer {
            Ok(()) => ActionOutcome::Ok,
            Err(error @ control_plane::Error::Unauthorized { .. }) => {
                warn!(key_id = %key_id.0, cause = %error, "New API key rejected where it is used");
                ActionOutcome::Refused
            }
            Err(error) => {
                warn!(
                    key_id = %key_id.0, cause = %error,
                    "Failed to verify new API key where it is used: relying on Headscale's list"
                );
                ActionOutcome::Failed
            }
        }
    }

    async fn expire(&self, id: ApiKeyId, orphan: bool) -> (ActionOutcome, Option<TokenProblem>) {
        match self.headscale.expire(id).await {
            Ok(()) => {
                if orphan {
                    info!(key_id = %id.0, "Expired an orphaned API key");
                } else {
                    info!(key_id = %id.0, "Expired the old API key");
                }
                (ActionOutcome::Ok, None)
            }
            Err(source) => (
                ActionOutcome::Failed,
                Some(headscale("expire the old API key", source)),
            ),
        }
    }
}

fn headscale(doing: &'static str, source: control_plane::Error) -> TokenProblem {
    TokenProblem::Headscale { doing, source }
}
