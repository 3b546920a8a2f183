//! Wakes the kubelets of pods that wait for a key, on a task of its own: no key waits for it. I/O.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::{StreamExt as _, stream};
use sidescale_core::time::after;
use sidescale_rotation::nodes::replicas::PodRef;
use sidescale_rotation::wake::Wake;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::context::Context;
use crate::metrics::WakeResult;
use crate::outage::Outage;
use crate::pods::Woken;

/// Capacity for keys whose pods are still to be woken: the pods of one that does not fit wait for their kubelet.
const WAKES: usize = 1_024;

/// Maximum number of namespaces whose pods are woken at once, so that one with many does not delay another.
const NAMESPACES_AT_ONCE: usize = 8;

/// Maximum number of pods of one key that are woken at once.
const PODS_AT_ONCE: usize = 4;

/// Time for the kubelet's own watch to show it the Secret: looking too early, it would wait all the same.
const WATCH_LAG: Duration = Duration::from_millis(100);

pub(super) type Wakes = mpsc::Sender<Wake>;

/// Returns a queue for wakes, and its end for [`run`].
pub(super) fn queue() -> (Wakes, mpsc::Receiver<Wake>) {
    mpsc::channel(WAKES)
}

/// Wakes pods until `shutdown`, and leaves the rest to their kubelets: nothing waits for an API server that does not answer.
pub(super) async fn run(
    context: Arc<Context>,
    wakes: mpsc::Receiver<Wake>,
    shutdown: CancellationToken,
) {
    tokio::select! {
        () = wake_all(context, wakes) => {}
        () = shutdown.cancelled() => {}
    }
}

async fn wake_all(context: Arc<Context>, mut wakes: mpsc::Receiver<Wake>) {
    let outage = Mutex::new(Outage::default());
    let wakes = stream::poll_fn(move |waiting| wakes.poll_recv(waiting));
    wakes
        .for_each_concurrent(NAMESPACES_AT_ONCE, async |wake| {
            let clock = &context.clock;
            clock.sleep_until(after(clock.now(), WATCH_LAG)).await;
            let Wake { namespace, pods } = wake;
            let woken = pods
                .iter()
                .map(|pod| one(&context, &namespace, pod, &outage));
            stream::iter(woken)
                .for_each_concurrent(PODS_AT_ONCE, async |woken| woken.await)
                .await;
        })
        .await;
}

async fn one(context: &Context, namespace: &str, pod: &PodRef, outage: &Mutex<Outage>) {
    let name = &*pod.name;
    let now = context.clock.now();
    let woken = context.pods.wake(namespace, name, pod.uid, now).await;
    context.metrics.rotation.count_wake(match &woken {
        Woken::Yes => WakeResult::Woken,
        Woken::Gone => WakeResult::Gone,
        Woken::Unfenced => WakeResult::Unfenced,
        Woken::No(_) => WakeResult::Refused,
    });
    let mut outage = outage.lock().unwrap_or_else(PoisonError::into_inner);
    match woken {
        Woken::Yes => {
            debug!(namespace, pod = name, "Woke pod that waited for its key");
            if outage.recovered().is_some() {
                info!("Waking pods succeeded again");
            }
        }
        Woken::Gone => {}
        Woken::Unfenced => debug!(
            namespace,
            pod = name,
            "Not waking pod: the policy on pods is not known to hold"
        ),
        Woken::No(error) if outage.failed() => warn!(
            namespace,
            pod = name,
            error,
            "Failed to wake a pod that waits for its key: its kubelet finds the key after up to 16 seconds. Allow Sidescale to \
             annotate pods, or set rotation.wakePods to false"
        ),
        Woken::No(error) => debug!(namespace, pod = name, error, "Still failing to wake pods"),
    }
}
