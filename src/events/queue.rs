//! Events on their way to the API server: a bounded queue, and the task that empties it. I/O.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, Recorder, Reporter};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::cluster;
use crate::metrics::{Dropped, Metrics};

/// Time limit of one call.
const DEADLINE: Duration = Duration::from_secs(5);

/// How long the queue may be emptied after the shutdown began.
const GRACE: Duration = Duration::from_secs(2);

/// Maximum queued alerts about expiring keys and control planes: one for each of two Secrets in a thousand namespaces,
/// the number that an unavailable control plane causes at once. At 2 KB each that is 4 MB.
const MOST_URGENT: usize = 2_048;

/// Maximum queued Events of all other kinds: the whole budgets of sixteen namespaces, which an API server that answers
/// within 10 ms takes in five seconds.
const MOST_OTHERS: usize = 512;

/// An Event, and its object.
pub(super) type QueuedEvent = Box<(Event, ObjectReference)>;

/// The sending end of the queue; clones share one queue.
#[derive(Clone, Debug)]
pub(super) struct EventQueue {
    urgent: mpsc::Sender<QueuedEvent>,
    others: mpsc::Sender<QueuedEvent>,
    overflow: Arc<Overflow>,
}

/// Events that found the queue full since it was last empty.
#[derive(Debug)]
struct Overflow {
    dropped: AtomicUsize,
    metrics: Arc<Metrics>,
}

/// Sends the queued Events to the API server, alerts about expiring keys and control planes first.
pub struct Publisher {
    client: Client,
    reporter: Reporter,
    urgent: mpsc::Receiver<QueuedEvent>,
    others: mpsc::Receiver<QueuedEvent>,
    overflow: Arc<Overflow>,
}

impl std::fmt::Debug for Publisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Publisher")
    }
}

impl EventQueue {
    pub(super) fn new(
        client: Client,
        reporter: Reporter,
        metrics: Arc<Metrics>,
    ) -> (Self, Publisher) {
        let (urgent, urgent_out) = mpsc::channel(MOST_URGENT);
        let (others, others_out) = mpsc::channel(MOST_OTHERS);
        let overflow = Arc::new(Overflow {
            dropped: AtomicUsize::new(0),
            metrics,
        });
        let publisher = Publisher {
            client,
            reporter,
            urgent: urgent_out,
            others: others_out,
            overflow: Arc::clone(&overflow),
        };
        let queue = Self {
            urgent,
            others,
            overflow,
        };
        (queue, publisher)
    }

    /// Queues an Event; returns whether there was room for it.
    pub(super) fn push(&self, item: QueuedEvent, urgent: bool) -> bool {
        let queue = if urgent { &self.urgent } else { &self.others };
        match queue.try_send(item) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.overflow.full(queue.max_capacity());
                false
            }
            // The process is stopping.
            Err(mpsc::error::TrySendError::Closed(_)) => {
                self.overflow.metrics.events.dropped(Dropped::Stopped, 1);
                false
            }
        }
    }
}

impl Overflow {
    fn full(&self, waiting: usize) {
        self.metrics.events.dropped(Dropped::QueueFull, 1);
        if self.dropped.fetch_add(1, Ordering::Relaxed) == 0 {
            warn!(
                waiting,
                "Event queue full, dropping Events: the API server is too slow; metrics and logs continue"
            );
        }
    }

    fn over(&self) {
        let dropped = self.dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            info!(dropped, "Event queue drained, publishing Events again");
        }
    }
}

impl Publisher {
    /// Publishes until all senders are dropped, or for a moment after `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let overflow = Arc::clone(&self.overflow);
        {
            let work = self.work();
            tokio::pin!(work);
            tokio::select! {
                () = &mut work => return,
                () = shutdown.cancelled() => {}
            }
            if tokio::time::timeout(GRACE, &mut work).await.is_ok() {
                return;
            }
        }
        let waiting = self.urgent.len() + self.others.len();
        if waiting > 0 {
            overflow.metrics.events.dropped(Dropped::Stopped, waiting);
            debug!(waiting, "Shutdown before all Events were published");
        }
    }

    async fn work(&mut self) {
        while let Some(item) = self.next().await {
            self.publish(&item.0, &item.1).await;
        }
    }

    /// Returns the next queued Event, alerts about expiring keys and control planes first; `None` once all senders are
    /// dropped.
    async fn next(&mut self) -> Option<QueuedEvent> {
        if self.urgent.is_empty() && self.others.is_empty() {
            self.overflow.over();
        }
        tokio::select! {
            biased;
            Some(item) = self.urgent.recv() => Some(item),
            Some(item) = self.others.recv() => Some(item),
            else => None,
        }
    }

    async fn publish(&self, event: &Event, about: &ObjectReference) {
        // A long-lived recorder would count a second note as a repetition of the first. Real repetitions do not get
        // here.
        let recorder = Recorder::new(self.client.clone(), self.reporter.clone());
        let Err(error) = cluster::within(DEADLINE, recorder.publish(event, about)).await else {
            return;
        };
        let error = cluster::chain(&error);
        self.overflow.metrics.events.dropped(Dropped::Failed, 1);
        let (namespace, object) = (about.namespace.as_deref(), about.name.as_deref());
        let reason = &*event.reason;
        debug!(namespace, object, reason, error, "Failed to publish Event");
    }
}

#[cfg(test)]
mod tests;
