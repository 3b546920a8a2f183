//! Rotation within `serve`: in the replica that leads, fed by the watch of pods. I/O.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client};
use sidescale_rotation::demand::Demands;
use sidescale_rotation::owner::Installation;
use sidescale_webhook::profile::Policy;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::clock::Clock;
use crate::cluster;
use crate::config::Current;
use crate::controller::context::{CLOSE_BEHIND, Connector, Context};
use crate::controller::{self, Checkpoint, Memory};
use crate::events::Events;
use crate::fences::FencesState;
use crate::health::{Health, Part};
use crate::installations::Installations;
use crate::leader::{self, Leadership, Lease};
use crate::metrics::Metrics;
use crate::outage::Outage;
use crate::pods::Pods;
use crate::store::{SecretStore, Store};
use crate::watch::{Namespaces, pods, run_secrets};

/// How long another writer's intent is respected: its writer has most likely exited, as this replica holds the Lease.
const RESPECT_LEADING: Duration = Duration::from_secs(15);
const RESPECT_ANYWAY: Duration = Duration::from_secs(120);

const RETRY: Duration = Duration::from_secs(2);

/// What rotation in a cluster needs.
#[derive(Clone)]
pub struct InCluster {
    /// Client with our account in the cluster.
    pub client: Client,
    /// The Lease, with the name of this replica.
    pub lease: Lease,
    /// ConfigMap with the owners of hostnames, in the Lease's namespace.
    pub hostnames: String,
    /// Release in the owner tag of the users.
    pub release: String,
    /// The operator's configuration.
    pub policy: Current,
    /// The namespaces, watched by another task.
    pub namespaces: Arc<Namespaces>,
    pub metrics: Arc<Metrics>,
    /// State for the admin port.
    pub health: Arc<Health>,
    pub clock: Clock,
    /// Publisher of Events; it remembers what it reported from one term to the next.
    pub events: Events,
    /// State of the fences.
    pub fences: watch::Receiver<FencesState>,
}

/// Rotates until `shutdown`, while this replica leads.
pub async fn run(cluster: InCluster, shutdown: CancellationToken) {
    let (sender, leading) = watch::channel(Leadership::Others);
    let lease = leader::run(
        cluster.client.clone(),
        cluster.lease.clone(),
        sender,
        shutdown.clone(),
    );
    tokio::join!(lease, act(&cluster, leading, shutdown));
}

async fn act(
    cluster: &InCluster,
    mut leading: watch::Receiver<Leadership>,
    shutdown: CancellationToken,
) {
    // One name for the lifetime of the process: it recognizes its own unfinished work by it.
    let writer = uuid::Uuid::new_v4().simple().to_string();
    let mut policies = cluster.policy.clone();
    let installations = cluster.installations();
    let mut memory = Memory::default();
    loop {
        cluster.health.ok(Part::Rotation, "another replica rotates");
        cluster.metrics.rotation.leader.set(0);
        let acting = tokio::select! {
            acting = leading.wait_for(|leading| *leading != Leadership::Others) => acting.map(|acting| *acting),
            () = shutdown.cancelled() => return,
        };
        let Ok(acting) = acting else { return };
        let policy = Arc::clone(&policies.borrow_and_update());
        let installation = tokio::select! {
            installation = begin(cluster, &policy, &installations, &mut leading) => installation,
            () = shutdown.cancelled() => return,
        };
        let Some(installation) = installation else {
            memory = Memory::default();
            continue;
        };
        info!(
            lease = cluster.lease.name,
            installation = installation.name(),
            "Rotating keys"
        );
        cluster.metrics.rotation.leader.set(1);
        let context = cluster.context(&policy, installation, acting, &writer);
        let (sender, demands) = watch::channel(Demands::default());
        let stop = shutdown.child_token();
        let resumed = std::mem::take(&mut memory);
        let mut rotation = pin!(controller::run(
            Arc::new(context),
            resumed,
            demands,
            stop.clone()
        ));
        let mut edited = false;
        let pods = pods::run(
            cluster.client.clone(),
            &cluster.namespaces,
            &policy,
            &sender,
        );
        let secrets = run_secrets(cluster.client.clone(), &policy, &sender);
        tokio::select! {
            () = pods => {}
            () = secrets => {}
            _ = &mut rotation => continue,
            () = installations.superseded() => {
                info!("Rotation stopped: another release was installed first in this cluster");
            }
            () = changed(&mut policies) => {
                edited = true;
                info!("Rotation restarting with the new configuration");
            }
            ended = leading.wait_for(|leading| *leading == Leadership::Others) => match ended {
                Ok(_) => info!(lease = cluster.lease.name, "Rotation stopped: another replica holds the Lease"),
                // The task of the Lease has exited: the process stops, and the next leader is unknown here.
                Err(_) => debug!(lease = cluster.lease.name, "Rotation stopped: process is shutting down"),
            }
        }
        // Completes the work in progress.
        stop.cancel();
        let left = rotation.await;
        // After anything else another process may have rotated; the Lease may have changed hands while the work ended.
        if edited && leading.has_changed().is_ok_and(|changed| !changed) {
            memory = left;
        }
    }
}

impl InCluster {
    fn context(
        &self,
        policy: &Arc<Policy>,
        installation: Installation,
        acting: Leadership,
        writer: &str,
    ) -> Context {
        Context {
            store: Store::of(SecretStore::new(self.client.clone())),
            connector: Connector::default(),
            policy: Arc::clone(policy),
            clock: self.clock.clone(),
            events: self.events.clone(),
            notebook: Checkpoint::Cluster {
                client: self.client.clone(),
                namespace: self.lease.namespace.clone(),
                lease: self.lease.name.clone(),
                hostnames: self.hostnames.clone(),
            },
            pods: self.pods(),
            metrics: Arc::clone(&self.metrics),
            health: Arc::clone(&self.health),
            installation,
            flags: cluster::flags(&self.lease.namespace, &self.release),
            writer: writer.to_owned(),
            respect: match acting {
                Leadership::Held => RESPECT_LEADING,
                Leadership::Anyway | Leadership::Others => RESPECT_ANYWAY,
            },
            close_behind: CLOSE_BEHIND,
        }
    }

    fn pods(&self) -> Pods {
        let fences = self.fences.clone();
        Pods::kubernetes(self.client.clone()).waking(move || fences.borrow().pods_hold)
    }

    fn installations(&self) -> Installations {
        let Lease { namespace, .. } = &self.lease;
        Installations::new(self.client.clone(), namespace, &self.release)
    }
}

/// Waits until no other release has priority, and returns the owner tag of its users; `None` if another replica leads
/// meanwhile.
async fn begin(
    cluster: &InCluster,
    policy: &Policy,
    installations: &Installations,
    leading: &mut watch::Receiver<Leadership>,
) -> Option<Installation> {
    tokio::select! {
        () = installations.until_first(&cluster.health) => {}
        _ = leading.wait_for(|leading| *leading == Leadership::Others) => return None,
    }
    Some(installation(cluster, policy).await)
}

/// Resolves when the policy changes; never if it cannot change.
async fn changed(policies: &mut Current) {
    if policies.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Returns the owner tag of the users that it creates, unique to this cluster and release.
async fn installation(cluster: &InCluster, policy: &Policy) -> Installation {
    let former = &policy.former_installations;
    if let Some(name) = &policy.installation {
        return Installation::new(name, former);
    }
    let api: Api<Namespace> = Api::all(cluster.client.clone());
    let mut outage = Outage::default();
    loop {
        match api.get_metadata("kube-system").await {
            Ok(namespace) => {
                if let Some(uid) = namespace.metadata.uid {
                    return Installation::new(&format!("{uid} {}", cluster.release), former);
                }
            }
            Err(error) if !cluster::is_away(&error) && outage.failed() => warn!(
                error = cluster::chain(&error),
                "Failed to read namespace kube-system, whose UID identifies this installation: grant permission to get it"
            ),
            Err(error) => debug!(%error, "Failed to read namespace kube-system, retrying"),
        }
        tokio::time::sleep(RETRY).await;
    }
}
