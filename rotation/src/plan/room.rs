//! Room for keys: in the namespace's quota, and in the bytes of a Secret. Unused keys make room for others. Pure.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use sidescale_core::time::after;

use super::per_pod;
use super::step::{Plan, Step};
use super::view::SecretView;
use crate::record::KeyRecord;

/// How long a key must be unused before it makes room for another service: a rollout is shorter.
const MAKES_ROOM_AFTER: Duration = Duration::from_secs(600);

/// Size in bytes up to which a Secret takes keys of new services. It may have 1 MiB; the rest is for keys that are being replaced.
pub(super) const TAKES_NEW: usize = 3 * (1 << 20) / 4;

/// Result of checking the size of a Secret.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct SecretRoom {
    /// Demanded keys that it has no room for.
    pub(super) over: BTreeSet<String>,
    /// How many bytes the Secret exceeds the limit with those keys in it.
    lacking: usize,
}

/// Checks the size of a Secret of shared keys; the oldest services come first.
pub(super) fn of_bytes(view: &SecretView<'_>) -> SecretRoom {
    if view.of_pods {
        return SecretRoom::default();
    }
    let is_new = |data_key: &String| {
        let key = view.record.keys.get(data_key);
        key.is_none_or(|key| key.current.is_none() && key.intent.is_none())
    };
    let new = view.demand.iter();
    let new = new.filter(|(data_key, _)| is_new(data_key) && !view.over_quota.contains(*data_key));
    let mut new: Vec<_> = new
        .map(|(data_key, demand)| (demand.since, data_key, per_pod::weight_of(data_key, demand)))
        .collect();
    new.sort();
    let mut used = view.bytes;
    let mut room = SecretRoom::default();
    for (_, data_key, weight) in new {
        if used + weight > TAKES_NEW {
            room.over.insert(data_key.clone());
        }
        used += weight;
    }
    // Keys taken out already remain in the record for one overlap.
    let leaving = |key: &&KeyRecord| key.current.is_none() && !key.previous.is_empty();
    let leaving = view.record.keys.values().filter(leaving).count() * per_pod::WEIGHT;
    room.lacking = used.saturating_sub(TAKES_NEW + leaving);
    room
}

/// Retires the keys unused for longest, to make room for services without a key and for the lacking bytes.
pub(super) fn make(now: Timestamp, view: &SecretView<'_>, room: &SecretRoom, plan: &mut Plan) {
    if !view.synced || view.of_pods {
        return;
    }
    let for_bytes = room.lacking.div_ceil(per_pod::WEIGHT);
    for data_key in longest_unused(now, view)
        .into_iter()
        .take(view.excess.max(for_bytes))
    {
        let retire = Step::Retire {
            data_key: data_key.clone(),
        };
        if !plan.steps.contains(&retire) {
            plan.steps.push(retire);
        }
    }
}

/// Returns the keys in force that no pod needs or refers to, longest unused first.
fn longest_unused<'a>(now: Timestamp, view: &SecretView<'a>) -> Vec<&'a String> {
    let unused = view.record.keys.iter().filter_map(|(data_key, key)| {
        let needed = view.demand.contains_key(data_key) || view.held.contains(data_key);
        let since = key
            .unused_since
            .filter(|_| !needed && key.current.is_some())?;
        (now >= after(since, MAKES_ROOM_AFTER)).then_some((since, data_key))
    });
    let mut unused: Vec<_> = unused.collect();
    unused.sort();
    unused.into_iter().map(|(_, data_key)| data_key).collect()
}
