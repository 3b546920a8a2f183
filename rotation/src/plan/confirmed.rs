//! Whether a control plane's list confirms what a record says of the key in force. Pure.

use jiff::Timestamp;
use sidescale_core::fingerprint::same_fingerprint;
use sidescale_core::id::KeyId;
use sidescale_core::objects::PreAuthKey;

use super::expire;
use super::step::KeyReason;
use super::view::{IssuedKeys, SecretView};
use crate::demand::KeyDemand;
use crate::owner::ServiceOwner;
use crate::record::{IssuedKey as Made, KeyRecord, Origin};

/// Returns whether the list has the key with this expiry, and it is the service's own.
pub(super) fn owned(issued: &IssuedKeys, owner: &ServiceOwner, current: &Made) -> bool {
    let row = listed(issued, current.id, current.expires);
    row.is_some_and(|row| issued.serves(row, owner, &current.asked.user))
}

/// Returns whether the list confirms the expiry of the key in force; none if the control plane was not asked. A key that a
/// person put there may be another user's: then the Secret has to contain its value, which is compared by its prefix.
pub fn confirms_end(
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

/// Returns why, by the control plane's list, the key in force is not the one that pods ask for.
///
/// The record cannot tell: anybody who may edit the Secret may have written it or copied it from elsewhere. A key that a
/// person put there is the person's choice.
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
        // The person's choice was made in the earlier namespace, and does not count in this one.
        Origin::Hand | Origin::Foreign
            if view.recreated && !issued.serves(row, &owner, &demand.asked.user) =>
        {
            Some(KeyReason::NotOwned)
        }
        Origin::Ours | Origin::Hand | Origin::Foreign => None,
    }
}

/// Returns the row of a key in force.
pub(super) fn listed(issued: &IssuedKeys, id: KeyId, expires: Timestamp) -> Option<&PreAuthKey> {
    // Compared with the requested expiry, not with our clock: a wrong clock must not make a key look expired.
    // Another expiry means that the key was expired, or that its id was reassigned after Headscale was restored.
    let is_this = |key: &&PreAuthKey| {
        key.expiration
            .is_some_and(|at| same_fingerprint(at, expires))
    };
    issued.keys.get(&id).filter(is_this)
}
