//! Whether a control plane's list bears out what a record says of a key in force. Pure.

use super::listed;
use super::view::{Issued, View};
use crate::rotation::owner::Owner;
use crate::rotation::record::{Issued as Made, KeyRecord, Origin};

/// Whether the row is there, with that end, and the service's own.
pub(super) fn owned(issued: &Issued, owner: &Owner, current: &Made) -> bool {
    let row = listed(issued, current.id, current.expires);
    row.is_some_and(|row| issued.serves(row, owner, &current.asked.user))
}

/// Whether the list confirms the end of the key in force; none where it was not asked. A key that a person put there may be another
/// user's: then the Secret has to hold its value, which is compared by its prefix.
pub(in crate::rotation) fn confirms_end(
    view: &View<'_>,
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
