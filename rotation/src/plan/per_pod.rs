//! Keys of single pods: each works once, is renewed until its pod has joined, and stays as long as the pod does. Pure.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use sidescale_core::id::KeyId;
use sidescale_core::time::after;

use super::confirmed::{confirm, listed};
use super::step::{KeyReason, Plan, Step};
use super::view::{IssuedKeys, SecretView};
use super::when::{before, earliest};
use crate::demand::KeyDemand;
use crate::owner::KeyHolder;
use crate::record::KeyRecord;

/// Overlap of a key that was renewed because its pod had not joined: the pod may have read it a moment before.
pub(super) const OVERLAP: Duration = Duration::from_secs(300);

/// How long the key of a deleted pod is kept: its kubelet may not know yet.
pub(super) const KEPT_FOR: Duration = Duration::from_secs(600);

/// Maximum number of pods of a namespace with keys of their own.
const MOST_PODS: usize = 2_000;

/// Bytes of a Secret that keys may use: a Secret may hold 1 MiB, and an eighth is left for keys that are being created.
const ROOM: usize = 7 * (1 << 20) / 8;

/// Bytes of one key's value and record without names: a value of 90 and a record of 290.
pub(super) const WEIGHT: usize = 400;

/// Maximum number of intents in one write: an intent is as long as the record of a key.
const MOST_INTENTS: usize = 64;

/// Returns why the key has to be created, if it has to; or plans when to ask the control plane's list of keys.
///
/// Being due is no reason on its own: most pods have joined by then, and only the control plane knows.
pub(super) fn need(
    now: Timestamp,
    view: &SecretView<'_>,
    data_key: &str,
    record: Option<&KeyRecord>,
    demand: &KeyDemand,
    plan: &mut Plan,
) -> Option<KeyReason> {
    let Some((key, current)) = record.and_then(|key| Some((key, key.current.as_ref()?))) else {
        return Some(KeyReason::First);
    };
    if !view.filled.contains(data_key) {
        // Without a value the container could not restart, even if it does not use the key.
        return Some(KeyReason::ValueLost);
    }
    if key.joined_with.is_some() {
        return None;
    }
    let issued = view.issued.get(&demand.control_plane);
    if let Some(issued) = issued {
        if let Some(id) = used(issued, key) {
            let data_key = data_key.to_owned();
            plan.steps.push(Step::NoteJoined { data_key, id });
            return None;
        }
        if let Some(why) = confirm(issued, view, current, demand) {
            return Some(why);
        }
    }
    if current.asked != demand.asked {
        return Some(KeyReason::Changed);
    }
    if view.requests.open(data_key, key).is_some() {
        return Some(KeyReason::Requested);
    }
    let due = before(current.expires, demand.buffer);
    if now < due {
        earliest(&mut plan.confirm_at, due);
        return None;
    }
    if let Some(issued) = issued {
        if !issued.tells_of(current.id) {
            // Whether the pod has joined with it is unknown.
            return None;
        }
        // A pod with a volume may come back as an existing node, and not use its key yet.
        let holders = [
            KeyHolder::Service(view.owner(&demand.service)),
            KeyHolder::Adopted(demand.asked.user.clone()),
        ];
        let is_online = |host: &String| {
            let mut names = holders.iter().map(|holder| (holder.clone(), host.clone()));
            names.any(|name| issued.online.contains(&name))
        };
        if demand.hostname.as_ref().is_some_and(is_online) {
            earliest(&mut plan.confirm_at, after(now, demand.expiration));
            return None;
        }
        return Some(KeyReason::NotJoined);
    }
    ask(now, view, data_key, plan);
    None
}

/// Delays the expiry of a renewed key until it is known that its pod has not joined with it.
pub(super) fn ask_before_the_end(
    now: Timestamp,
    view: &SecretView<'_>,
    data_key: &str,
    key: &KeyRecord,
    plan: &mut Plan,
) {
    let known = key.joined_with.is_some() || view.issued.contains_key(&key.control_plane);
    if known || !view.demand.contains_key(data_key) {
        return;
    }
    let steps = plan.steps.len();
    let ends = |step: &Step| matches!(step, Step::Expire { data_key: of, .. } if of == data_key);
    plan.steps.retain(|step| !ends(step));
    if plan.steps.len() < steps {
        ask(now, view, data_key, plan);
    }
}

/// Requests the control plane's list of keys. Not while the key is blocked: afterwards everything is checked anyway.
fn ask(now: Timestamp, view: &SecretView<'_>, data_key: &str, plan: &mut Plan) {
    if !view.process.held.contains_key(data_key) {
        earliest(&mut plan.confirm_at, now);
    }
}

/// Returns which of a pod's keys was used: the one in force, or an earlier one that the pod had read before.
fn used(issued: &IssuedKeys, key: &KeyRecord) -> Option<KeyId> {
    let current = key
        .current
        .iter()
        .map(|current| (current.id, current.expires));
    let previous = key.previous.iter();
    let previous = previous.map(|previous| (previous.id, previous.expires));
    let is_used = |(id, expires): &(KeyId, Timestamp)| {
        listed(issued, *id, *expires).is_some_and(|listed| listed.used)
    };
    current.chain(previous).find(is_used).map(|(id, _)| id)
}

/// Returns the demanded keys that the Secret has no room for: existing keys stay, then the oldest pods come first.
pub(super) fn over_quota(view: &SecretView<'_>) -> BTreeSet<String> {
    let mut room = ROOM;
    // Keys that no pod demands take up room as well.
    for (data_key, key) in &view.record.keys {
        if !view.demand.contains_key(data_key) {
            room = room.saturating_sub(weight(data_key, key.service.len(), &[]));
        }
    }
    let mut order: Vec<_> = view.demand.iter().collect();
    order.sort_by_key(|(data_key, demand)| {
        let key = view.record.keys.get(*data_key);
        let has_key = key.is_some_and(|key| key.current.is_some());
        (!has_key, demand.since, (*data_key).clone())
    });
    let mut left = MOST_PODS;
    let too_many = order.into_iter().filter(|(data_key, demand)| {
        let weight = weight_of(data_key, demand);
        let fits = left > 0 && weight <= room;
        if fits {
            left -= 1;
            room -= weight;
        }
        !fits
    });
    too_many.map(|(data_key, _)| data_key.clone()).collect()
}

/// Leaves intents that are too many for one write to the next plan.
pub(super) fn bound(plan: &mut Plan) {
    let mut intents = 0;
    plan.steps.retain(|step| {
        let intent = matches!(step, Step::Intend { .. });
        intents += usize::from(intent);
        !intent || intents <= MOST_INTENTS
    });
}

/// Returns the bytes that a key takes in its Secret, including the record.
pub(super) fn weight_of(data_key: &str, demand: &KeyDemand) -> usize {
    let names = demand.asked.tags.iter().map(String::len);
    let names: Vec<_> = names.chain([demand.asked.user.len()]).collect();
    weight(data_key, demand.service.len(), &names)
}

fn weight(data_key: &str, service: usize, names: &[usize]) -> usize {
    let names = names.iter().map(|length| length + 4).sum::<usize>();
    WEIGHT + data_key.len() + service + names
}
