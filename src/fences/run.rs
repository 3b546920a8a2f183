//! Tries the fences at the start and every hour, and reports an open one. I/O.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration,
};
use k8s_openapi::api::core::v1::{ObjectReference, Pod, Secret};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::api::policy::v1::Eviction;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::{Client, Error};
use serde_json::{Value, json};
use sidescale_core::notice::{About, Notice};
use sidescale_core::secret::FIELD_MANAGER;
use sidescale_core::time::after;
use sidescale_webhook::profile::OnLost;
use tokio::sync::watch;
use tracing::{error, info};

use super::{
    DryRunAnswer, FENCE_OPEN, Fence, FenceVerdict, FencesState, NextRound, judge, next, notice,
    worst,
};
use crate::clock::Clock;
use crate::cluster::{self, chain};
use crate::config::Current;
use crate::events::Events;
use crate::health::{Health, Part};
use crate::metrics::Metrics;
use crate::pods::post_eviction;

/// Time limit of one request.
const DEADLINE: Duration = Duration::from_secs(10);

/// Maximum time that work which needs the rights waits for the policies to come into force.
const SETTLE: Duration = Duration::from_secs(10);

/// Name of a Secret that is on no list, and of a component that is not Sidescale.
const NOT_LISTED: &str = "sidescale-fence-probe";

/// Name of a Secret that is on the list in every installation.
const LISTED: &str = "headscale-auth-keys";

/// Tests the fences while the process runs.
pub struct Fences {
    /// Client with our account in the cluster.
    pub client: Client,
    pub namespace: String,
    pub pod: String,
    /// Name of our webhook configurations, and prefix of the policies' names.
    pub installation: String,
    pub policy: Current,
    pub metrics: Arc<Metrics>,
    /// State for the admin port.
    pub health: Arc<Health>,
    pub events: Events,
    /// The ConfigMap that Events refer to, in our namespace.
    pub config_map: String,
    pub clock: Clock,
}

/// Waits until the fences are known to hold, or cannot be tested, but not for long: an open fence is reported, and keys
/// are renewed all the same.
pub async fn settled(mut state: watch::Receiver<FencesState>) {
    let _ = tokio::time::timeout(SETTLE, state.wait_for(|state| state.settled)).await;
}

impl Fences {
    /// Tests them repeatedly, and publishes what the rest of the process needs to know.
    pub async fn run(self, state: watch::Sender<FencesState>) -> Infallible {
        let start = self.clock.now();
        let mut open = Vec::new();
        let mut edits = self.policy.clone();
        loop {
            let verdicts = self.round().await;
            let since_start = since(start, self.clock.now());
            let all = worst(verdicts.iter().map(|(_, verdict)| verdict.clone()));
            let NextRound {
                settled: is_settled,
                report,
                after: pause,
            } = next(since_start, &all);
            let pods = verdicts.iter().find(|(fence, _)| *fence == Fence::Pods);
            let pods_hold = pods.is_some_and(|(_, verdict)| *verdict == FenceVerdict::Closed);
            state.send_modify(|state| {
                state.settled |= is_settled;
                state.pods_hold = pods_hold;
            });
            if report {
                self.report(&verdicts, &mut open).await;
            }
            // An edit may ask for another right, whose fence was not tested yet.
            tokio::select! {
                () = self.clock.sleep_until(after(self.clock.now(), pause)) => {}
                () = changed(&mut edits) => {}
            }
        }
    }

    /// Tests each fence whose right is granted.
    async fn round(&self) -> Vec<(Fence, FenceVerdict)> {
        let (evicts, wakes) = {
            let rotation = &self.policy.borrow().rotation;
            (rotation.on_lost == OnLost::Evict, rotation.wake_pods)
        };
        let fences = Fence::ALL.into_iter().filter(|fence| match fence {
            Fence::Evictions => evicts,
            Fence::Pods => wakes,
            Fence::Secrets | Fence::Webhooks | Fence::Events => true,
        });
        let tried = fences.map(async |fence| {
            let policy = fence.policy(&self.installation);
            let answers = match fence {
                Fence::Secrets => self.try_secrets().await,
                Fence::Webhooks => self.try_webhooks().await,
                Fence::Events => vec![self.try_event().await],
                Fence::Evictions => vec![self.try_eviction().await],
                Fence::Pods => vec![self.try_pod().await],
            };
            let verdicts = answers.iter().map(|answer| judge(&policy, answer));
            (fence, worst(verdicts))
        });
        join_all(tried).await
    }

    /// Tries a Secret of another name, and one that is an account's token.
    async fn try_secrets(&self) -> Vec<DryRunAnswer> {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        let params = PostParams {
            dry_run: true,
            field_manager: Some(FIELD_MANAGER.to_owned()),
        };
        let tried = [
            (NOT_LISTED, "Opaque"),
            (LISTED, "kubernetes.io/service-account-token"),
        ]
        .map(async |(name, type_)| {
            let secret = probe_secret(&self.namespace, name, type_);
            answered(api.create(&params, &secret)).await
        });
        join_all(tried).await
    }

    /// Tries to change something other than the caBundle, in both kinds.
    async fn try_webhooks(&self) -> Vec<DryRunAnswer> {
        let client = &self.client;
        let params = PatchParams {
            dry_run: true,
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let mutating: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
        let validating: Api<ValidatingWebhookConfiguration> = Api::all(client.clone());
        let name = self.installation.as_str();
        let [pods, workloads] =
            ["pods", "workloads"].map(|name| Patch::Strategic(probe_entry(name)));
        let (mutating, validating) = tokio::join!(
            answered(mutating.patch(name, &params, &pods)),
            answered(validating.patch(name, &params, &workloads)),
        );
        vec![mutating, validating]
    }

    /// Tries an Event in the name of another component.
    async fn try_event(&self) -> DryRunAnswer {
        let api: Api<Event> = Api::namespaced(self.client.clone(), &self.namespace);
        let params = PostParams {
            dry_run: true,
            field_manager: Some(FIELD_MANAGER.to_owned()),
        };
        let event = probe_event(&self.namespace, &self.pod, self.clock.now());
        answered(api.create(&params, &event)).await
    }

    /// Tries our own pod: the policy is evaluated only for an existing one.
    async fn try_eviction(&self) -> DryRunAnswer {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        let eviction = Eviction {
            delete_options: None,
            metadata: ObjectMeta {
                namespace: Some(self.namespace.clone()),
                name: Some(self.pod.clone()),
                ..ObjectMeta::default()
            },
        };
        answered(post_eviction(&api, &eviction, true)).await
    }

    /// Tries to label our own pod.
    async fn try_pod(&self) -> DryRunAnswer {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        let params = PatchParams {
            dry_run: true,
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let label = Patch::Merge(json!({"metadata": {"labels": {NOT_LISTED: "true"}}}));
        answered(api.patch_metadata(&self.pod, &params, &label)).await
    }

    async fn report(&self, verdicts: &[(Fence, FenceVerdict)], open: &mut Vec<Fence>) {
        for (fence, verdict) in verdicts {
            let is_open = *verdict == FenceVerdict::Open;
            let gauge = self.metrics.fence_open.with_label_values(&[fence.as_str()]);
            match verdict {
                FenceVerdict::Closed | FenceVerdict::Open => gauge.set(i64::from(is_open)),
                // The last known verdict stays.
                FenceVerdict::Unknown(_) => continue,
            }
            let was_open = open.contains(fence);
            if is_open {
                self.report_open(*fence, was_open).await;
            }
            if is_open && !was_open {
                open.push(*fence);
            } else if was_open && !is_open {
                open.retain(|other| other != fence);
                let policy = fence.policy(&self.installation);
                info!(policy, "Fence is closed again");
            }
        }
        // A fence without a right in the current configuration does not count.
        open.retain(|fence| verdicts.iter().any(|(tried, _)| tried == fence));
        for fence in Fence::ALL {
            if !verdicts.iter().any(|(tried, _)| *tried == fence) {
                let gauge = self.metrics.fence_open.with_label_values(&[fence.as_str()]);
                gauge.set(0);
            }
        }
        let detail = detail(verdicts, &self.installation);
        if open.is_empty() {
            self.health.ok(Part::Fences, detail);
        } else {
            self.health.problem(Part::Fences, detail);
        }
    }

    async fn report_open(&self, fence: Fence, was_open: bool) {
        let note = notice(fence, &self.installation);
        if !was_open {
            let policy = fence.policy(&self.installation);
            error!(
                policy,
                note, "Fence is open: the policy does not restrict Sidescale's own account"
            );
        }
        let notice = Notice {
            namespace: self.namespace.clone(),
            about: About::ConfigMap(self.config_map.clone()),
            warning: true,
            reason: FENCE_OPEN,
            note,
        };
        self.events.publish(&notice);
    }
}

/// Returns a line for the admin port: each fence and its state.
fn detail(verdicts: &[(Fence, FenceVerdict)], installation: &str) -> String {
    let mut text = String::new();
    for (fence, verdict) in verdicts {
        if !text.is_empty() {
            text.push_str("; ");
        }
        // Writing to a String cannot fail.
        let _ = match verdict {
            FenceVerdict::Closed => write!(text, "{} is closed", fence.as_str()),
            FenceVerdict::Unknown(why) => {
                write!(text, "{} could not be tested: {why}", fence.as_str())
            }
            FenceVerdict::Open => write!(
                text,
                "{} is open: {}",
                fence.as_str(),
                notice(*fence, installation)
            ),
        };
    }
    text
}

/// Returns a Secret that the policy must refuse, and that is valid otherwise. It is empty.
fn probe_secret(namespace: &str, name: &str, type_: &str) -> Secret {
    let pair = |key: &str, value: &str| Some([(key.to_owned(), value.to_owned())].into());
    Secret {
        metadata: ObjectMeta {
            namespace: Some(namespace.to_owned()),
            name: Some(name.to_owned()),
            labels: pair("app.kubernetes.io/managed-by", "sidescale"),
            annotations: pair("kubernetes.io/service-account.name", "default"),
            ..ObjectMeta::default()
        },
        type_: Some(type_.to_owned()),
        ..Secret::default()
    }
}

/// Returns an Event about our own pod that the policy must refuse, and that is valid otherwise.
fn probe_event(namespace: &str, pod: &str, now: Timestamp) -> Event {
    let said = || Some("Probe".to_owned());
    Event {
        metadata: ObjectMeta {
            namespace: Some(namespace.to_owned()),
            name: Some(NOT_LISTED.to_owned()),
            ..ObjectMeta::default()
        },
        event_time: Some(MicroTime(now)),
        type_: Some("Normal".to_owned()),
        action: said(),
        reason: said(),
        reporting_controller: Some(NOT_LISTED.to_owned()),
        reporting_instance: Some(pod.to_owned()),
        regarding: Some(ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            namespace: Some(namespace.to_owned()),
            name: Some(pod.to_owned()),
            ..ObjectReference::default()
        }),
        ..Event::default()
    }
}

/// Returns a new timeout for an entry: longer than the chart's longest.
fn probe_entry(name: &str) -> Value {
    json!({"webhooks": [{"name": format!("{name}.sidescale.io"), "timeoutSeconds": 30}]})
}

async fn answered<T>(call: impl Future<Output = Result<T, Error>>) -> DryRunAnswer {
    match cluster::within(DEADLINE, call).await {
        Ok(_) => DryRunAnswer::Admitted,
        Err(Error::Api(status)) => {
            let status = *status;
            let causes = status.details.iter().flat_map(|details| &details.causes);
            let budget = causes
                .into_iter()
                .any(|cause| cause.reason == "DisruptionBudget");
            DryRunAnswer::Refused {
                code: status.code,
                reason: status.reason,
                message: status.message,
                budget,
            }
        }
        Err(error) if cluster::is_away(&error) => {
            DryRunAnswer::None("the API server does not answer".to_owned())
        }
        Err(error) => DryRunAnswer::None(chain(&error)),
    }
}

/// Resolves when the policy changes; never if it cannot change.
async fn changed(edits: &mut Current) {
    if edits.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

fn since(start: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(start)).unwrap_or_default()
}
