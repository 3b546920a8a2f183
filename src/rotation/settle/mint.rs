//! Intents written down, keys made of them and put in force; who comes too late ends the key it made. I/O.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use jiff::Timestamp;
use tracing::info;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::{Job, Minted};
use crate::clock::after;
use crate::control_plane::{KeyId, MintedKey};
use crate::metrics::RotationResult;
use crate::rotation::demand::SecretRef;
use crate::rotation::plan::{Held, Ownership, Step, Why};
use crate::rotation::plane::{Plane, Trouble};
use crate::rotation::record::{Abandoned, Intent, KeyRecord, Record, fingerprint};
use crate::rotation::state::State;
use crate::store::{StoreError, StoredSecret};

/// First mints run this many at a time.
const MINTS_AT_ONCE: usize = 8;

/// Whoever undid a key before it was written is not raced: it is made again after this long.
const RACE_AGAIN: Duration = Duration::from_secs(1);

/// A key that was made and is to be written.
struct Made {
    minted: MintedKey,
    data_key: String,
    intent: Intent,
    why: Why,
    plane: Arc<Plane>,
    replaced: Option<KeyId>,
}

impl Made {
    fn put_in_force(&mut self, key: &mut KeyRecord, now: Timestamp, overlap: Duration) {
        self.replaced = key.current.as_ref().map(|current| current.id);
        if self.why == Why::Lost {
            // There is nothing to end, and in a new database its number is another key's.
            key.current = None;
        }
        key.issue(&self.minted.key, &self.intent, now, overlap);
    }
}

impl Job<'_> {
    /// Writes down that keys are about to be made.
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
    pub(super) async fn mint(
        &mut self,
        mut secret: StoredSecret,
        mut record: Record,
        steps: Vec<Step>,
    ) -> Result<Option<StoredSecret>, StoreError> {
        let mut made = self.make(&record, steps).await;
        while !made.is_empty() {
            let now = self.context.clock.now();
            let requests = self.requests(&secret);
            let overlap = self.overlap();
            for made in &mut made {
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
            match self.write(secret, &record).await {
                Ok(written) => {
                    self.succeed(made);
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
            // The client asks again by itself: the conflict may be with the very write whose answer was lost.
            let in_force = |made: &Made| {
                let key = record.keys.get(&made.data_key);
                key.is_some_and(|key| key.holds(made.minted.key.id, made.intent.expires))
            };
            let (written, left): (Vec<_>, Vec<_>) = made.into_iter().partition(in_force);
            self.succeed(written);
            // Another writer may have changed something else: what is still wanted is written again.
            let wanted = |made: &Made| {
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
        }
        Ok(None)
    }

    /// Makes keys, a few at a time.
    async fn make(&mut self, record: &Record, steps: Vec<Step>) -> Vec<Made> {
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
                Err(trouble) => self.fail(data_key, record, trouble),
            }
        }
        made
    }

    fn succeed(&mut self, made: Vec<Made>) {
        for Made {
            minted,
            data_key,
            intent,
            why,
            plane,
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
                control_plane: plane.name().to_owned(),
                id,
                replaced,
                why,
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
            replaced,
        } = lost;
        self.context
            .metrics
            .rotation
            .count(RotationResult::LostRace);
        let id = minted.key.id;
        info!(secret = %self.task.secret, data_key, key_id = id.0, op = intent.op, "Lost a race, ending our own key");
        // One of us would have left its own intent there, or given up ours, or a newer key.
        let ours = record.keys.get(&data_key).is_some_and(|key| {
            let newer = key.current.as_ref().map(|current| current.id) > replaced;
            let given_up = |lost: &Abandoned| lost.intent.op == intent.op;
            newer || key.intent.is_some() || key.abandoned.iter().any(given_up)
        });
        if !ours {
            self.fought(&data_key);
        }
        if let Err(trouble) = plane.expire(id).await {
            self.fail(data_key, record, trouble);
        }
    }
    /// Notes that a writer who is none of us undid a key before it was written.
    fn fought(&mut self, data_key: &str) {
        self.outcome.undone.push(data_key.to_owned());
        let held = Held {
            state: State::Degraded,
            until: Some(after(self.context.clock.now(), RACE_AGAIN)),
        };
        self.task.process.held.insert(data_key.to_owned(), held);
    }
}
