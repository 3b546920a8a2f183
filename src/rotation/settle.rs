//! One job on one Secret: reads, plans, does the steps, until nothing is left to do now. I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::future::join_all;
use jiff::Timestamp;
use tracing::{debug, info};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::demand::{KeyDemand, SecretRef};
use super::plan::{Held, Issued, Ownership, Plan, Process, Step, View, Why, plan};
use super::plane::{Plane, Trouble};
use super::private_ca;
use super::queue::Class;
use super::record::{DATA_KEY, Intent, KeyRecord, Record, fingerprint};
use super::run::Context;
use super::state::State;
use crate::control_plane::MintedKey;
use crate::metrics::RotationResult;
use crate::store::{MANAGED_BY, StoreError, StoredSecret};

/// Bounds one job: enough for a full namespace of new services, eight at a time.
const ROUNDS: usize = 64;

/// First mints run this many at a time.
const MINTS_AT_ONCE: usize = 8;

/// Old keys are ended this many at a time, so that new pods of the namespace need not wait for long.
const TIDIED_AT_ONCE: usize = 5;

const ADOPT: &str = "sidescale.io/adopt";
const PAUSED: &str = "sidescale.io/paused";

/// A Secret, and what the control planes held when it was listed after it.
pub(super) type Snapshot = (StoredSecret, Arc<BTreeMap<String, Issued>>);

/// What a job works on.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) secret: SecretRef,
    pub(super) class: Class,
    pub(super) demand: BTreeMap<String, KeyDemand>,
    pub(super) synced: bool,
    pub(super) planes: BTreeMap<String, Arc<Plane>>,
    pub(super) process: Process,
    /// The Secret, read before what the control planes hold was listed.
    pub(super) snapshot: Option<Snapshot>,
}

/// What a job has found and done.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// The last plan: states and times.
    pub(super) plan: Plan,
    /// Keys that could not be made.
    pub(super) failed: BTreeMap<String, Trouble>,
    /// Keys that were made.
    pub(super) minted: Vec<Minted>,
    /// The trouble of the whole Secret.
    pub(super) trouble: Option<Trouble>,
    /// Control planes to ask how they do.
    pub(super) suspects: BTreeMap<String, Trouble>,
    /// When the keys end.
    pub(super) expiries: BTreeMap<String, Timestamp>,
    /// Whether there is more to do at once.
    pub(super) again: bool,
}

/// A key that was made and written.
#[derive(Debug)]
pub(super) struct Minted {
    pub(super) data_key: String,
    pub(super) created: Timestamp,
    /// When the key that it replaced was made.
    pub(super) replaced: Option<Timestamp>,
}

struct Job<'a> {
    context: &'a Context,
    task: Task,
    outcome: Outcome,
    /// The one renewal of this job.
    renewing: Option<String>,
}

/// Works on one Secret.
pub(super) async fn settle(context: &Context, task: Task) -> (SecretRef, Outcome) {
    let secret = task.secret.clone();
    let mut job = Job {
        context,
        task,
        outcome: Outcome::default(),
        renewing: None,
    };
    if let Err(error) = job.run().await {
        let message = format!("{:#}", anyhow::Error::new(error));
        job.outcome.trouble = Some(Trouble {
            state: State::Degraded,
            message,
            of_plane: false,
        });
    }
    (secret, job.outcome)
}

impl Job<'_> {
    async fn run(&mut self) -> Result<(), StoreError> {
        let (mut known, mut issued) = match self.task.snapshot.take() {
            Some((secret, issued)) => (Some(secret), issued),
            None => (None, Arc::default()),
        };
        for _ in 0..ROUNDS {
            let secret = match known.take() {
                Some(secret) => secret,
                None => {
                    let SecretRef { namespace, name } = &self.task.secret;
                    let read = self.context.store.read(namespace, name).await?;
                    read.unwrap_or_else(|| StoredSecret::absent(namespace, name))
                }
            };
            let (ownership, record) = self.owned(&secret);
            let steps = self.plan(&secret, ownership, &record, &issued);
            let (first, rest): (Vec<_>, Vec<_>) = steps
                .into_iter()
                .partition(|step| matches!(step, Step::Intend { .. }));
            let done = if !first.is_empty() {
                self.intend(secret, record, first).await
            } else if rest.iter().any(|step| matches!(step, Step::Mint { .. })) {
                // A key made now is in no list that was read before.
                issued = Arc::default();
                self.mint(secret, record, rest).await
            } else if ownership == Ownership::Ours && self.lacks_authority(&secret, &record) {
                self.write(secret, &record).await.map(Some)
            } else if rest.is_empty() {
                return Ok(());
            } else {
                // The list that these steps came from is used up by them.
                match self.tidy(secret, record, rest).await {
                    Ok(()) => return Ok(()),
                    Err(error) => Err(error),
                }
            };
            match done {
                Ok(written) => known = written,
                Err(StoreError::Conflict { .. }) => {
                    debug!(secret = %self.task.secret, "Another writer came first");
                    issued = Arc::default();
                }
                Err(error) => return Err(error),
            }
        }
        self.outcome.again = true;
        Ok(())
    }

    /// Whose the Secret is, and what it remembers.
    fn owned(&mut self, secret: &StoredSecret) -> (Ownership, Record) {
        let is = |key: &str| {
            secret
                .annotations
                .get(key)
                .is_some_and(|value| value == "true")
        };
        let ours = secret
            .labels
            .get(MANAGED_BY.0)
            .is_some_and(|value| value == MANAGED_BY.1);
        let (name, (label, value)) = (&self.task.secret, MANAGED_BY);
        if !ours && !is(ADOPT) {
            let message = format!(
                "Secret {name} is not labelled {label}={value}: it is read and never written; annotate it with \
                 {ADOPT}: \"true\" to hand it over, or set authKeySecretName in the profile to another name"
            );
            self.outcome.trouble = Some(Trouble {
                state: State::SecretNotOurs,
                message,
                of_plane: false,
            });
            return (Ownership::NotOurs, Record::default());
        }
        match Record::parse(
            secret
                .data
                .get(DATA_KEY)
                .map(|document| document.as_slice()),
        ) {
            Ok(record) if is(PAUSED) => (Ownership::Paused, record),
            Ok(record) => (Ownership::Ours, record),
            Err(error) => {
                let message = format!("Secret {name}: {:#}", anyhow::Error::new(error));
                self.outcome.trouble = Some(Trouble {
                    state: State::SecretNotOurs,
                    message,
                    of_plane: false,
                });
                (Ownership::NotOurs, Record::default())
            }
        }
    }

    /// Plans, and keeps the steps that this kind of job may do.
    fn plan(
        &mut self,
        secret: &StoredSecret,
        ownership: Ownership,
        record: &Record,
        issued: &BTreeMap<String, Issued>,
    ) -> Vec<Step> {
        let filled: BTreeSet<String> = secret
            .data
            .iter()
            .filter(|(_, value)| !value.is_empty())
            .map(|(key, _)| key.clone())
            .collect();
        let view = View {
            ownership,
            record,
            filled: &filled,
            demand: &self.task.demand,
            synced: self.task.synced,
            issued,
            process: &self.task.process,
        };
        let now = self.context.clock.now();
        let mut plan = plan(now, &view, &self.context.policy.rotation);
        let current = |(data_key, key): (&String, &KeyRecord)| {
            key.current
                .as_ref()
                .map(|current| (data_key.clone(), current.expires))
        };
        self.outcome.expiries = record.keys.iter().filter_map(current).collect();
        let (class, renewing) = (self.task.class, &mut self.renewing);
        let mut put_off = false;
        let mut steps = std::mem::take(&mut plan.steps);
        steps.retain(|step| match step {
            Step::Intend {
                data_key,
                why: Why::Due,
            }
            | Step::Mint {
                data_key,
                why: Why::Due,
                ..
            } => {
                let mine = class == Class::Renewal
                    && renewing.get_or_insert_with(|| data_key.clone()) == data_key;
                put_off |= !mine;
                mine
            }
            Step::Expire { control_plane, .. } => self.task.planes.contains_key(control_plane),
            Step::Intend { data_key, .. } | Step::Mint { data_key, .. } => {
                let demand = self.task.demand.get(data_key);
                demand.is_some_and(|demand| self.task.planes.contains_key(&demand.control_plane))
            }
            Step::GiveUp { .. } | Step::ForgetPrevious { .. } | Step::ForgetAbandoned { .. } => {
                true
            }
        });
        if put_off {
            plan.renew_at = Some(now);
        }
        self.outcome.plan = plan;
        steps
    }

    /// Writes down that keys are about to be made.
    async fn intend(
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
            // Nothing is written for a user that we may not use.
            if let Err(trouble) = plane.check_user(&demand.asked.user).await {
                self.fail(data_key, &record, trouble);
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
        let written = self.write(secret, &record).await?;
        self.task.process.live.extend(ops);
        Ok(Some(written))
    }

    /// Makes keys that were written down, and puts them in force.
    async fn mint(
        &mut self,
        mut secret: StoredSecret,
        mut record: Record,
        steps: Vec<Step>,
    ) -> Result<Option<StoredSecret>, StoreError> {
        let mut calls = Vec::new();
        for step in steps {
            let Step::Mint {
                data_key,
                intent,
                why,
            } = step
            else {
                continue;
            };
            let plane = record
                .keys
                .get(&data_key)
                .and_then(|key| self.task.planes.get(&key.control_plane));
            let Some(plane) = plane.filter(|_| calls.len() < MINTS_AT_ONCE) else {
                continue;
            };
            let plane = Arc::clone(plane);
            calls.push(async move { (plane.mint(&intent).await, data_key, intent, why, plane) });
        }
        let mut made = Vec::new();
        for (minted, data_key, intent, why, plane) in join_all(calls).await {
            self.task.process.live.remove(&intent.op);
            match minted {
                Ok(minted) => made.push(Made {
                    minted,
                    data_key,
                    intent,
                    why,
                    plane,
                    replaced: None,
                }),
                Err(trouble) => self.fail(data_key, &record, trouble),
            }
        }
        while !made.is_empty() {
            let now = self.context.clock.now();
            for made in &mut made {
                let Some(key) = record.keys.get_mut(&made.data_key) else {
                    continue;
                };
                made.replaced = key.current.as_ref().map(|current| current.created);
                key.issue(
                    &made.minted.key,
                    &made.intent,
                    now,
                    self.context.policy.rotation.overlap,
                );
                let value = Zeroizing::new(made.minted.value.expose().as_bytes().to_vec());
                secret.data.insert(made.data_key.clone(), value);
            }
            match self.write(secret, &record).await {
                Ok(written) => {
                    self.succeed(made, now);
                    return Ok(Some(written));
                }
                Err(StoreError::Conflict { .. }) => {}
                // Whether it was written is not known: the intent, or the key in force, will tell.
                Err(error) => return Err(error),
            }
            let SecretRef { namespace, name } = &self.task.secret;
            let read = self.context.store.read(namespace, name).await?;
            secret = read.unwrap_or_else(|| StoredSecret::absent(namespace, name));
            let (ownership, fresh) = self.owned(&secret);
            record = fresh;
            // Another writer may have changed something else: what is still wanted is written again.
            let wanted = |made: &Made| {
                let intent = record
                    .keys
                    .get(&made.data_key)
                    .and_then(|key| key.intent.as_ref());
                ownership == Ownership::Ours && intent == Some(&made.intent)
            };
            let (kept, lost): (Vec<_>, Vec<_>) = made.into_iter().partition(wanted);
            for lost in lost {
                self.lose(lost, &record).await;
            }
            made = kept;
        }
        Ok(None)
    }

    /// Ends and forgets what is over.
    async fn tidy(
        &mut self,
        secret: StoredSecret,
        mut record: Record,
        steps: Vec<Step>,
    ) -> Result<(), StoreError> {
        let before = record.clone();
        let now = self.context.clock.now();
        let more = steps.len() > TIDIED_AT_ONCE;
        let mut stuck = false;
        for step in steps.into_iter().take(TIDIED_AT_ONCE) {
            match step {
                Step::Expire {
                    data_key,
                    control_plane,
                    id,
                } => {
                    let Some(plane) = self.task.planes.get(&control_plane).cloned() else {
                        continue;
                    };
                    // Read again just before: the key in force is never ended.
                    let SecretRef { namespace, name } = &self.task.secret;
                    let fresh = self.context.store.read(namespace, name).await?;
                    if fresh.and_then(|fresh| fresh.revision) != secret.revision {
                        self.outcome.again = true;
                        return Ok(());
                    }
                    if let Err(trouble) = plane.expire(id).await {
                        self.suspect(&control_plane, &trouble);
                        self.outcome.failed.insert(data_key, trouble);
                        stuck = true;
                        continue;
                    }
                    self.context.metrics.rotation.count(RotationResult::Expired);
                    info!(secret = %self.task.secret, data_key, key_id = id.0, "Ended old key");
                    if let Some(key) = record.keys.get_mut(&data_key) {
                        key.previous.retain(|previous| previous.id != id);
                    }
                }
                Step::ForgetPrevious { data_key, id } => {
                    if let Some(key) = record.keys.get_mut(&data_key) {
                        key.previous.retain(|previous| previous.id != id);
                    }
                }
                Step::ForgetAbandoned { data_key, op } => {
                    if let Some(key) = record.keys.get_mut(&data_key) {
                        key.abandoned.retain(|abandoned| abandoned.intent.op != op);
                    }
                }
                Step::GiveUp { data_key } => {
                    if let Some(key) = record.keys.get_mut(&data_key) {
                        key.give_up(now);
                    }
                }
                Step::Intend { .. } | Step::Mint { .. } => {}
            }
        }
        // What stays to be done is another job's: this one must not hold up new pods.
        self.outcome.again |= more && !stuck;
        if record != before {
            self.write(secret, &record).await?;
        }
        Ok(())
    }

    /// Whether the configuration names an authority that the Secret does not hold.
    fn lacks_authority(&self, secret: &StoredSecret, record: &Record) -> bool {
        let wanted = private_ca::bundle(record, &self.context.policy.control_planes);
        let held = secret.data.get(private_ca::DATA_KEY);
        wanted.is_some_and(|wanted| held.is_none_or(|held| **held != wanted))
    }

    async fn write(
        &self,
        mut secret: StoredSecret,
        record: &Record,
    ) -> Result<StoredSecret, StoreError> {
        let document = record.document().map_err(StoreError::Document)?;
        secret
            .data
            .insert(DATA_KEY.to_owned(), Zeroizing::new(document));
        if let Some(pem) = private_ca::bundle(record, &self.context.policy.control_planes) {
            let pem = Zeroizing::new(pem);
            secret.data.insert(private_ca::DATA_KEY.to_owned(), pem);
        }
        secret
            .labels
            .insert(MANAGED_BY.0.to_owned(), MANAGED_BY.1.to_owned());
        self.context.store.write(&secret).await
    }

    fn succeed(&mut self, made: Vec<Made>, now: Timestamp) {
        for Made {
            minted,
            data_key,
            intent,
            why,
            plane: _,
            replaced,
        } in made
        {
            let result = if why == Why::First {
                RotationResult::Minted
            } else {
                RotationResult::Renewed
            };
            self.context.metrics.rotation.count(result);
            let (id, user) = (minted.key.id, &intent.asked.user);
            info!(
                secret = %self.task.secret, data_key, key_id = id.0, op = intent.op, user,
                why = why.as_str(), expires = %intent.expires, "Wrote key"
            );
            self.task.process.held.remove(&data_key);
            self.outcome.minted.push(Minted {
                data_key,
                created: now,
                replaced,
            });
        }
    }

    fn fail(&mut self, data_key: String, record: &Record, trouble: Trouble) {
        self.context.metrics.rotation.count(RotationResult::Failed);
        if let Some(key) = record.keys.get(&data_key) {
            self.suspect(&key.control_plane, &trouble);
        }
        self.task.process.held.insert(
            data_key.clone(),
            Held {
                state: trouble.state,
                until: None,
            },
        );
        self.outcome.failed.insert(data_key, trouble);
    }

    /// Ends a key of our own making that came too late.
    async fn lose(&mut self, lost: Made, record: &Record) {
        let Made {
            minted,
            data_key,
            intent,
            why: _,
            plane,
            replaced: _,
        } = lost;
        self.context
            .metrics
            .rotation
            .count(RotationResult::LostRace);
        let id = minted.key.id;
        info!(secret = %self.task.secret, data_key, key_id = id.0, op = intent.op, "Lost a race, ending our own key");
        if let Err(trouble) = plane.expire(id).await {
            self.fail(data_key, record, trouble);
        }
    }

    fn suspect(&mut self, control_plane: &str, trouble: &Trouble) {
        if trouble.of_plane {
            self.outcome
                .suspects
                .insert(control_plane.to_owned(), trouble.clone());
        }
    }
}

/// A key that was made and is to be written.
struct Made {
    minted: MintedKey,
    data_key: String,
    intent: Intent,
    why: Why,
    plane: Arc<Plane>,
    replaced: Option<Timestamp>,
}
