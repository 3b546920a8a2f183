//! Whether a control plane's list bears out what a record says of a key in force. Pure.

use jiff::Timestamp;

use super::expire;
use super::step::KeyReason;
use super::view::{IssuedKeys, SecretView};
use crate::control_plane::{KeyId, PreAuthKey};
use crate::fingerprint::same_fingerprint;
use crate::rotation::demand::KeyDemand;
use crate::rotation::owner::ServiceOwner;
use crate::rotation::record::{IssuedKey as Made, KeyRecord, Origin};

/// Whether the row is there, with that end, and the service's own.
pub(super) fn owned(issued: &IssuedKeys, owner: &ServiceOwner, current: &Made) -> bool {
    let row = listed(issued, current.id, current.expires);
    row.is_some_and(|row| issued.serves(row, owner, &current.asked.user))
}

/// Whether the list confirms the end of the key in force; none where it was not asked. A key that a person put there may be another
/// user's: then the Secret has to hold its value, which is compared by its prefix.
pub(in crate::rotation) fn confirms_end(
    view: &SecretView<'_>,
    data_key: &str,
    key: &KeyRecord,
    current: &Made,
) -> Option<bool> {
    let issued = view.issued.get(&key.control_plane)?;
    if owned(issued, &view.owner(&key.service), current) {
        return Some(true);
    }
    if !issued.tells_of(current.id) {
        return None;
    }
    let row = listed(issued, current.id, current.expires);
    let held = view
        .values
        .get(data_key)
        .and_then(|value| value.prefix.as_ref());
    let by_hand = current.origin == Origin::Foreign && held.is_some();
    Some(by_hand && row.is_some_and(|row| row.prefix.as_ref() == held))
}

/// Why the control plane's list says that the key in force is not the one that pods ask for.
///
/// The record cannot say that: whoever may edit the Secret may have written it, or have copied it from elsewhere. What a person
/// put there is the person's choice.
pub(super) fn confirm(
    issued: &IssuedKeys,
    view: &SecretView<'_>,
    current: &Made,
    demand: &KeyDemand,
) -> Option<KeyReason> {
    let Some(row) = listed(issued, current.id, current.expires) else {
        return issued.tells_of(current.id).then_some(KeyReason::Lost);
    };
    let owner = view.owner(&demand.service);
    match current.origin {
        Origin::Ours if !issued.serves(row, &owner, &demand.asked.user) => {
            Some(KeyReason::NotOwned)
        }
        Origin::Ours if expire::differs(row, &demand.asked) => Some(KeyReason::Changed),
        // The person's choice went with the namespace that it was made in.
        Origin::Hand | Origin::Foreign
            if view.recreated && !issued.serves(row, &owner, &demand.asked.user) =>
        {
            Some(KeyReason::NotOwned)
        }
        Origin::Ours | Origin::Hand | Origin::Foreign => None,
    }
}

/// A key of ours, as its control plane lists it.
pub(super) fn listed(issued: &IssuedKeys, id: KeyId, expires: Timestamp) -> Option<&PreAuthKey> {
    // Compared with what was asked, not with our clock: a clock that is off must not look like an ended key.
    // Another end is an ended key, or one that got its id after Headscale was put back as it was.
    let is_this = |key: &&PreAuthKey| {
        key.expiration
            .is_some_and(|at| same_fingerprint(at, expires))
    };
    issued.keys.get(&id).filter(is_this)
}
