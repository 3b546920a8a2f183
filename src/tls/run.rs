//! Keeps authority, caBundle and serving certificate in step while the process runs. I/O, reads the clock.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration,
};
use kube::{Api, Client};
use sidescale_certs::Leaf;
use sidescale_core::time::after;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::TlsArgs;
use super::ca_bundle::{Configuration, Live};
use super::error::TlsError;
use super::serving_key::ServingKey;
use super::state::Authorities;
use super::store::CaSecret;
use crate::clock::Clock;
use crate::cluster::{chain, is_away};
use crate::health::{Health, Part};
use crate::metrics::Metrics;
use crate::outage::Outage;
use crate::store::{SecretStore, Store};

/// Interval of full checks, independent of the watch: covers a clock that was set or stopped.
const CHECK: Duration = Duration::from_secs(30);
/// Shortest pause between two passes; it doubles with each write that another writer overwrites.
const PAUSE: Duration = Duration::from_millis(100);
/// Longest pause during failures or contention.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Age of a write from which the next one counts as the first again.
const PEACE: Duration = Duration::from_secs(60);

/// Manages the certificates of one replica.
pub struct Tls {
    secret: CaSecret,
    configuration: Configuration<MutatingWebhookConfiguration>,
    /// The configuration of warnings for authors of workloads.
    advice: Configuration<ValidatingWebhookConfiguration>,
    /// Its last known state; `None` while it is not in order, which blocks nothing else.
    advice_seen: Option<Live>,
    advice_outage: Outage,
    key: Arc<ServingKey>,
    leaf: Option<Leaf>,
    /// Result of the last good pass: enough to renew the leaf while the API server is away.
    seen: Option<(Authorities, Live)>,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
    clock: Clock,
}

impl Tls {
    /// Prepares for the Service of `args` in `namespace`; the server serves `key`.
    #[must_use]
    pub fn new(
        args: &TlsArgs,
        namespace: &str,
        client: &Client,
        key: Arc<ServingKey>,
        health: Arc<Health>,
        metrics: Arc<Metrics>,
        clock: Clock,
    ) -> Self {
        let TlsArgs {
            service_name,
            webhook_config_name,
            ca_secret_name,
        } = args;
        Self {
            secret: CaSecret {
                store: Store::of(SecretStore::new(client.clone())),
                namespace: namespace.to_owned(),
                name: ca_secret_name.clone(),
                dns_name: format!("{service_name}.{namespace}.svc"),
            },
            configuration: Configuration {
                api: Api::all(client.clone()),
                name: webhook_config_name.clone(),
            },
            advice: Configuration {
                api: Api::all(client.clone()),
                name: webhook_config_name.clone(),
            },
            advice_seen: None,
            advice_outage: Outage::default(),
            key,
            leaf: None,
            seen: None,
            health,
            metrics,
            clock,
        }
    }

    /// Runs until `shutdown`; reports and retries every failure.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) {
        tokio::select! {
            never = self.keep() => match never {},
            () = shutdown => {}
        }
    }

    async fn keep(&mut self) -> std::convert::Infallible {
        let mut starting = true;
        let mut failures = 0_u32;
        let mut outage = Outage::default();
        let mut writes = Writes::default();
        loop {
            let passed = self.pass(starting).await;
            let passed = match (passed, self.serve()) {
                (Ok(wrote), Ok(())) => Ok(wrote),
                (Err(error), _) | (_, Err(error)) => Err(error),
            };
            match passed {
                Ok(wrote) => {
                    if outage.recovered().is_some() {
                        info!(failures, "Certificates reconciled again");
                    }
                    (starting, failures) = (false, 0);
                    tokio::time::sleep(writes.pause(wrote, Instant::now())).await;
                    self.wait().await;
                }
                Err(error) => {
                    self.report(&error, &mut outage);
                    failures = failures.saturating_add(1);
                    tokio::time::sleep(doubled(PAUSE, failures)).await;
                }
            }
        }
    }

    /// Waits until there may be something to do.
    async fn wait(&self) {
        let Some((_, live)) = &self.seen else { return };
        let advice = async {
            match &self.advice_seen {
                Some(seen) => self.advice.changed(seen).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.configuration.changed(live) => {}
            () = advice => {}
            () = self.clock.sleep_until(after(self.clock.now(), CHECK)) => {}
        }
    }

    /// Checks and repairs everything once. Returns whether the bundle had to be written.
    async fn pass(&mut self, starting: bool) -> Result<bool, TlsError> {
        let authorities = self.secret.load(self.clock.now(), starting).await?;
        self.metrics
            .authority_not_before
            .set(seconds(authorities.active.not_before()));
        self.metrics
            .authority_not_after
            .set(seconds(authorities.active.not_after()));
        let (live, wrote) = self.publish(&authorities).await?;
        let advised = self.advise(&authorities).await;
        self.seen = Some((authorities, live));
        Ok(wrote || advised)
    }

    /// Does the same for the configuration of warnings. Its failures are reported, and block nothing else.
    async fn advise(&mut self, authorities: &Authorities) -> bool {
        let trust = &authorities.trust;
        let published = async {
            let live = self.advice.read().await?;
            if live.holds(trust) {
                return Ok((live, false));
            }
            let live = self.advice.write(&live, trust).await?;
            Ok::<_, TlsError>((live, true))
        };
        match published.await {
            Ok((live, wrote)) => {
                if wrote {
                    info!(
                        entries = live.len(),
                        authorities = trust.len(),
                        "Published the caBundle for warnings at kubectl apply"
                    );
                }
                self.advice_seen = Some(live);
                self.advice_outage = Outage::default();
                wrote
            }
            Err(error) => {
                if !is_away(&error) && self.advice_outage.failed() {
                    warn!(
                        error = chain(&error),
                        "Failed to publish the caBundle for warnings at kubectl apply"
                    );
                }
                self.advice_seen = None;
                false
            }
        }
    }

    async fn publish(&self, authorities: &Authorities) -> Result<(Live, bool), TlsError> {
        let Authorities {
            generation,
            active,
            trust,
        } = authorities;
        let mut live = self.configuration.read().await?;
        let wrote = !live.holds(trust);
        if wrote {
            self.metrics.ca_bundle_in_sync.set(0);
            let written = self.configuration.write(&live, trust).await;
            let result = if written.is_ok() { "ok" } else { "failed" };
            self.metrics
                .ca_bundle_writes
                .with_label_values(&[result])
                .inc();
            live = written?;
            info!(
                entries = live.len(),
                authorities = trust.len(),
                generation,
                "Published the caBundle"
            );
        }
        self.metrics
            .ca_bundle_in_sync
            .set(i64::from(live.holds(trust)));
        let name = &self.configuration.name;
        if live.trusts(active.certificate()) {
            let detail = format!(
                "seen in {} entries of MutatingWebhookConfiguration {name:?}",
                live.len()
            );
            self.health.ok(Part::CaBundle, detail);
        } else {
            let detail = format!("not yet in every entry of MutatingWebhookConfiguration {name:?}");
            self.health.problem(Part::CaBundle, detail);
        }
        Ok((live, wrote))
    }

    /// Serves only leaves of an authority that was seen live; keeps a trusted leaf until it is due.
    fn serve(&mut self) -> Result<(), TlsError> {
        let Some((authorities, live)) = &self.seen else {
            return Ok(());
        };
        let now = self.clock.now();
        if !live.trusts(authorities.active.certificate()) {
            return Ok(());
        }
        if self
            .leaf
            .as_ref()
            .is_some_and(|leaf| !leaf.is_due(now) && live.trusts(leaf.authority()))
        {
            return Ok(());
        }
        let dns_name = &self.secret.dns_name;
        let leaf = Leaf::issue(&authorities.active, dns_name, now)?;
        let not_after = leaf.not_after();
        self.metrics.leaf_not_after.set(seconds(not_after));
        self.key.set(leaf.key());
        self.leaf = Some(leaf);
        self.health.ok(
            Part::Certificate,
            format!("for {dns_name} until {not_after}"),
        );
        info!(dns_name, %not_after, generation = authorities.generation, "Loaded a serving certificate");
        Ok(())
    }

    /// Keeps readiness if all was in order before: an unavailable API server must not take every replica out of the
    /// Service. This excludes a deleted configuration.
    fn report(&self, error: &TlsError, outage: &mut Outage) {
        let text = chain(error);
        if !is_away(error) && outage.failed() {
            warn!(error = text, "Failed to reconcile certificates, retrying");
        } else {
            debug!(error = text, "Still failing to reconcile certificates");
        }
        let part = match error {
            TlsError::Authority(_)
            | TlsError::Leaf(_)
            | TlsError::Store(_)
            | TlsError::NotOurs { .. } => Part::Certificate,
            TlsError::Missing { .. } | TlsError::NoEntries { .. } => {
                self.metrics.ca_bundle_in_sync.set(0);
                self.health.problem(Part::CaBundle, text);
                return;
            }
            TlsError::Configuration { .. } | TlsError::TimedOut { .. } => Part::CaBundle,
        };
        if self.leaf.is_none() {
            self.health.problem(part, text);
        }
    }
}

/// Recent writes of the bundle.
#[derive(Debug, Default)]
struct Writes {
    last: Option<Instant>,
    streak: u32,
}

impl Writes {
    /// Returns the pause before the next check: short for one repair, longer with each that is overwritten.
    fn pause(&mut self, wrote: bool, now: Instant) -> Duration {
        if !wrote {
            return PAUSE;
        }
        let peaceful = self
            .last
            .is_none_or(|last| now.duration_since(last) > PEACE);
        self.streak = if peaceful {
            0
        } else {
            self.streak.saturating_add(1)
        };
        self.last = Some(now);
        if self.streak == 5 {
            warn!(
                "Another writer keeps changing the caBundle: see managedFields of the MutatingWebhookConfiguration"
            );
        }
        doubled(PAUSE, self.streak)
    }
}

fn doubled(first: Duration, times: u32) -> Duration {
    first.saturating_mul(1 << times.min(16)).min(LONGEST_PAUSE)
}

#[expect(clippy::cast_precision_loss, reason = "Unix time is far below 2^52")]
fn seconds(at: jiff::Timestamp) -> f64 {
    at.as_second() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repairs_at_once_and_slows_down_in_a_fight() {
        let mut writes = Writes::default();
        let start = Instant::now();
        assert_eq!(writes.pause(false, start), PAUSE);
        let pauses: Vec<_> = (0..4)
            .map(|i| writes.pause(true, start + PAUSE * i).as_millis())
            .collect();
        assert_eq!(pauses, [100, 200, 400, 800]);
        for _ in 0..20 {
            assert!(writes.pause(true, start) <= LONGEST_PAUSE);
        }
        assert_eq!(writes.pause(true, start + PEACE * 2), PAUSE);
    }
}
