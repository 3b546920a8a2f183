//! Plans the work on the keys of one Secret, from what is known of it now. Pure.

use std::time::Duration;

use jiff::Timestamp;
use sidescale_core::key_state::KeyState;
use sidescale_core::time::after;
use sidescale_webhook::profile::Rotation;

use super::demand::KeyDemand;
use super::record::{Intent, IssuedKey as Made, KeyRecord, Origin};
use super::retention::unused::{self, Unused};

mod confirmed;
mod expire;
mod manual_keys;
mod per_pod;
mod recreated;
mod room;
mod step;
mod view;
mod when;

use confirmed::confirm;
pub use confirmed::confirms_end;
pub use expire::mismatch;
use manual_keys::ManualValue;
pub use step::{ExpireReason, KeyReason, Plan, Step};
pub use view::{Blocked, Claimed, IssuedKeys, Ownership, Process, SecretView};
use when::{before, earliest};

/// Plans the work on one Secret.
#[must_use]
pub fn plan(now: Timestamp, view: &SecretView<'_>, rotation: &Rotation) -> Plan {
    let mut plan = Plan::default();
    let stopped = match view.ownership {
        Ownership::Ours if rotation.paused => Some(KeyState::Paused),
        Ownership::Ours => None,
        Ownership::NotOurs => Some(KeyState::SecretNotOurs),
        Ownership::Paused => Some(KeyState::Paused),
    };
    if let Some(state) = stopped {
        plan.states = view
            .demand
            .keys()
            .map(|data_key| (data_key.clone(), state))
            .collect();
        return plan;
    }
    let mut over_quota = view.over_quota.clone();
    if view.of_pods {
        over_quota.extend(per_pod::over_quota(view));
    }
    let room = room::of_bytes(view);
    plan.full = !room.over.is_empty();
    over_quota.extend(room.over.iter().cloned());
    let overlap = overlap(view.of_pods, rotation);
    let unused_after = if view.of_pods {
        per_pod::KEPT_FOR
    } else {
        rotation.unused_keys_after
    };
    for (data_key, demand) in view.demand {
        let state = if over_quota.contains(data_key) {
            KeyState::QuotaExceeded
        } else {
            demanded(now, view, data_key, demand, &mut plan)
        };
        plan.states.insert(data_key.clone(), state);
    }
    let in_force = view.record.in_force();
    for (data_key, key) in &view.record.keys {
        if !view.demand.contains_key(data_key) {
            undemanded(now, view, data_key, key, &mut plan);
        }
        expire::cleanup(now, view, (data_key, key), &in_force, overlap, &mut plan);
        if view.of_pods {
            per_pod::ask_before_the_end(now, view, data_key, key, &mut plan);
        }
        let demanded = view.demand.contains_key(data_key) || view.held.contains(data_key);
        if view.synced {
            let unused = unused::unused(now, key, demanded, unused_after);
            if let (Unused::Note(Some(since)), true) = (unused, view.of_pods) {
                earliest(&mut plan.cleanup_at, after(since, unused_after));
            }
            expire::use_of(data_key, unused, &mut plan);
        }
    }
    room::make(now, view, &room, &mut plan);
    recreated::take_over(now, view, &mut plan);
    plan.steps.sort_by_key(step::urgency);
    if view.of_pods {
        per_pod::bound(&mut plan);
    }
    plan
}

/// Returns how long a replaced key stays valid.
#[must_use]
pub fn overlap(of_pods: bool, rotation: &Rotation) -> Duration {
    let most = if of_pods {
        per_pod::OVERLAP
    } else {
        Duration::MAX
    };
    rotation.overlap.min(most)
}

/// Plans for a key that pods use, and returns its state.
fn demanded(
    now: Timestamp,
    view: &SecretView<'_>,
    data_key: &str,
    demand: &KeyDemand,
    plan: &mut Plan,
) -> KeyState {
    let record = view.record.keys.get(data_key);
    if let Some(state) = manual_keys(now, view, data_key, demand, plan) {
        return state;
    }
    let why = if view.of_pods {
        per_pod::need(now, view, data_key, record, demand, plan)
    } else {
        need(now, view, data_key, record, demand)
    };
    let Some(why) = why else {
        if let Some(key) = record {
            if let Some(current) = key.current.as_ref().filter(|_| !view.of_pods) {
                earliest(&mut plan.renew_at, due(current, demand));
            }
            give_up(now, view, data_key, key, plan);
        }
        return KeyState::Ready;
    };
    let usable = record
        .and_then(|key| key.current.as_ref())
        .is_some_and(|current| {
            let dead = matches!(
                why,
                KeyReason::Lost | KeyReason::NotOwned | KeyReason::Refused(_)
            );
            view.filled.contains(data_key) && now < current.expires && !dead
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
            plan.steps.push(Step::Create {
                data_key,
                intent,
                why,
            });
        }
        Some(intent)
            if view.process.beside.contains(&intent.op) && intent.asked == demand.asked => {}
        Some(intent)
            if respected_until(now, view.process, intent).is_some_and(|until| now < until) =>
        {
            if let Some(until) = respected_until(now, view.process, intent) {
                earliest(&mut plan.renew_at, until);
            }
        }
        Some(_) | None => plan.steps.push(Step::Intend {
            data_key: data_key.to_owned(),
            why,
        }),
    }
    if usable {
        KeyState::Ready
    } else {
        KeyState::Degraded
    }
}

/// Plans for a value that a person put there, and returns the key's state; none if there is no such value to wait for.
fn manual_keys(
    now: Timestamp,
    view: &SecretView<'_>,
    data_key: &str,
    demand: &KeyDemand,
    plan: &mut Plan,
) -> Option<KeyState> {
    if view.of_pods {
        return None;
    }
    let record = view.record.keys.get(data_key);
    match manual_keys::found(now, view, data_key, record, demand) {
        ManualValue::AsLeft => None,
        ManualValue::Asked => {
            // The value may be a person's key: nothing is done before that is known.
            if !view.issued.contains_key(&demand.control_plane) {
                earliest(&mut plan.confirm_at, now);
            }
            let held = view.process.held.get(data_key);
            Some(held.map_or(KeyState::Degraded, |held| held.state))
        }
        ManualValue::Key(key) => {
            let data_key = data_key.to_owned();
            plan.steps.push(Step::Adopt { data_key, key });
            Some(KeyState::Ready)
        }
    }
}

/// Returns why the key has to be created, if it has to.
fn need(
    now: Timestamp,
    view: &SecretView<'_>,
    data_key: &str,
    record: Option<&KeyRecord>,
    demand: &KeyDemand,
) -> Option<KeyReason> {
    let known = record.and_then(|key| Some((key, key.current.as_ref()?)));
    let current = known.map(|(_, current)| current);
    if let Some(flaw) = manual_keys::flaw(now, view, data_key, current, demand) {
        return Some(KeyReason::Refused(flaw));
    }
    let Some((key, current)) = known else {
        return Some(KeyReason::First);
    };
    if !view.filled.contains(data_key) {
        return Some(KeyReason::ValueLost);
    }
    if let Some(why) = view
        .issued
        .get(&demand.control_plane)
        .and_then(|issued| confirm(issued, view, current, demand))
    {
        return Some(why);
    }
    if current.asked != demand.asked {
        return Some(KeyReason::Changed);
    }
    if view.requests.open(data_key, key).is_some() {
        return Some(KeyReason::Requested);
    }
    (now >= due(current, demand)).then_some(KeyReason::Due)
}

/// Returns when the key is renewed. A person's key may live for less than the buffer: it is renewed after two thirds of its life.
fn due(current: &Made, demand: &KeyDemand) -> Timestamp {
    let life = Duration::try_from(current.expires.duration_since(current.created));
    let buffer = match current.origin {
        Origin::Ours => demand.buffer,
        Origin::Hand | Origin::Foreign => demand.buffer.min(life.unwrap_or_default() / 3),
    };
    before(current.expires, buffer)
}

/// Plans for a key that no pod uses: it stays as it is.
fn undemanded(
    now: Timestamp,
    view: &SecretView<'_>,
    data_key: &str,
    key: &KeyRecord,
    plan: &mut Plan,
) {
    if view.synced {
        give_up(now, view, data_key, key, plan);
    }
}

fn give_up(
    now: Timestamp,
    view: &SecretView<'_>,
    data_key: &str,
    key: &KeyRecord,
    plan: &mut Plan,
) {
    let Some(intent) = &key.intent else { return };
    if view.process.beside.contains(&intent.op) {
        return;
    }
    match respected_until(now, view.process, intent) {
        Some(until) if now < until => earliest(&mut plan.cleanup_at, until),
        Some(_) | None => plan.steps.push(Step::GiveUp {
            data_key: data_key.to_owned(),
        }),
    }
}

/// Returns whether this process is about to create the key of the intent.
fn followed(process: &Process, intent: &Intent) -> bool {
    intent.writer == process.writer && process.live.contains(&intent.op)
}

/// Returns until when an intent is left to the process that wrote it; none if this process wrote it.
fn respected_until(now: Timestamp, process: &Process, intent: &Intent) -> Option<Timestamp> {
    // An intent from the future was written by a clock that is off: it might never grow old enough.
    let from_the_future = intent.started_at > after(now, process.intent_ttl);
    if intent.writer == process.writer || from_the_future {
        return None;
    }
    Some(after(intent.started_at, process.intent_ttl))
}

#[cfg(test)]
mod tests;
