//! Keeps what came of the jobs, tells it, and says when to look again. I/O.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tracing::{debug, info, warn};

use super::pass::Pass;
use super::{Done, Loop, PASS_GAP, rotated};
use crate::clock::after;
use crate::rotation::demand::SecretRef;
use crate::rotation::known::Next;
use crate::rotation::outcome::Outcome;
use crate::rotation::queue::Class;
use crate::rotation::settle::Snapshot;

/// A pass that failed is tried again after this long.
const PASS_RETRY: Duration = Duration::from_secs(60);

impl Loop {
    /// Takes in what came of a job. It waits for nothing, and neither does the loop.
    pub(in crate::rotation) fn absorb(&mut self, done: Done) {
        let now = self.context.clock.now();
        match done {
            Done::Settled(secret, number, outcome) => {
                self.queue.done(&secret, number);
                self.settled(secret, *outcome, now);
            }
            Done::Connected(name, connected) => {
                if self.planes.connected(&name, *connected, now) {
                    self.pass_at = self.pass_at.min(after(now, PASS_GAP));
                }
                // Also after a failure: the states of the keys, and their Events, change with it.
                self.wake_users_of(&name, now);
            }
            Done::Looked(looked) => {
                if looked.renewed {
                    // Its client still has the old key.
                    self.planes.suspect(&looked.name, now);
                }
                self.api_keys.looked(*looked, now);
            }
            Done::Passed(passed) => {
                self.passing = false;
                self.passed_at = now;
                // One may have been wished for meanwhile.
                self.pass_at = self.pass_at.max(after(now, PASS_GAP));
                self.passed(*passed, now);
            }
        }
    }

    fn settled(&mut self, secret: SecretRef, outcome: Outcome, now: Timestamp) {
        for (name, trouble) in &outcome.suspects {
            debug!(
                control_plane = name,
                trouble = trouble.message,
                "Asking how the control plane does"
            );
            self.planes.suspect(name, now);
        }
        let times = [
            (Class::Renewal, outcome.plan.renew_at),
            (Class::Cleanup, outcome.plan.cleanup_at),
            (Class::New, outcome.again.then_some(now)),
        ];
        for (class, at) in times {
            if let Some(at) = at {
                self.queue.want(&secret, class, at);
            }
        }
        if let Some(at) = outcome.plan.confirm_at {
            self.pass_at = self.pass_at.min(at.max(after(now, PASS_GAP)));
        }
        let demand = self.demand(&secret);
        let namespace = self.demands.namespaces.get(secret.namespace.as_str());
        let overlap = self.context.policy.rotation.overlap;
        let rotated = namespace
            .map(|namespace| rotated::notices(&secret, &outcome, &namespace.users, overlap));
        let known = self.secrets.entry(secret.clone()).or_default();
        let Next { retry, confirm } = known.absorb(&secret, outcome, now, &self.context.events);
        if let Some(at) = retry {
            self.queue.want(&secret, Class::Renewal, at);
        }
        if confirm {
            self.pass_at = self.pass_at.min(after(now, PASS_GAP));
        }
        self.kept.set(&secret, known.kept(now));
        self.standings.set(&secret, known.standings());
        let planes = &self.planes;
        let of_plane = |data_key: &str| {
            let demand = demand.get(data_key)?;
            planes.trouble(&demand.control_plane).flatten()
        };
        let told = known.notices(&secret, of_plane);
        for notice in told.iter().chain(rotated.iter().flatten()) {
            self.context.events.publish(notice);
        }
        self.watch_endings(&secret, now);
    }

    fn passed(&mut self, passed: Pass, now: Timestamp) {
        let Pass {
            read_at,
            secrets,
            issued,
            suspects,
        } = passed;
        for name in suspects.keys() {
            self.planes.suspect(name, now);
        }
        let issued = Arc::new(issued);
        let secrets = match secrets {
            Ok(secrets) => {
                if self.pass_outage.recovered().is_some() {
                    info!("Secrets can be listed again");
                }
                secrets
            }
            Err(trouble) => {
                let trouble = trouble.message;
                if self.pass_outage.failed() {
                    warn!(
                        trouble,
                        "Secrets cannot be listed: old keys are not ended, and it is tried again every minute"
                    );
                } else {
                    debug!(trouble, "Secrets still cannot be listed");
                }
                self.pass_at = self.pass_at.min(after(now, PASS_RETRY));
                return;
            }
        };
        for (name, seen) in secrets {
            let snapshot = Snapshot {
                seen,
                issued: Arc::clone(&issued),
                read_at,
            };
            self.secrets.entry(name.clone()).or_default().snapshot = Some(snapshot);
            self.queue.want(&name, Class::Cleanup, now);
        }
    }

    fn wake_users_of(&mut self, plane: &str, now: Timestamp) {
        for (namespace, demand) in &self.demands.namespaces {
            for (name, keys) in &demand.secrets {
                if keys.values().any(|key| key.control_plane == plane) {
                    self.queue
                        .want(&SecretRef::new(namespace, name), Class::New, now);
                }
            }
        }
    }
}
