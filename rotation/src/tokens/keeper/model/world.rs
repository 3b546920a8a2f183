//! The model's world: a Secret, a Headscale, keepers with interleaved steps, and faults. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use sidescale_core::id::ApiKeyId;
use sidescale_core::key_value::KeyValue;
use sidescale_core::objects::ApiKey;

use super::dice::Dice;
use crate::tokens::form::{DATA_KEY, EXPIRATION};
use crate::tokens::keeper::*;

const DAY: i64 = 86_400;

#[derive(Clone, Debug)]
pub(super) struct Key {
    value: String,
    pub(super) expires: Timestamp,
    by_hand: bool,
    was_in_secret: bool,
}

/// Faults that a run may have.
#[derive(Clone, Copy)]
pub(super) struct Weather {
    pub(super) actors: usize,
    pub(super) faults: bool,
    /// Others change the Secret, Headscale loses its database.
    pub(super) meddling: bool,
    pub(super) jumps: bool,
}

struct Actor {
    keeper: TokenKeeper,
    name: String,
    stage: Stage,
}

enum Stage {
    Idle(Timestamp),
    Read(StoredSecret, u64),
    Listed(StoredSecret, Vec<ListedApiKey>, u64),
    Doing(Action, u64),
}

pub(super) struct World {
    pub(super) now: Timestamp,
    dice: Dice,
    weather: Weather,
    pub(super) keys: BTreeMap<u64, Key>,
    /// Creates that are still running after their caller has given up.
    late: Vec<(Timestamp, Timestamp)>,
    secret: Option<StoredSecret>,
    older: Vec<StoredSecret>,
    revision: u64,
    /// Grows with every change by others and every jump of time.
    meddled: u64,
    actors: Vec<Actor>,
    pub(super) expired: u64,
    pub(super) created: u64,
    pub(super) stored: u64,
}

fn row(id: u64, prefix: &str, expires: Timestamp) -> ListedApiKey {
    ListedApiKey::new(ApiKey {
        id: ApiKeyId::from(id),
        prefix: prefix.into(),
        expiration: Some(expires),
        created_at: None,
        last_seen: None,
    })
}

fn policy() -> TokenPolicy {
    TokenPolicy {
        expiration: Duration::from_secs(9 * 3_600),
        buffer: Duration::from_secs(3_600),
        overlap: Duration::ZERO,
        respect: Duration::from_secs(120),
        managed_by: "sidescale".into(),
        data_key: DATA_KEY.into(),
        stand_in: None,
    }
}

impl World {
    pub(super) fn new(seed: u64, weather: Weather) -> Self {
        let now = Timestamp::from_second(1_700_000_000).unwrap();
        let actors = (0..weather.actors).map(|n| {
            let name = format!("headscale-{n}");
            Actor {
                keeper: TokenKeeper::new(name.clone(), policy()),
                name,
                stage: Stage::Idle(now),
            }
        });
        Self {
            now,
            dice: Dice(seed),
            weather,
            keys: BTreeMap::new(),
            late: Vec::new(),
            secret: None,
            older: Vec::new(),
            revision: 0,
            meddled: 0,
            actors: actors.collect(),
            expired: 0,
            created: 0,
            stored: 0,
        }
    }

    fn create(&mut self, expires: Timestamp, by_hand: bool) -> String {
        let id = self.keys.keys().last().copied().unwrap_or_default() + 1;
        let value = format!("hskey-api-{id:012}-{}", "s".repeat(64));
        let key = Key {
            value: value.clone(),
            expires,
            by_hand,
            was_in_secret: false,
        };
        self.keys.insert(id, key);
        self.created += u64::from(!by_hand);
        value
    }

    fn list(&self) -> Vec<ListedApiKey> {
        let row = |(id, key): (&u64, &Key)| row(*id, &key.value[10..22], key.expires);
        self.keys.iter().map(row).collect()
    }

    pub(super) fn in_secret(&self) -> Option<u64> {
        let secret = self.secret.as_ref()?;
        let value = std::str::from_utf8(secret.data.get(DATA_KEY)?).ok()?;
        self.keys
            .iter()
            .find(|(_, key)| key.value == value)
            .map(|(id, _)| *id)
    }

    pub(super) fn is_live(&self, id: u64) -> bool {
        self.keys.get(&id).is_some_and(|key| self.now < key.expires)
    }

    pub(super) fn live_of_ours(&self) -> Vec<u64> {
        let live =
            |(id, key): (&u64, &Key)| (self.now < key.expires && !key.by_hand).then_some(*id);
        self.keys.iter().filter_map(live).collect()
    }

    /// One actor takes one step, or time passes, or a fault happens.
    pub(super) fn turn(&mut self) {
        if self.weather.meddling && self.dice.once_in(400) {
            self.meddle();
        }
        if self.weather.jumps && self.dice.once_in(800) {
            let by = [3_600, -3_600, 400 * DAY][usize::try_from(self.dice.below(3)).unwrap()];
            self.now = self.now.checked_add(SignedDuration::from_secs(by)).unwrap();
            self.meddled += 1;
        }
        let who = usize::try_from(self.dice.below(self.actors.len() as u64)).unwrap();
        let ready: Vec<_> = (0..self.actors.len())
            .filter(|n| !matches!(self.actors[*n].stage, Stage::Idle(until) if self.now < until))
            .collect();
        if ready.is_empty() {
            let until = |actor: &Actor| match actor.stage {
                Stage::Idle(until) => until,
                Stage::Read(..) | Stage::Listed(..) | Stage::Doing(..) => self.now,
            };
            // A glance at the Secret every minute sees what others did.
            let next = self.actors.iter().map(until).min().unwrap();
            let glance = after(
                self.now,
                Duration::from_secs(60 * (1 + self.dice.below(30))),
            );
            let glance_at = self.weather.meddling && self.dice.once_in(4);
            self.now = if glance_at { glance.min(next) } else { next };
            if glance_at {
                for actor in &mut self.actors {
                    actor.stage = Stage::Idle(self.now);
                }
            }
        } else {
            // Calls take time.
            self.now = after(self.now, Duration::from_millis(self.dice.below(900)));
            let who = if ready.contains(&who) { who } else { ready[0] };
            self.step(who);
        }
        let due: Vec<_> = self
            .late
            .iter()
            .filter(|(at, _)| *at <= self.now)
            .map(|(_, end)| *end)
            .collect();
        self.late.retain(|(at, _)| self.now < *at);
        for expires in due {
            self.create(expires, false);
        }
    }

    fn step(&mut self, who: usize) {
        let random = self.dice.roll();
        let (now, meddled) = (self.now, self.meddled);
        let read = self
            .secret
            .clone()
            .unwrap_or_else(|| StoredSecret::absent("hs", "key"));
        let list = self.list();
        let actor = &mut self.actors[who];
        actor.stage = match std::mem::replace(&mut actor.stage, Stage::Idle(now)) {
            Stage::Idle(_) => Stage::Read(read, meddled),
            Stage::Read(secret, since) => Stage::Listed(secret, list, since),
            Stage::Listed(secret, list, since) => {
                match actor.keeper.next(now, &secret, &list, random) {
                    Action::Rest(rest) => {
                        Stage::Idle(rest.until.max(after(now, Duration::from_secs(1))))
                    }
                    action => Stage::Doing(action, since),
                }
            }
            Stage::Doing(action, since) => {
                self.act(who, action, since);
                return;
            }
        };
    }

    fn act(&mut self, who: usize, action: Action, since: u64) {
        let fault = if self.weather.faults {
            self.dice.below(40)
        } else {
            99
        };
        // 0: crash before, 1: crash after, 2: lost on the way, 3: done and the answer lost, 4: done much later.
        let done = match fault {
            0 | 2 => ActionOutcome::Failed,
            4 if matches!(action, Action::Create { .. }) => {
                if let Action::Create { expires } = action {
                    let at = after(self.now, Duration::from_secs(self.dice.below(90)));
                    self.late.push((at, expires));
                }
                ActionOutcome::Failed
            }
            _ => self.really(&action, since),
        };
        if fault <= 1 {
            // The container restarts under its name; sometimes the pod is replaced.
            let name = if self.dice.once_in(2) {
                self.actors[who].name.clone()
            } else {
                format!("headscale-{}", self.dice.roll())
            };
            self.actors[who] = Actor {
                keeper: TokenKeeper::new(name.clone(), policy()),
                name,
                stage: Stage::Idle(self.now),
            };
            return;
        }
        let done = if fault == 3 {
            ActionOutcome::Failed
        } else {
            done
        };
        let now = self.now;
        self.actors[who].keeper.absorb(now, action, done);
    }

    fn really(&mut self, action: &Action, since: u64) -> ActionOutcome {
        match action {
            Action::Write(write) => {
                let there = self
                    .secret
                    .as_ref()
                    .and_then(|secret| secret.revision.clone());
                if write.secret.revision != there {
                    return ActionOutcome::Failed;
                }
                self.revision += 1;
                let mut secret = write.secret.clone();
                secret.revision = Some(self.revision.to_string());
                if let Change::Store(key) | Change::PutBack(key) = write.change {
                    assert!(
                        self.meddled != since || self.is_live(key.id.0.number().unwrap()),
                        "a dead key was written"
                    );
                    self.stored += u64::from(matches!(write.change, Change::Store(_)));
                }
                self.older.push(secret.clone());
                self.secret = Some(secret);
                ActionOutcome::Ok
            }
            Action::Create { expires } => {
                ActionOutcome::Created(KeyValue::new(self.create(*expires, false)))
            }
            Action::Verify { key, .. } => {
                if self.is_live(key.id.0.number().unwrap()) {
                    ActionOutcome::Ok
                } else {
                    ActionOutcome::Refused
                }
            }
            Action::Expire { key, .. } => {
                let id = &key.id.0.number().unwrap();
                if self.meddled == since {
                    assert_ne!(
                        self.in_secret(),
                        Some(*id),
                        "the key in the Secret was ended"
                    );
                }
                let now = self.now;
                let ended = self.keys.get_mut(id).filter(|key| now < key.expires);
                if let Some(key) = ended {
                    assert!(
                        !key.by_hand || key.was_in_secret || self.meddled != since,
                        "somebody else's key was ended"
                    );
                    key.expires = now;
                    self.expired += u64::from(!key.by_hand);
                }
                ActionOutcome::Ok
            }
            Action::Rest(_) => ActionOutcome::Ok,
        }
    }

    /// Another writer changes the Secret or Headscale.
    fn meddle(&mut self) {
        self.meddled += 1;
        self.revision += 1;
        let revision = Some(self.revision.to_string());
        match self.dice.below(6) {
            0 => self.secret = None,
            1 => {
                if !self.older.is_empty() {
                    let n = usize::try_from(self.dice.below(self.older.len() as u64)).unwrap();
                    let mut secret = self.older[n].clone();
                    secret.revision = revision;
                    self.secret = Some(secret);
                }
            }
            2 => {
                if let Some(secret) = &mut self.secret {
                    secret.annotations.insert(EXPIRATION.into(), "soon".into());
                    secret.revision = revision;
                }
            }
            3 => {
                if let Some(secret) = &mut self.secret {
                    secret.annotations.clear();
                    secret.revision = revision;
                }
            }
            4 => self.keys.clear(),
            _ => {
                let expires = after(self.now, Duration::from_secs(7_200));
                let value = self.create(expires, true);
                if self.dice.once_in(2) {
                    // Created for another user.
                    return;
                }
                if let Some(secret) = &mut self.secret {
                    secret
                        .data
                        .insert(DATA_KEY.into(), value.into_bytes().into());
                    secret.revision = revision;
                    if let Some(id) = self.in_secret() {
                        self.keys
                            .entry(id)
                            .and_modify(|key| key.was_in_secret = true);
                    }
                }
            }
        }
    }

    /// The faults stop; every keeper continues until there is nothing left to do.
    pub(super) fn settle(&mut self) {
        self.weather = Weather {
            actors: self.actors.len(),
            faults: false,
            meddling: false,
            jumps: false,
        };
        let end = after(self.now, Duration::from_secs(4 * 3_600));
        for actor in &mut self.actors {
            if let Stage::Idle(until) = &mut actor.stage {
                *until = self.now;
            }
        }
        let mut turns = 0;
        while self.now < end {
            self.turn();
            turns += 1;
            assert!(turns < 2_000, "they never rest");
        }
    }
}
