//! One job on one Secret: reads, plans and does the steps until nothing is left to do now. I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sidescale_core::key_form::may_be_a_key;
use sidescale_core::key_state::KeyState;
use sidescale_core::problem::Problem;
use sidescale_core::secret::{MANAGED_BY, SecretRef, StoredSecret};
use sidescale_rotation::outcome::JobOutcome;
use sidescale_rotation::ownership::ownership;
use sidescale_rotation::plan::{
    IssuedKeys, KeyReason, Ownership, SecretView, Step, confirms_end, overlap, plan,
};
use sidescale_rotation::private_ca;
use sidescale_rotation::queue::JobClass;
use sidescale_rotation::record::{DATA_KEY, KeyRecord, LARGEST, Record};
use sidescale_rotation::request::{Requests, Unreadable};
use sidescale_rotation::secret_state::KeyEnd;
use sidescale_rotation::value::StoredValue;
use sidescale_webhook::identity::{self, POD_SECRET};
use tracing::{debug, warn};
use zeroize::Zeroizing;

use super::ReadSecret;
use super::context::Context;
use crate::cluster;
use crate::store::StoreError;

mod create;
mod retire;
mod task;

use task::IssuedByPlane;
pub(super) use task::{Snapshot, Task};

/// Maximum number of rounds in one job: enough for a full namespace of new services, eight at a time.
const ROUNDS: usize = 64;

/// How many conflicts with other writers one job accepts; after that it backs off.
const MOST_CONFLICTS: usize = 8;

struct Reconciler<'a> {
    context: &'a Context,
    task: Task,
    outcome: JobOutcome,
    /// The key that this job renews; one at most.
    renewing: Option<String>,
    /// Whether keys that are needed were not created.
    unmade: bool,
    /// Whether the control planes' lists are needed again.
    list_wanted: bool,
    /// When the Secret was last read or written.
    read_at: Instant,
}

/// Reconciles one Secret.
pub(super) async fn reconcile(context: &Context, task: Task) -> (SecretRef, JobOutcome) {
    let secret = task.secret.clone();
    let (number, beside) = (task.number, task.beside.clone());
    let mut job = Reconciler {
        context,
        task,
        outcome: JobOutcome::default(),
        renewing: None,
        unmade: false,
        list_wanted: false,
        read_at: Instant::now(),
    };
    if let Err(error) = job.run().await {
        job.outcome.away = cluster::is_away(&error);
        let message = cluster::chain(&error);
        job.outcome.problem = Some(Problem {
            state: KeyState::Degraded,
            message,
            of_plane: false,
        });
    }
    if job.list_wanted {
        let (now, at) = (context.clock.now(), &mut job.outcome.plan.confirm_at);
        *at = Some(at.map_or(now, |known| known.min(now)));
    }
    job.outcome.resting = std::mem::take(&mut job.task.resting);
    job.outcome.overtaken = beside.over(number);
    (secret, job.outcome)
}

impl Reconciler<'_> {
    async fn run(&mut self) -> Result<(), StoreError> {
        let (mut known, mut issued) = self.known().await?;
        let mut conflicts = 0;
        for _ in 0..ROUNDS {
            let secret = match known.take() {
                Some(secret) => secret,
                None => {
                    let secret = self.read().await?;
                    self.read_at = Instant::now();
                    secret
                }
            };
            let writer = &mut self.outcome.writer;
            *writer = writer.take().or_else(|| secret.writer.clone());
            let (ownership, record) = self.owned(&secret);
            let mut steps = self.plan(&secret, ownership, &record, &issued);
            self.task.beside.begin(self.task.number);
            if self.task.beside.superseded(self.task.number) {
                // The later job knows the demand better; this one only finishes the keys that it has begun.
                steps.retain(|step| matches!(step, Step::Create { .. }));
                if steps.is_empty() {
                    break;
                }
            }
            let (taken, steps): (Vec<_>, Vec<_>) = steps
                .into_iter()
                .partition(|step| matches!(step, Step::Adopt { .. }));
            let (first, rest): (Vec<_>, Vec<_>) = steps
                .into_iter()
                .partition(|step| matches!(step, Step::Intend { .. }));
            let copied = record.copied_from.clone();
            let done = if let (Some(from), Ownership::Ours) = (copied, ownership) {
                warn!(secret = %self.task.secret, %from, "Secret is a copy: creating new keys");
                self.outcome.copied_from = Some(from);
                self.start_over(secret).await.map(Some)
            } else if !taken.is_empty() {
                // This creates no key: the list stays valid for the remaining steps.
                self.adopt(secret, record, taken).await.map(Some)
            } else if !first.is_empty() {
                self.intend(secret, record, first).await
            } else if rest.iter().any(|step| matches!(step, Step::Create { .. })) {
                // A list read before does not contain a key created now.
                let listed = !std::mem::take(&mut issued).is_empty();
                let minted = self.create(secret, record, rest).await;
                // The next list has to show the rest again, such as keys that a new database lost.
                self.list_wanted |= listed && (self.unmade || self.of_pods());
                minted
            } else if ownership == Ownership::Ours && self.lacks_authority(&secret) {
                self.write(secret, &record).await.map(Some)
            } else if rest.is_empty() {
                return Ok(());
            } else {
                // These steps use up the list that they came from.
                match self.retire(secret, record, rest).await {
                    Ok(()) => return Ok(()),
                    Err(error) => Err(error),
                }
            };
            match done {
                Ok(written) => {
                    known = written;
                    self.read_at = Instant::now();
                }
                Err(StoreError::Conflict { .. }) if conflicts < MOST_CONFLICTS => {
                    conflicts += 1;
                    debug!(secret = %self.task.secret, "Secret write conflict, retrying");
                    issued = Arc::default();
                }
                Err(error) => return Err(error),
            }
        }
        self.outcome.again = true;
        Ok(())
    }

    /// Returns the Secret that the pass has read, and what was listed after that; nothing if it was written since.
    async fn known(&mut self) -> Result<(Option<StoredSecret>, IssuedByPlane), StoreError> {
        let Some(snapshot) = self.task.snapshot.take() else {
            return Ok((None, Arc::default()));
        };
        let Snapshot {
            seen,
            issued,
            read_at,
        } = snapshot;
        let secret = match seen {
            ReadSecret::Whole(secret) => *secret,
            ReadSecret::Revision(revision) => {
                let secret = self.read().await?;
                if secret.revision != revision {
                    return Ok((None, Arc::default()));
                }
                secret
            }
        };
        self.read_at = read_at;
        Ok((Some(secret), issued))
    }

    async fn read(&self) -> Result<StoredSecret, StoreError> {
        let SecretRef { namespace, name } = &self.task.secret;
        let read = self.context.store.read(namespace, name).await?;
        Ok(read.unwrap_or_else(|| StoredSecret::absent(namespace, name)))
    }

    /// Returns the ownership of the Secret, and its record.
    fn owned(&mut self, secret: &StoredSecret) -> (Ownership, Record) {
        let (ownership, record, problem) = ownership(secret);
        if problem.is_some() {
            self.outcome.problem = problem;
        }
        (ownership, record)
    }

    /// Returns the Secret's requests; an unreadable annotation counts as none.
    fn requests(&self, secret: &StoredSecret) -> Requests {
        Requests::parse(&secret.annotations).unwrap_or_else(|error| {
            let notice = error.notice(&self.task.secret);
            let news = self
                .context
                .events
                .publish_every(Unreadable::TELL_EVERY, &notice);
            if news {
                warn!(secret = %self.task.secret, error = notice.note, "Invalid rotation request");
            }
            Requests::default()
        })
    }

    /// Adds the keys in force to the outcome.
    fn note_in_force(&mut self, record: &Record, ends: BTreeMap<String, KeyEnd>) {
        self.outcome.ends = ends;
        let current = |(data_key, key): (&String, &KeyRecord)| {
            Some((data_key.clone(), key.current.as_ref()?.dated()))
        };
        self.outcome.in_force = record.keys.iter().filter_map(current).collect();
        let with_key = record.keys.values().filter(|key| key.current.is_some());
        self.outcome.services = with_key.map(|key| key.service.clone()).collect();
        let joining = record.keys.iter();
        let joining = joining.filter_map(|(name, key)| Some((name.clone(), key.joins_with()?)));
        self.outcome.joining = joining.collect();
    }

    /// Plans, and keeps the steps that this class of job may do.
    fn plan(
        &mut self,
        secret: &StoredSecret,
        ownership: Ownership,
        record: &Record,
        issued: &BTreeMap<String, IssuedKeys>,
    ) -> Vec<Step> {
        let holds_a_key = |data_key: &&String| {
            let value = secret.data.get(*data_key);
            value.is_some_and(|value| may_be_a_key(value))
        };
        let demanded = self.task.demand.keys();
        let filled: BTreeSet<String> = demanded.filter(holds_a_key).cloned().collect();
        self.task.process.beside = self.task.beside.of_others(self.task.number);
        let values = StoredValue::all(&secret.data, &self.task.demand);
        let view = SecretView {
            namespace: &self.task.secret.namespace,
            ownership,
            record,
            recreated: record.is_of_earlier_namespace(self.task.demand.namespace_uid()),
            bytes: secret.size(),
            filled: &filled,
            values: &values,
            requests: &self.requests(secret),
            demand: &self.task.demand,
            of_pods: self.of_pods(),
            held: self.task.demand.referenced(),
            over_quota: &self.task.over_quota,
            excess: self.task.excess,
            synced: self.task.synced,
            issued,
            process: &self.task.process,
        };
        let now = self.context.clock.now();
        let ends = ends(&view, &self.outcome);
        let mut plan = plan(now, &view, &self.context.policy.rotation);
        self.note_in_force(record, ends);
        let steps = std::mem::take(&mut plan.steps);
        let (steps, put_off) = self.allowed(steps);
        if put_off {
            plan.renew_at = Some(now);
        }
        self.outcome.plan = plan;
        steps
    }

    /// Returns the steps that this job may do now, and whether a renewal was put off: a job renews one key at a time.
    fn allowed(&mut self, mut steps: Vec<Step>) -> (Vec<Step>, bool) {
        let (class, renewing) = (self.task.class, &mut self.renewing);
        let mut put_off = false;
        steps.retain(|step| match step {
            Step::Intend {
                data_key,
                why: KeyReason::Due,
            }
            | Step::Create {
                data_key,
                why: KeyReason::Due,
                ..
            } => {
                let mine = class == JobClass::Renewal
                    && renewing.get_or_insert_with(|| data_key.clone()) == data_key;
                put_off |= !mine;
                mine
            }
            Step::Expire {
                data_key,
                control_plane,
                ..
            } => {
                let rests = self.task.resting.contains(data_key);
                !rests && self.task.planes.contains_key(control_plane)
            }
            Step::Intend { data_key, .. } | Step::Create { data_key, .. } => {
                let demand = self.task.demand.get(data_key);
                demand.is_some_and(|demand| self.task.planes.contains_key(&demand.control_plane))
            }
            Step::Adopt { .. }
            | Step::GiveUp { .. }
            | Step::BringBack { .. }
            | Step::ForgetPrevious { .. }
            | Step::ForgetAbandoned { .. }
            | Step::NoteJoined { .. }
            | Step::NoteUse { .. }
            | Step::Retire { .. }
            | Step::Forget { .. }
            | Step::TakeOver => true,
        });
        (steps, put_off)
    }

    /// Returns whether the Secret is the one for keys of single pods.
    fn of_pods(&self) -> bool {
        self.task.secret.name == POD_SECRET
    }

    /// Returns how long a replaced key stays valid.
    fn overlap(&self) -> Duration {
        overlap(self.of_pods(), &self.context.policy.rotation)
    }

    /// Returns whether pods need a certificate authority that the Secret does not contain.
    fn lacks_authority(&self, secret: &StoredSecret) -> bool {
        let held = secret.data.get(private_ca::DATA_KEY);
        self.private_ca()
            .is_some_and(|wanted| held.is_none_or(|held| **held != wanted))
    }

    /// Returns the certificate authorities of the control planes that pods need keys of.
    fn private_ca(&self) -> Option<Vec<u8>> {
        private_ca::bundle(&self.task.demand, &self.context.policy.control_planes)
    }

    /// Removes the keys from a Secret that was copied from elsewhere, so that new ones are created.
    async fn start_over(&mut self, mut secret: StoredSecret) -> Result<StoredSecret, StoreError> {
        secret
            .data
            .retain(|data_key, _| !data_key.ends_with(identity::KEY_SUFFIX));
        self.write(secret, &Record::default()).await
    }

    async fn write(
        &self,
        mut secret: StoredSecret,
        record: &Record,
    ) -> Result<StoredSecret, StoreError> {
        let mut record = record.clone();
        record.belong_to(
            &secret.namespace,
            self.task.demand.namespace_uid(),
            &secret.name,
        );
        let others = secret.data.iter().filter(|(name, _)| *name != DATA_KEY);
        let taken: usize = others.map(|(name, value)| name.len() + value.len()).sum();
        let document = record
            .document_within(LARGEST.saturating_sub(taken))
            .map_err(StoreError::Document)?;
        secret
            .data
            .insert(DATA_KEY.to_owned(), Zeroizing::new(document));
        if let Some(pem) = self.private_ca() {
            let pem = Zeroizing::new(pem);
            secret.data.insert(private_ca::DATA_KEY.to_owned(), pem);
        }
        // An unreadable annotation stays as it is, for the person who wrote it.
        if let Ok(requests) = Requests::parse(&secret.annotations) {
            requests
                .write(&record, &mut secret.annotations)
                .map_err(StoreError::Document)?;
        }
        secret
            .labels
            .insert(MANAGED_BY.0.to_owned(), MANAGED_BY.1.to_owned());
        self.context.store.write(&secret).await
    }

    fn recheck(&mut self, control_plane: &str, problem: &Problem) {
        if problem.of_plane {
            self.outcome
                .suspects
                .insert(control_plane.to_owned(), problem.clone());
        }
    }
}

/// Returns when the keys in force expire, and whether the control plane confirmed each: by its list, or when it created the key.
fn ends(view: &SecretView<'_>, outcome: &JobOutcome) -> BTreeMap<String, KeyEnd> {
    let end = |(data_key, key): (&String, &KeyRecord)| {
        let current = key.current.as_ref()?;
        let mut created = outcome.minted.iter();
        let created = created.any(|minted| minted.data_key == *data_key && minted.id == current.id);
        let end = KeyEnd {
            id: current.id,
            at: current.expires,
            confirmed: confirms_end(view, data_key, key, current).or(created.then_some(true)),
        };
        Some((data_key.clone(), end.or(outcome.ends.get(data_key))))
    };
    let shared = view.record.keys.iter().filter(|_| !view.of_pods);
    shared.filter_map(end).collect()
}
