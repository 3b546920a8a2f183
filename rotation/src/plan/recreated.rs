//! A record from an earlier namespace of the same name: what the control planes confirm is kept, the rest is created again.
//! Pure.

use jiff::Timestamp;

use super::confirmed::owned;
use super::step::{Plan, Step};
use super::view::SecretView;
use super::when::earliest;
use crate::record::KeyRecord;

/// Plans for such a record: retires keys without pods that no control plane confirms. Once every other key is confirmed, the
/// record becomes the namespace's own. Keys that pods need are replaced as [`super::KeyReason::NotOwned`].
pub(super) fn take_over(now: Timestamp, view: &SecretView<'_>, plan: &mut Plan) {
    if !view.recreated {
        return;
    }
    let mut open = false;
    // Keys of single pods go with their pods: pods of the earlier namespace never return.
    let keys = view.record.keys.iter().filter(|_| !view.of_pods);
    for (data_key, key) in keys {
        if confirmed(view, key) {
            continue;
        }
        let needed = view.demand.contains_key(data_key) || view.held.contains(data_key);
        if needed || !view.synced || !is_read(view, key) {
            open = true;
            continue;
        }
        let data_key = data_key.clone();
        let retire = Step::Retire { data_key };
        if !plan.steps.contains(&retire) {
            plan.steps.push(retire);
        }
    }
    if !open {
        plan.steps.push(Step::TakeOver);
    } else if view.issued.is_empty() {
        earliest(&mut plan.confirm_at, now);
    }
}

/// Returns whether there is no key in force, or the control plane confirms that it is the service's own.
fn confirmed(view: &SecretView<'_>, key: &KeyRecord) -> bool {
    let Some(current) = &key.current else {
        return true;
    };
    let issued = view.issued.get(&key.control_plane);
    issued.is_some_and(|issued| owned(issued, &view.owner(&key.service), current))
}

/// Returns whether the control plane was asked, and its list tells about the key in force.
fn is_read(view: &SecretView<'_>, key: &KeyRecord) -> bool {
    let issued = view.issued.get(&key.control_plane);
    let current = key.current.as_ref();
    issued.is_some_and(|issued| current.is_none_or(|current| issued.tells_of(current.id)))
}
