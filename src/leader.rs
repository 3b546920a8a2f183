//! Elects one replica to rotate, to save work: correctness does not depend on it. I/O.

use std::time::Duration;

use k8s_openapi::api::coordination::v1 as coordination;
use kube::{Api, Client};
use kube_lease_manager::{LeaseCreateMode, LeaseManager, LeaseManagerBuilder, LeaseManagerError};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::cluster;
use crate::outage::Outage;

/// How long a Lease is valid without being renewed, in seconds; and how long before that it is renewed.
const HELD_SECONDS: u64 = 6;
const GRACE_SECONDS: u64 = 2;

/// After a problem with the Lease, this long without another counts as recovered.
const RECOVERED_AFTER: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_secs(5);
const RELEASE_DEADLINE: Duration = Duration::from_secs(2);

/// How often a waiting replica checks whether the Lease was released: otherwise it would notice only when the Lease
/// expires.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Whether this replica leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leadership {
    /// It holds the Lease.
    Held,
    /// The Lease cannot be used, so it leads without.
    Anyway,
    /// Another replica leads.
    Others,
}

/// The Lease and this replica's name.
#[derive(Clone, Debug)]
pub struct Lease {
    pub namespace: String,
    pub name: String,
    /// Name of this replica.
    pub identity: String,
}

/// The current problem with the Lease.
#[derive(Debug, Default)]
struct LeaseProblem {
    met: bool,
    outage: Outage,
}

/// Acquires and holds the Lease until shutdown, and publishes whether this replica leads. It leads if Leases cannot be
/// used.
pub async fn run(
    client: Client,
    lease: Lease,
    leading: watch::Sender<Leadership>,
    shutdown: CancellationToken,
) {
    let mut problem = LeaseProblem::default();
    let manager = loop {
        let built = tokio::select! {
            built = build(client.clone(), &lease) => built,
            () = shutdown.cancelled() => return,
        };
        match built {
            Ok(manager) => break manager,
            Err(error) => act_anyway(&lease, &error, &mut problem, &leading),
        }
        tokio::select! { () = tokio::time::sleep(RETRY) => {} () = shutdown.cancelled() => return }
    };
    let leases = Api::namespaced(client, &lease.namespace);
    let mut holding = Leadership::Others;
    let mut look_after = LOOK_EVERY;
    loop {
        let changed = async {
            let changed = manager.changed();
            if problem.met {
                tokio::time::timeout(RECOVERED_AFTER, changed).await.ok()
            } else {
                Some(changed.await)
            }
        };
        let changed = tokio::select! {
            changed = changed => changed,
            () = released(&leases, &lease.name, look_after), if holding == Leadership::Others && !problem.met => {
                // The manager notices a new holder itself, and gets the time to acquire the Lease.
                look_after = Duration::from_secs(HELD_SECONDS);
                continue;
            }
            () = shutdown.cancelled() => break,
        };
        look_after = LOOK_EVERY;
        match changed {
            Some(Err(error)) => {
                act_anyway(&lease, &error, &mut problem, &leading);
                tokio::select! { () = tokio::time::sleep(RETRY) => {} () = shutdown.cancelled() => break }
                continue;
            }
            Some(Ok(state)) => {
                holding = if state {
                    Leadership::Held
                } else {
                    Leadership::Others
                }
            }
            None => {}
        }
        if std::mem::take(&mut problem).outage.recovered().is_some() {
            info!(lease = lease.name, "Lease available again");
        }
        if leading.send_replace(holding) != holding {
            info!(lease = lease.name, identity = lease.identity, leading = ?holding, "Leadership changed");
        }
    }
    // Released at once, so that the next replica need not wait until it expires.
    let _ = tokio::time::timeout(RELEASE_DEADLINE, manager.release()).await;
}

/// Waits until the Lease has no holder; checks after that time first.
async fn released(leases: &Api<coordination::Lease>, name: &str, after: Duration) {
    tokio::time::sleep(after).await;
    loop {
        // The manager reports problems.
        if let Ok(lease) = leases.get(name).await
            && lease.spec.is_none_or(|spec| spec.holder_identity.is_none())
        {
            return;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn build(client: Client, lease: &Lease) -> Result<LeaseManager, LeaseManagerError> {
    LeaseManagerBuilder::new(client, &lease.name)
        .with_namespace(&lease.namespace)
        .with_identity(&lease.identity)
        .with_duration(HELD_SECONDS)
        .with_grace(GRACE_SECONDS)
        .with_field_manager(format!("sidescale-{}", lease.identity))
        // The chart creates it: Sidescale has no right to do so.
        .with_create_mode(LeaseCreateMode::UseExistent)
        .build()
        .await
}

fn act_anyway(
    lease: &Lease,
    error: &LeaseManagerError,
    problem: &mut LeaseProblem,
    leading: &watch::Sender<Leadership>,
) {
    // An unavailable API server is reported once for all parts.
    problem.met = true;
    if !cluster::is_away(error) && problem.outage.failed() {
        let Lease {
            namespace,
            name,
            identity: _,
        } = lease;
        let error = cluster::chain(error);
        warn!(
            namespace,
            lease = name,
            error,
            "Lease unavailable: every replica may rotate keys; helm upgrade recreates a missing Lease"
        );
    }
    leading.send_replace(Leadership::Anyway);
}
