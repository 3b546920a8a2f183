//! Writes intents, creates their keys and puts them in force; a job that comes too late expires its key. I/O.

use std::collections::VecDeque;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};
use jiff::Timestamp;
use sidescale_core::fingerprint::fingerprint;
use sidescale_core::key_state::KeyState;
use sidescale_core::objects::MintedKey;
use sidescale_core::problem::Problem;
use sidescale_core::secret::StoredSecret;
use sidescale_core::time::after;
use sidescale_rotation::budget::Budget;
use sidescale_rotation::outcome::CreatedKey;
use sidescale_rotation::owner::ServiceOwner;
use sidescale_rotation::plan::{Blocked, KeyReason, Ownership, Step};
use sidescale_rotation::record::{Abandoned, DatedKey, Intent, IssuedKey, KeyRecord, Record};
use tracing::info;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::Reconciler;
use crate::controller::session::Session;
use crate::metrics::RotationResult;
use crate::store::StoreError;

/// Maximum number of keys of one job that are created at a time.
const INTENTS_AT_ONCE: usize = 8;

/// Delay before creating a key again that another writer prevented from being written.
const RACE_AGAIN: Duration = Duration::from_secs(1);

/// The result of following an intent.
type IntentOutcome = (
    Result<MintedKey, Problem>,
    String,
    Intent,
    KeyReason,
    Arc<Session>,
);

/// Results of intents that are still running.
type IntentOutcomes = FuturesUnordered<BoxFuture<'static, IntentOutcome>>;

/// A created key that is still to be written.
struct Created {
    minted: MintedKey,
    data_key: String,
    intent: Intent,
    why: KeyReason,
    plane: Arc<Session>,
    created: Timestamp,
    replaced: Option<DatedKey>,
}

impl Created {
    fn put_in_force(&mut self, key: &mut KeyRecord, now: Timestamp, overlap: Duration) {
        self.created = now;
        self.replaced = key.current.as_ref().map(IssuedKey::dated);
        if let KeyReason::Lost | KeyReason::NotOwned = self.why {
            // There is no key of ours to expire: in a new database, its id belongs to another key.
            key.current = None;
        }
        key.issue(&self.minted.key, &self.intent, now, overlap);
    }
}

impl Reconciler<'_> {
    /// Writes intents for the keys that are about to be created.
    pub(super) async fn intend(
        &mut self,
        secret: StoredSecret,
        mut record: Record,
        steps: Vec<Step>,
    ) -> Result<Option<StoredSecret>, StoreError> {
        let now = self.context.clock.now();
        let mut ops = Vec::new();
        for step in steps {
            let Step::Intend { data_key, why: _ } = step else {
                continue;
            };
            let Some(demand) = self.task.demand.get(&data_key) else {
                continue;
            };
            let Some(plane) = self.task.planes.get(&demand.control_plane).cloned() else {
                continue;
            };
            // Nothing is written for a user that Sidescale may not use.
            let owner = ServiceOwner::new(&self.task.secret.namespace, &demand.service);
            if let Err(problem) = plane.check_user(&demand.asked.user, &owner).await {
                self.fail(data_key, &record, problem);
                continue;
            }
            if let Err(problem) = self.allow(&plane, &owner, now) {
                self.fail(data_key, &record, problem);
                continue;
            }
            let op = Uuid::new_v4();
            let intent = Intent {
                op: op.simple().to_string(),
                writer: self.task.process.writer.clone(),
                started_at: now,
                expires: fingerprint(now, demand.expiration, op.as_u64_pair().1),
                asked: demand.asked.clone(),
            };
            ops.push(intent.op.clone());
            let key = record.keys.entry(data_key);
            let key = key.or_insert_with(|| KeyRecord::new(&demand.service, &demand.control_plane));
            key.intend(intent, now);
        }
        if ops.is_empty() {
            return Ok(Some(secret));
        }
        let follow = ops.iter().cloned();
        self.task.beside.follow(self.task.number, follow);
        let written = self.write(secret, &record).await?;
        self.task.process.live.extend(ops);
        Ok(Some(written))
    }

    /// Creates the keys of written intents, and puts each in force when it is ready: a slow one does not delay the others.
    pub(super) async fn create(
        &mut self,
        secret: StoredSecret,
        record: Record,
        steps: Vec<Step>,
    ) -> Result<Option<StoredSecret>, StoreError> {
        let is_mint = |step: &Step| matches!(step, Step::Create { .. });
        let mut steps: VecDeque<_> = steps.into_iter().filter(is_mint).collect();
        let (mut answers, mut known) = (IntentOutcomes::new(), Some(secret));
        let problems = self.problems();
        self.create_one(&mut steps, &mut answers);
        while let Some(made) = self.created(&mut answers, &record).await {
            // A failed call may have taken long, so the Secret is read again.
            known = match made.is_empty() {
                true => None,
                false => self.put_in_force(known, made).await?,
            };
            // Create all keys of this plan: the next plan has no list that shows why they are needed.
            if self.problems() == problems {
                self.create_one(&mut steps, &mut answers);
            }
        }
        self.unmade |= self.problems() != problems || !steps.is_empty();
        Ok(known)
    }

    /// Returns how many problems there were so far.
    fn problems(&self) -> usize {
        self.outcome.failed.len() + self.outcome.undone.len()
    }

    /// Writes created keys.
    async fn put_in_force(
        &mut self,
        known: Option<StoredSecret>,
        mut made: Vec<Created>,
    ) -> Result<Option<StoredSecret>, StoreError> {
        let mut secret = match known {
            Some(secret) => secret,
            None => self.read().await?,
        };
        let (mut ownership, mut record) = self.owned(&secret);
        loop {
            // The client retries by itself: the conflict may be with our own write whose answer was lost.
            let in_force = |made: &Created| {
                let key = record.keys.get(&made.data_key);
                key.is_some_and(|key| key.holds(made.minted.key.id, made.intent.expires))
            };
            let (written, left): (Vec<_>, Vec<_>) = made.into_iter().partition(in_force);
            self.succeed(written);
            // Another writer may have changed something else: keys that are still wanted are written again.
            let wanted = |made: &Created| {
                let intent = record
                    .keys
                    .get(&made.data_key)
                    .and_then(|key| key.intent.as_ref());
                ownership == Ownership::Ours && intent == Some(&made.intent)
            };
            let (kept, lost): (Vec<_>, Vec<_>) = left.into_iter().partition(wanted);
            for lost in lost {
                self.lose(lost, &record).await;
            }
            made = kept;
            if made.is_empty() {
                return Ok(None);
            }
            self.fill(&mut secret, &mut record, &mut made);
            match self.write(secret, &record).await {
                Ok(written) => {
                    self.succeed(made);
                    return Ok(Some(written));
                }
                Err(StoreError::Conflict { .. }) => {}
                // Whether it was written is unknown: the intent or the key in force will tell.
                Err(error) => return Err(error),
            }
            secret = self.read().await?;
            (ownership, record) = self.owned(&secret);
        }
    }

    /// Puts keys and their records into the Secret that is about to be written.
    fn fill(&self, secret: &mut StoredSecret, record: &mut Record, made: &mut [Created]) {
        let now = self.context.clock.now();
        let (requests, overlap) = (self.requests(secret), self.overlap());
        for made in made {
            let Some(key) = record.keys.get_mut(&made.data_key) else {
                continue;
            };
            let request = requests.open(&made.data_key, key);
            made.put_in_force(key, now, overlap);
            if request.is_some_and(|request| request.revoke) {
                key.revoke_previous(now);
            }
            let value = Zeroizing::new(made.minted.value.expose().as_bytes().to_vec());
            secret.data.insert(made.data_key.clone(), value);
        }
    }

    /// Starts creating more keys, a few at a time. The demand of pods decides control plane and owner, not the record.
    fn create_one(&self, steps: &mut VecDeque<Step>, answers: &mut IntentOutcomes) {
        while answers.len() < INTENTS_AT_ONCE {
            let Some(step) = steps.pop_front() else {
                return;
            };
            let Step::Create {
                data_key,
                intent,
                why,
            } = step
            else {
                continue;
            };
            let Some(demand) = self.task.demand.get(&data_key) else {
                continue;
            };
            let Some(plane) = self.task.planes.get(&demand.control_plane).cloned() else {
                continue;
            };
            let owner = ServiceOwner::new(&self.task.secret.namespace, &demand.service);
            answers.push(Box::pin(async move {
                let minted = plane.create_key(&intent, &owner).await;
                (minted, data_key, intent, why, plane)
            }));
        }
    }

    /// Waits for the next key, and for those close behind it: one write covers all. None: no more keys come.
    async fn created(
        &mut self,
        answers: &mut IntentOutcomes,
        record: &Record,
    ) -> Option<Vec<Created>> {
        let mut next = answers.next().await;
        next.as_ref()?;
        let mut made = Vec::new();
        while let Some((minted, data_key, intent, why, plane)) = next {
            self.task.process.live.remove(&intent.op);
            match minted {
                Ok(minted) => made.push(Created {
                    minted,
                    data_key,
                    intent,
                    why,
                    plane,
                    created: self.context.clock.now(),
                    replaced: None,
                }),
                Err(problem) => {
                    self.give_back(&data_key);
                    self.fail(data_key, record, problem);
                }
            }
            next = self.close_behind(answers).await;
        }
        Some(made)
    }

    async fn close_behind(&self, answers: &mut IntentOutcomes) -> Option<IntentOutcome> {
        let wait = self.context.close_behind;
        if wait.is_zero() {
            return answers.next().now_or_never().flatten();
        }
        let next = tokio::time::timeout(wait, answers.next()).await;
        next.ok().flatten()
    }

    fn succeed(&mut self, made: Vec<Created>) {
        for Created {
            minted,
            data_key,
            intent,
            why,
            plane,
            created,
            replaced,
        } in made
        {
            let result = if why == KeyReason::First {
                RotationResult::Minted
            } else {
                RotationResult::Renewed
            };
            self.context.metrics.rotation.count(result);
            let (id, user) = (minted.key.id, &intent.asked.user);
            info!(
                secret = %self.task.secret, data_key, key_id = %id.0, op = intent.op, user,
                why = why.as_str(), expires = %intent.expires, "Wrote key"
            );
            self.task.process.held.remove(&data_key);
            self.outcome.minted.push(CreatedKey {
                data_key,
                control_plane: plane.name().to_owned(),
                id,
                created,
                replaced,
                why,
            });
        }
    }

    /// Takes the cost of one key from the namespace's budget.
    fn allow(&self, plane: &Session, owner: &ServiceOwner, now: Timestamp) -> Result<(), Problem> {
        plane.check_rows(&owner.namespace)?;
        let rotation = &self.context.policy.rotation;
        let of_pods = self.of_pods();
        let mut budget = self.budget();
        let until = match budget.take(now, owner, of_pods, rotation) {
            Ok(()) => return Ok(()),
            Err(until) => until,
        };
        let rules = if of_pods {
            "rotation.podKeysPerNamespace"
        } else {
            "rotation.keysPerService and rotation.newKeysPerNamespace"
        };
        Err(Problem {
            state: KeyState::Throttled,
            message: format!(
                "service {owner} has used all keys that {rules} allow; the next one can be created at {until:.0}: find out \
                 what changes its pods or its Secret so often, or raise the limit"
            ),
            of_plane: false,
        })
    }

    /// Gives the cost of a key that was not created back to the budget.
    fn give_back(&self, data_key: &str) {
        if let Some(demand) = self.task.demand.get(data_key) {
            let owner = ServiceOwner::new(&self.task.secret.namespace, &demand.service);
            let rotation = &self.context.policy.rotation;
            self.budget().give_back(&owner, self.of_pods(), rotation);
        }
    }

    fn budget(&self) -> MutexGuard<'_, Budget> {
        self.task
            .budget
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn fail(&mut self, data_key: String, record: &Record, problem: Problem) {
        self.context.metrics.rotation.count(RotationResult::Failed);
        if let Some(key) = record.keys.get(&data_key) {
            self.recheck(&key.control_plane, &problem);
        }
        self.task.process.held.insert(
            data_key.clone(),
            Blocked {
                state: problem.state,
                until: None,
            },
        );
        self.outcome.failed.insert(data_key, problem);
    }

    /// Expires a key that this process created too late.
    async fn lose(&mut self, lost: Created, record: &Record) {
        let Created {
            minted,
            data_key,
            intent,
            why: _,
            plane,
            created: _,
            replaced,
        } = lost;
        self.context
            .metrics
            .rotation
            .count(RotationResult::LostRace);
        let id = minted.key.id;
        info!(secret = %self.task.secret, data_key, key_id = %id.0, op = intent.op, "Lost a write race: expiring the new key");
        // A process of ours would have left its own intent, abandoned this one, or written a newer key.
        let ours = record.keys.get(&data_key).is_some_and(|key| {
            let current = key.current.as_ref().map(IssuedKey::dated);
            let newer = current.is_some_and(|current| {
                replaced.is_none_or(|replaced| current.is_newer_than(replaced))
            });
            let given_up = |lost: &Abandoned| lost.intent.op == intent.op;
            newer || key.intent.is_some() || key.abandoned.iter().any(given_up)
        });
        if !ours {
            self.contended(&data_key);
        }
        if let Err(problem) = plane.expire(id).await {
            self.fail(data_key, record, problem);
        }
    }
    /// Records that another writer undid a key before it was written.
    fn contended(&mut self, data_key: &str) {
        self.outcome.undone.push(data_key.to_owned());
        let held = Blocked {
            state: KeyState::Degraded,
            until: Some(after(self.context.clock.now(), RACE_AGAIN)),
        };
        self.task.process.held.insert(data_key.to_owned(), held);
    }
}
