//! What is to be done for the keys of one Secret, from what is known of it now. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use sidescale_webhook::profile::Rotation;

use super::demand::KeyDemand;
use super::record::{ABANDONED_FOR, Abandoned, Asked, Intent, KeyRecord, Record, same_fingerprint};
use super::state::State;
use crate::clock::after;
use crate::control_plane::{KeyId, PreAuthKey, UserId};

/// How long an intent is given up before its key is looked for: whoever lost a race ends its own key by then.
const SETTLES_IN: Duration = Duration::from_secs(15);

/// Holds what is known of one Secret. Everything in it was read after the Secret.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// Whose it is.
    pub ownership: Ownership,
    /// What it remembers.
    pub record: &'a Record,
    /// Its data keys that hold a value.
    pub filled: &'a BTreeSet<String>,
    /// What pods need of it, by data key.
    pub demand: &'a BTreeMap<String, KeyDemand>,
    /// Whether the pods were all seen, so that a key without demand is really not used.
    pub synced: bool,
    /// What the control planes hold, by name, where they were asked.
    pub issued: &'a BTreeMap<String, Issued>,
    /// What this process is doing and has met.
    pub process: &'a Process,
}

/// Says whose a Secret is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// It is not there, or ours.
    Ours,
    /// Somebody else's: read, never written.
    NotOurs,
    /// Ours, and stopped by its annotation.
    Paused,
}

/// What one control plane holds.
#[derive(Clone, Debug, Default)]
pub struct Issued {
    /// All its pre-auth keys.
    pub keys: BTreeMap<KeyId, PreAuthKey>,
    /// Users by name that are ours to use.
    pub users: BTreeMap<String, UserId>,
}

/// What this process is doing and has met, as far as one Secret goes.
#[derive(Clone, Debug, Default)]
pub struct Process {
    /// Names this process.
    pub writer: String,
    /// How long another writer's intent is respected.
    pub respect: Duration,
    /// Intents of ours that were written and whose key is still to be made.
    pub live: BTreeSet<String>,
    /// Data keys that are not tried again before a time, and why.
    pub held: BTreeMap<String, Held>,
}

/// Says that a key is not to be made now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// What it is waiting for.
    pub state: State,
    /// When it is tried again; none if something else has to happen first.
    pub until: Option<Timestamp>,
}

/// Why a key is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// There is none.
    First,
    /// The record names one, and its value is not in the Secret.
    ValueLost,
    /// The control plane does not have it any more, or ended it early.
    Lost,
    /// Pods ask for other tags, another user or other properties.
    Changed,
    /// Its time has come.
    Due,
}

impl Why {
    /// Its name in logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::ValueLost => "value_lost",
            Self::Lost => "lost",
            Self::Changed => "changed",
            Self::Due => "due",
        }
    }
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Write down that a key is about to be made; one that was under way is given up.
    Intend {
        /// The key.
        data_key: String,
        /// Why.
        why: Why,
    },
    /// Make the key that was written down, and put it in force.
    Mint {
        /// The key.
        data_key: String,
        /// What was written down.
        intent: Intent,
        /// Why.
        why: Why,
    },
    /// Stop an intent that nobody follows.
    GiveUp {
        /// The key.
        data_key: String,
    },
    /// End a key at the control plane; if it was one of the previous, forget it.
    Expire {
        /// The key.
        data_key: String,
        /// Where.
        control_plane: String,
        /// Which.
        id: KeyId,
    },
    /// Forget a previous key that is over, or is the one in force.
    ForgetPrevious {
        /// The key.
        data_key: String,
        /// Which.
        id: KeyId,
    },
    /// Forget an intent whose key can no longer turn up.
    ForgetAbandoned {
        /// The key.
        data_key: String,
        /// The intent.
        op: String,
    },
}

/// What to do now, and when to ask again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Most urgent first.
    pub steps: Vec<Step>,
    /// State of every demanded key.
    pub states: BTreeMap<String, State>,
    /// When a key is due or may be tried again.
    pub renew_at: Option<Timestamp>,
    /// When a key is to be ended.
    pub cleanup_at: Option<Timestamp>,
    /// When the control plane's list of keys is wanted.
    pub confirm_at: Option<Timestamp>,
}

/// Plans the work on one Secret.
#[must_use]
pub fn plan(now: Timestamp, view: &View<'_>, rotation: &Rotation) -> Plan {
    let mut plan = Plan::default();
    let stopped = match view.ownership {
        Ownership::Ours if rotation.paused => Some(State::Paused),
        Ownership::Ours => None,
        Ownership::NotOurs => Some(State::SecretNotOurs),
        Ownership::Paused => Some(State::Paused),
    };
    if let Some(state) = stopped {
        plan.states = view
            .demand
            .keys()
            .map(|data_key| (data_key.clone(), state))
            .collect();
        return plan;
    }
    let over_quota = over_quota(view, rotation.max_services_per_namespace);
    for (data_key, demand) in view.demand {
        let state = if over_quota.contains(data_key) {
            State::QuotaExceeded
        } else {
            demanded(now, view, data_key, demand, &mut plan)
        };
        plan.states.insert(data_key.clone(), state);
    }
    for (data_key, key) in &view.record.keys {
        if !view.demand.contains_key(data_key) {
            undemanded(now, view, data_key, key, &mut plan);
        }
        cleanup(now, view, data_key, key, &mut plan);
    }
    plan.steps.sort_by_key(urgency);
    plan
}

/// Checks that the key is what was asked for, field by field, and says what is not.
#[must_use]
pub fn mismatch(key: &PreAuthKey, user: UserId, intent: &Intent) -> Option<&'static str> {
    let Asked {
        user: _,
        tags,
        reusable,
        ephemeral,
    } = &intent.asked;
    // A key with tags may be nobody's; one without has to be its user's.
    let user_fits = match key.user {
        Some(owner) => owner == user,
        None => !tags.is_empty(),
    };
    let mut carried = key.tags.clone();
    carried.sort();
    let expires_fits = key
        .expiration
        .is_some_and(|at| same_fingerprint(at, intent.expires));
    let fields = [
        (user_fits, "user"),
        (key.reusable == *reusable, "reusable"),
        (key.ephemeral == *ephemeral, "ephemeral"),
        (carried == *tags, "aclTags"),
        (expires_fits, "expiration"),
        (!key.used, "used"),
    ];
    fields
        .into_iter()
        .find(|(fits, _)| !fits)
        .map(|(_, name)| name)
}

/// Plans for a key that pods use, and says how it is doing.
fn demanded(
    now: Timestamp,
    view: &View<'_>,
    data_key: &str,
    demand: &KeyDemand,
    plan: &mut Plan,
) -> State {
    let record = view.record.keys.get(data_key);
    let Some(why) = need(now, view, data_key, record, demand) else {
        if let Some(key) = record {
            if let Some(current) = &key.current {
                earliest(&mut plan.renew_at, before(current.expires, demand.buffer));
            }
            give_up(now, view, data_key, key, plan);
        }
        return State::Ready;
    };
    let usable = record
        .and_then(|key| key.current.as_ref())
        .is_some_and(|current| {
            view.filled.contains(data_key) && now < current.expires && why != Why::Lost
        });
    if let Some(held) = view.process.held.get(data_key) {
        if let Some(until) = held.until {
            earliest(&mut plan.renew_at, until);
        }
        return held.state;
    }
    match record.and_then(|key| key.intent.as_ref()) {
        Some(intent) if followed(view.process, intent) && intent.asked == demand.asked => {
            let (data_key, intent) = (data_key.to_owned(), intent.clone());
            plan.steps.push(Step::Mint {
                data_key,
                intent,
                why,
            });
        }
        Some(intent) if respected_until(view.process, intent).is_some_and(|until| now < until) => {
            if let Some(until) = respected_until(view.process, intent) {
                earliest(&mut plan.renew_at, until);
            }
        }
        Some(_) | None => plan.steps.push(Step::Intend {
            data_key: data_key.to_owned(),
            why,
        }),
    }
    if usable {
        State::Ready
    } else {
        State::Degraded
    }
}

/// Why the key has to be made, if it has to.
fn need(
    now: Timestamp,
    view: &View<'_>,
    data_key: &str,
    record: Option<&KeyRecord>,
    demand: &KeyDemand,
) -> Option<Why> {
    let Some(current) = record.and_then(|key| key.current.as_ref()) else {
        return Some(Why::First);
    };
    if !view.filled.contains(data_key) {
        return Some(Why::ValueLost);
    }
    if let Some(issued) = view.issued.get(&demand.control_plane) {
        // Compared with what was asked, not with our clock: a clock that is off must not look like an ended key.
        let ended_early = |key: &PreAuthKey| {
            key.expiration
                .is_none_or(|at| at < current.expires && !same_fingerprint(at, current.expires))
        };
        if issued.keys.get(&current.id).is_none_or(ended_early) {
            return Some(Why::Lost);
        }
    }
    if current.asked != demand.asked {
        return Some(Why::Changed);
    }
    (now >= before(current.expires, demand.buffer)).then_some(Why::Due)
}

/// Plans for a key that no pod uses: it is kept as it is.
fn undemanded(now: Timestamp, view: &View<'_>, data_key: &str, key: &KeyRecord, plan: &mut Plan) {
    if view.synced {
        give_up(now, view, data_key, key, plan);
    }
}

fn give_up(now: Timestamp, view: &View<'_>, data_key: &str, key: &KeyRecord, plan: &mut Plan) {
    let Some(intent) = &key.intent else { return };
    match respected_until(view.process, intent) {
        Some(until) if now < until => earliest(&mut plan.cleanup_at, until),
        Some(_) | None => plan.steps.push(Step::GiveUp {
            data_key: data_key.to_owned(),
        }),
    }
}

/// Plans the end of what went before.
fn cleanup(now: Timestamp, view: &View<'_>, data_key: &str, key: &KeyRecord, plan: &mut Plan) {
    for previous in &key.previous {
        let (data_key, id) = (data_key.to_owned(), previous.id);
        if view.record.names(&key.control_plane, id) {
            plan.steps.push(Step::ForgetPrevious { data_key, id });
        } else if now >= previous.expire_at {
            plan.steps.push(Step::Expire {
                data_key,
                control_plane: key.control_plane.clone(),
                id,
            });
        } else {
            earliest(&mut plan.cleanup_at, previous.expire_at);
        }
    }
    for abandoned in &key.abandoned {
        let over = after(abandoned.since, ABANDONED_FOR);
        let Some(issued) = view.issued.get(&key.control_plane) else {
            earliest(&mut plan.confirm_at, after(abandoned.since, SETTLES_IN));
            continue;
        };
        let mut found = issued
            .keys
            .values()
            .filter(|key| made_by(abandoned, key, issued))
            .peekable();
        if found.peek().is_none() && now >= over {
            let op = abandoned.intent.op.clone();
            plan.steps.push(Step::ForgetAbandoned {
                data_key: data_key.to_owned(),
                op,
            });
            continue;
        }
        let again = if now < after(abandoned.since, SETTLES_IN) {
            SETTLES_IN
        } else {
            ABANDONED_FOR
        };
        earliest(&mut plan.confirm_at, after(abandoned.since, again));
        let found = found.filter(|found| !view.record.names(&key.control_plane, found.id));
        plan.steps.extend(found.map(|found| Step::Expire {
            data_key: data_key.to_owned(),
            control_plane: key.control_plane.clone(),
            id: found.id,
        }));
    }
}

/// Whether the key came out of the intent, beyond doubt.
fn made_by(abandoned: &Abandoned, key: &PreAuthKey, issued: &Issued) -> bool {
    let Intent { asked, expires, .. } = &abandoned.intent;
    let user_fits = key
        .user
        .is_none_or(|user| issued.users.get(&asked.user) == Some(&user));
    let mut tags = key.tags.clone();
    tags.sort();
    let ends = key
        .expiration
        .is_some_and(|at| same_fingerprint(at, *expires));
    ends && user_fits
        && tags == asked.tags
        && key.reusable == asked.reusable
        && key.ephemeral == asked.ephemeral
}

/// The demanded keys that are too many: whoever has a key keeps it, then the oldest come first.
fn over_quota(view: &View<'_>, most: usize) -> BTreeSet<String> {
    if view.demand.len() <= most {
        return BTreeSet::new();
    }
    let mut order: Vec<_> = view.demand.iter().collect();
    order.sort_by_key(|(data_key, demand)| {
        let has_key = view
            .record
            .keys
            .get(*data_key)
            .is_some_and(|key| key.current.is_some());
        (!has_key, demand.since, (*data_key).clone())
    });
    order
        .into_iter()
        .skip(most)
        .map(|(data_key, _)| data_key.clone())
        .collect()
}

/// Whether this process is about to make that key.
fn followed(process: &Process, intent: &Intent) -> bool {
    intent.writer == process.writer && process.live.contains(&intent.op)
}

/// Until when an intent is left to its writer; none if that is this process, which knows best.
fn respected_until(process: &Process, intent: &Intent) -> Option<Timestamp> {
    if intent.writer == process.writer {
        return None;
    }
    Some(after(intent.started_at, process.respect))
}

fn urgency(step: &Step) -> u8 {
    match step {
        Step::Intend {
            why: Why::First, ..
        }
        | Step::Mint {
            why: Why::First, ..
        } => 0,
        Step::Intend {
            why: Why::ValueLost | Why::Lost | Why::Changed,
            ..
        }
        | Step::Mint {
            why: Why::ValueLost | Why::Lost | Why::Changed,
            ..
        } => 1,
        Step::Intend { why: Why::Due, .. } | Step::Mint { why: Why::Due, .. } => 2,
        Step::GiveUp { .. }
        | Step::Expire { .. }
        | Step::ForgetPrevious { .. }
        | Step::ForgetAbandoned { .. } => 3,
    }
}

fn earliest(place: &mut Option<Timestamp>, at: Timestamp) {
    *place = Some(place.map_or(at, |known| known.min(at)));
}

fn before(time: Timestamp, by: Duration) -> Timestamp {
    let by = SignedDuration::try_from(by).unwrap_or(SignedDuration::MAX);
    time.checked_sub(by).unwrap_or(Timestamp::MIN)
}

#[cfg(test)]
mod tests;
