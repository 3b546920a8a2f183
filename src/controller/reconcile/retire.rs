//! Expires old keys, and removes them from the record. I/O.

use std::collections::BTreeSet;

use jiff::Timestamp;
use sidescale_core::id::KeyId;
use sidescale_core::key_state::KeyState;
use sidescale_core::problem::Problem;
use sidescale_core::secret::{SecretRef, StoredSecret};
use sidescale_rotation::outcome::Unended;
use sidescale_rotation::owner::{KeyClaim, ServiceOwner};
use sidescale_rotation::plan::{Claimed, ExpireReason, Step};
use sidescale_rotation::record::{KeyRecord, Origin, Record};
use tracing::{debug, info};

use super::Reconciler;
use crate::cluster::chain;
use crate::controller::session::Session;
use crate::metrics::RotationResult;
use crate::store::StoreError;

/// Maximum number of old keys that one job expires, so that new pods of the namespace need not wait for long.
const RETIRED_AT_ONCE: usize = 5;

impl Reconciler<'_> {
    /// Takes over keys that a person put in the place of ours.
    pub(super) async fn adopt(
        &self,
        secret: StoredSecret,
        mut record: Record,
        steps: Vec<Step>,
    ) -> Result<StoredSecret, StoreError> {
        let now = self.context.clock.now();
        let overlap = self.context.policy.rotation.overlap;
        for step in steps {
            let Step::Adopt { data_key, key } = step else {
                continue;
            };
            let Some(demand) = self.task.demand.get(&data_key) else {
                continue;
            };
            let (key_id, expires) = (key.id.0, key.expires);
            let plane = self.task.planes.get(&demand.control_plane);
            if let (Origin::Foreign, Some(plane)) = (key.origin, plane) {
                plane.note_foreign_key([(key.id, self.task.secret.namespace.clone())]);
            }
            info!(secret = %self.task.secret, data_key, %key_id, %expires, "Adopted a manually added key");
            let known = record.keys.entry(data_key);
            let known =
                known.or_insert_with(|| KeyRecord::new(&demand.service, &demand.control_plane));
            known.adopt(key, now, overlap);
        }
        self.write(secret, &record).await
    }

    /// Expires old keys, and does the steps that change only the Secret.
    pub(super) async fn retire(
        &mut self,
        mut secret: StoredSecret,
        mut record: Record,
        steps: Vec<Step>,
    ) -> Result<(), StoreError> {
        let before = record.clone();
        let mut left = RETIRED_AT_ONCE;
        let mut stuck = false;
        let expires = |step: &Step| matches!(step, Step::Expire { .. });
        let elsewhere = if steps.iter().any(expires) {
            self.elsewhere().await
        } else {
            Elsewhere::default()
        };
        for step in steps {
            let Step::Expire {
                data_key,
                control_plane,
                id,
                expires,
                why,
            } = step
            else {
                // One write covers all of these.
                self.note(step, &mut record, &mut secret);
                continue;
            };
            let Some(plane) = self.task.planes.get(&control_plane).cloned() else {
                continue;
            };
            let judged = self.judge(&plane, &record, (&*data_key, id, expires)).await;
            if let Ok(false) = judged {
                // One listing decides for all keys: a key that is another owner's or has expired costs no call.
                self.outcome.again |= forget(&mut record, &data_key, id);
                continue;
            }
            if left == 0 {
                // Another job does the rest: this one must not delay new pods.
                self.outcome.again |= !stuck;
                continue;
            }
            left -= 1;
            // Read again just before: a key in force in any Secret of the namespace is never expired.
            let SecretRef { namespace, name } = &self.task.secret;
            let fresh = self.context.store.read(namespace, name).await?;
            if fresh.and_then(|fresh| fresh.revision) != secret.revision {
                self.outcome.again = true;
                return Ok(());
            }
            let unended = match (judged, elsewhere.hold(&control_plane, id)) {
                (Err(problem), _) => Some((problem, false)),
                (Ok(_), Err(problem)) => Some((problem, true)),
                (Ok(_), Ok(true)) => None,
                (Ok(_), Ok(false)) => {
                    let expired = self.expire(&plane, &data_key, id, why).await;
                    expired.err().map(|problem| (problem, true))
                }
            };
            if let Some((problem, owned)) = unended {
                self.recheck(&control_plane, &problem);
                let unended = Unended { id, problem, owned };
                self.outcome.unended.insert(data_key, unended);
                stuck = true;
                continue;
            }
            self.outcome.again |= forget(&mut record, &data_key, id);
        }
        if record != before {
            self.write(secret, &record).await?;
        }
        Ok(())
    }

    /// Does a step that changes only the Secret.
    fn note(&mut self, step: Step, record: &mut Record, secret: &mut StoredSecret) {
        let now = self.context.clock.now();
        let (own, overlap) = (self.of_pods(), self.overlap());
        let name = &self.task.secret;
        let mut of = |data_key: &str, change: &dyn Fn(&mut KeyRecord)| {
            if let Some(key) = record.keys.get_mut(data_key) {
                change(key);
            }
        };
        match step {
            Step::BringBack { data_key } => of(&data_key, &|key| key.bring_back(now, overlap)),
            Step::ForgetPrevious { data_key, id } => {
                self.outcome.again |= forget(record, &data_key, id);
            }
            Step::ForgetAbandoned { data_key, op } => of(&data_key, &|key| {
                key.abandoned.retain(|abandoned| abandoned.intent.op != op);
            }),
            Step::GiveUp { data_key } => of(&data_key, &|key| key.give_up(now)),
            Step::NoteJoined { data_key, id } => of(&data_key, &|key| key.joined_with = Some(id)),
            Step::NoteUse {
                data_key,
                unused_since,
            } => of(&data_key, &|key| key.unused_since = unused_since),
            Step::Retire { data_key } if own => {
                of(&data_key, &|key| key.retire_own(now));
                secret.data.remove(&data_key);
                self.outcome.again = true;
                info!(secret = %name, data_key, "Removed the key of a deleted pod from its Secret");
            }
            Step::Retire { data_key } => {
                // A pod that has just read it may still join within the overlap.
                of(&data_key, &|key| key.retire(now, overlap));
                secret.data.remove(&data_key);
                self.outcome.again = true;
                info!(secret = %name, data_key, "Removed an unused key from its Secret");
            }
            Step::Forget { data_key } => {
                record.keys.remove(&data_key);
            }
            Step::TakeOver => {
                record.take_over();
                info!(secret = %name, "Took over a Secret of a previous namespace of the same name");
            }
            Step::Adopt { .. }
            | Step::Expire { .. }
            | Step::Intend { .. }
            | Step::Create { .. } => {}
        }
    }

    /// Asks the control plane whether a key is what the record says; otherwise it is forgotten.
    async fn judge(
        &self,
        plane: &Session,
        record: &Record,
        (data_key, id, expires): (&str, KeyId, Timestamp),
    ) -> Result<bool, Problem> {
        let Some(key) = record.keys.get(data_key) else {
            return Ok(false);
        };
        let secret = &self.task.secret;
        let owner = ServiceOwner::new(&secret.namespace, &key.service);
        let claim = KeyClaim {
            owner: &owner,
            id,
            expires,
        };
        let key_id = id.0;
        Ok(
            match plane
                .judge(&claim, self.read_at, self.context.clock.now())
                .await?
            {
                Claimed::Owned => true,
                Claimed::NotListed => {
                    debug!(%secret, data_key, %key_id, "Old key skipped: no longer listed");
                    false
                }
                // Expired by hand, its id reassigned after a restore, or written into the record by an editor of the Secret.
                Claimed::NotOwned => {
                    debug!(%secret, data_key, %key_id, "Old key skipped: owned by another or already expired");
                    false
                }
            },
        )
    }

    async fn expire(
        &self,
        plane: &Session,
        data_key: &str,
        id: KeyId,
        why: ExpireReason,
    ) -> Result<(), Problem> {
        plane.expire(id).await?;
        self.context.metrics.rotation.count(RotationResult::Expired);
        let (secret, key_id) = (&self.task.secret, id.0);
        info!(%secret, data_key, %key_id, why = why.as_str(), "Expired old key");
        Ok(())
    }

    /// Reads the keys in force in the other Secrets of keys of this namespace.
    async fn elsewhere(&self) -> Elsewhere {
        let SecretRef { namespace, name } = &self.task.secret;
        let mut keys = BTreeSet::new();
        let names = self.context.policy.auth_key_secrets().into_iter();
        for other in names.filter(|other| other != name) {
            let read = self.context.store.read(namespace, other).await;
            let record = match read {
                Ok(secret) => secret.as_ref().map(Record::named),
                Err(error) => return Elsewhere(Err(chain(&error))),
            };
            match record {
                Some(Ok(record)) => {
                    let in_force = record.in_force().into_iter();
                    keys.extend(in_force.map(|(plane, id)| (plane.to_owned(), id)));
                }
                Some(Err(error)) => return Elsewhere(Err(error)),
                None => {}
            }
        }
        Elsewhere(Ok(keys))
    }
}

/// The keys in force in other Secrets of a namespace, or why they are unknown.
struct Elsewhere(Result<BTreeSet<(String, KeyId)>, String>);

impl Default for Elsewhere {
    fn default() -> Self {
        Self(Ok(BTreeSet::new()))
    }
}

impl Elsewhere {
    /// Returns whether the key is in force there.
    fn hold(&self, control_plane: &str, id: KeyId) -> Result<bool, Problem> {
        match &self.0 {
            Ok(keys) => Ok(keys.contains(&(control_plane.to_owned(), id))),
            Err(message) => Err(Problem {
                state: KeyState::Degraded,
                message: format!("Sidescale expires no keys of this namespace for now: {message}"),
                of_plane: false,
            }),
        }
    }
}

/// Deletes an old key from the record; returns whether the entry is empty now, so that the next job deletes it.
fn forget(record: &mut Record, data_key: &str, id: KeyId) -> bool {
    let Some(key) = record.keys.get_mut(data_key) else {
        return false;
    };
    let before = key.previous.len();
    key.previous.retain(|previous| previous.id != id);
    key.previous.len() < before && key.is_empty()
}
