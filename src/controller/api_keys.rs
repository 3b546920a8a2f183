//! Stands in for an API key manager that is unavailable: renews an API key of ours while it still works. I/O but for the times.
//!
//! It uses the manager's own state machine with another policy: renew when due for two hours, if no manager checked for two hours.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use sidescale_control_plane::{ApiKeyClient, Endpoint, Error};
use sidescale_core::secret::MANAGED_BY;
use sidescale_core::time::after;
use sidescale_rotation::tokens::keeper::{CHECK_EVERY, TokenKeeper};
use sidescale_rotation::tokens::{TokenPolicy, form};
use sidescale_webhook::profile;
use tracing::{debug, info, warn};

use super::context::Context;
use crate::api_key::{KeyPlace, TokenProblem, TokenResult, settle};
use crate::outage::Outage;
use crate::store::{Store, StoreError};

/// How long a manager may be unavailable.
const STAND_IN_AFTER: Duration = Duration::from_secs(2 * 3_600);

/// Default lifetime that a manager uses; its own flags are not known here.
const EXPIRATION: Duration = Duration::from_secs(2_160 * 3_600);
const BUFFER: Duration = Duration::from_secs(240 * 3_600);

/// How long another process's intent is respected.
const RESPECT: Duration = Duration::from_secs(120);

/// How long to wait after a problem.
const RETRY: Duration = Duration::from_secs(300);

/// The API keys by control plane, and when each is checked.
#[derive(Debug)]
pub(super) struct ApiKeys(BTreeMap<String, TokenSlot>);

#[derive(Debug)]
struct TokenSlot {
    /// None while it is being checked.
    keeper: Option<TokenKeeper>,
    next: Timestamp,
    outage: Outage,
}

/// The outcome of a check.
#[derive(Debug)]
pub(super) struct TokenOutcome {
    pub(super) name: String,
    keeper: TokenKeeper,
    /// Whether the Secret has a different key now.
    pub(super) renewed: bool,
    outcome: Result<Option<TokenResult>, String>,
}

impl ApiKeys {
    /// Returns the keys, all due now.
    pub(super) fn new(
        planes: &BTreeMap<String, profile::ControlPlaneSettings>,
        writer: &str,
        now: Timestamp,
    ) -> Self {
        let slot = |(name, config): (&String, &profile::ControlPlaneSettings)| {
            let slot = TokenSlot {
                keeper: Some(TokenKeeper::new(
                    format!("rotation/{writer}"),
                    policy(config),
                )),
                next: now,
                outage: Outage::default(),
            };
            (name.clone(), slot)
        };
        Self(planes.iter().map(slot).collect())
    }

    /// Takes the keys to check now, of control planes that are connected.
    ///
    /// If a control plane is not connected, that is reported there, and there is nothing to check.
    pub(super) fn due(
        &mut self,
        now: Timestamp,
        answers: impl Fn(&str) -> bool,
    ) -> Vec<(String, TokenKeeper)> {
        let all = self.0.iter_mut();
        let due = all.filter(|(name, slot)| slot.next <= now && answers(name));
        due.filter_map(|(name, slot)| Some((name.clone(), slot.keeper.take()?)))
            .collect()
    }

    /// Returns when the next check is due.
    pub(super) fn wake(&self, answers: impl Fn(&str) -> bool) -> Option<Timestamp> {
        let all = self.0.iter();
        let here = all.filter(|(name, slot)| slot.keeper.is_some() && answers(name));
        here.map(|(_, slot)| slot.next).min()
    }

    /// Applies the outcome of a check.
    pub(super) fn looked(&mut self, looked: TokenOutcome, now: Timestamp) {
        let TokenOutcome {
            name,
            keeper,
            renewed,
            outcome,
        } = looked;
        let Some(slot) = self.0.get_mut(&name) else {
            return;
        };
        slot.keeper = Some(keeper);
        slot.next = after(now, CHECK_EVERY);
        if renewed {
            info!(
                control_plane = name,
                "Renewed the API key in place of its manager"
            );
        }
        match outcome {
            Ok(Some(TokenResult { rest, .. })) => {
                slot.next = slot.next.min(rest.until.max(now));
                slot.outage = Outage::default();
                debug!(control_plane = name, state = ?rest.state, until = %rest.until, "Checked API key in place of its manager");
            }
            Ok(None) => slot.outage = Outage::default(),
            Err(problem) => {
                slot.next = after(now, RETRY);
                if slot.outage.failed() {
                    warn!(
                        control_plane = name,
                        error = problem,
                        "Failed to check API key in place of its manager"
                    );
                } else {
                    debug!(
                        control_plane = name,
                        error = problem,
                        "Still failing to check API key in place of its manager"
                    );
                }
            }
        }
    }
}

/// Checks one API key, and renews it if necessary.
pub(super) async fn look(
    context: Arc<Context>,
    name: String,
    mut keeper: TokenKeeper,
) -> TokenOutcome {
    let (mut renewed, mut outcome) = (false, Ok(None));
    if let Some(config) = context.policy.control_planes.get(&name) {
        let before = value(&context.store, config).await;
        outcome = settled(&context, &name, config, &mut keeper).await;
        renewed = match (before, value(&context.store, config).await) {
            (Ok(Some(before)), Ok(Some(now))) => before != now,
            (Ok(_) | Err(_), _) => false,
        };
    }
    TokenOutcome {
        name,
        keeper,
        renewed,
        outcome,
    }
}

/// Reconciles the API key. If the key in use is replaced meanwhile, continues with the new one.
async fn settled(
    context: &Context,
    name: &str,
    config: &profile::ControlPlaneSettings,
    keeper: &mut TokenKeeper,
) -> Result<Option<TokenResult>, String> {
    let mut last = None;
    loop {
        let found = value(&context.store, config).await;
        let api_key = match found.map_err(|error| said(TokenProblem::Secret(error)))? {
            // There is nothing to renew, or the value is the same that was refused before.
            None => return Ok(None),
            Some(value) if Some(&value) == last.as_ref() => return Ok(None),
            Some(value) => value,
        };
        last = Some(api_key.clone());
        let endpoint = Endpoint {
            name: name.to_owned(),
            api_url: config.api_url.clone(),
            api_key,
            ca_bundle: config.ca_bundle.clone(),
            allow_insecure: config.allow_insecure,
        };
        let client = ApiKeyClient::new(endpoint.clone());
        let place = KeyPlace {
            store: &context.store,
            namespace: &config.api_key_namespace,
            name: &config.api_key_secret,
            headscale: &client.map_err(|error| error.to_string())?,
            used_at: Some(&endpoint),
            clock: &context.clock,
        };
        match settle(keeper, &place).await {
            Ok(settled) => return Ok(Some(settled)),
            Err(TokenProblem::Headscale {
                source: Error::Unauthorized { .. },
                ..
            }) => {}
            Err(problem) => return Err(said(problem)),
        }
    }
}

async fn value(
    store: &Store,
    config: &profile::ControlPlaneSettings,
) -> Result<Option<sidescale_core::key_value::KeyValue>, StoreError> {
    let found = store
        .read(&config.api_key_namespace, &config.api_key_secret)
        .await?;
    Ok(found.and_then(|secret| form::read(&secret, MANAGED_BY.1, &config.api_key_data_key).value))
}

fn said(problem: TokenProblem) -> String {
    format!("{:#}", anyhow::Error::new(problem))
}

fn policy(config: &profile::ControlPlaneSettings) -> TokenPolicy {
    TokenPolicy {
        expiration: EXPIRATION,
        buffer: BUFFER,
        overlap: Duration::ZERO,
        respect: RESPECT,
        managed_by: MANAGED_BY.1.to_owned(),
        data_key: config.api_key_data_key.clone(),
        stand_in: Some(STAND_IN_AFTER),
    }
}
