//! A value that a person put into a Secret: a valid key wins; any other value is reported and replaced. Pure.

use jiff::Timestamp;
use sidescale_core::key_prefix::KeyPrefix;
use sidescale_core::objects::PreAuthKey;

use super::view::{IssuedKeys, SecretView};
use crate::demand::KeyDemand;
use crate::owner::ServiceOwner;
use crate::record::{IssuedKey as Adopted, KeyRecord, KeySpec, Origin};
use crate::value::Flaw;

/// The value in the place of a key.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ManualValue {
    /// Our own value, or nothing usable.
    AsLeft,
    /// A value that no record knows: the control plane has to tell what it is.
    Asked,
    /// A valid key that Sidescale did not put there.
    Key(Adopted),
}

/// Returns what is in the place of a key.
pub(super) fn found(
    now: Timestamp,
    view: &SecretView<'_>,
    data_key: &str,
    record: Option<&KeyRecord>,
    demand: &KeyDemand,
) -> ManualValue {
    let value = view.values.get(data_key);
    let Some(prefix) = value.and_then(|value| value.prefix.as_ref()) else {
        return ManualValue::AsLeft;
    };
    let current = record.and_then(|key| key.current.as_ref());
    let begun = record.is_some_and(|key| key.intent.is_some());
    let Some(issued) = view.issued.get(&demand.control_plane) else {
        return match current {
            None if !begun => ManualValue::Asked,
            Some(_) | None => ManualValue::AsLeft,
        };
    };
    let listed = row(issued, prefix);
    if listed.is_none() && issued.truncated && current.is_none() && !begun {
        // It may be a key that was not read.
        return ManualValue::Asked;
    }
    let row = listed.filter(|row| current.is_none_or(|current| current.id != row.id));
    let owner = view.owner(&demand.service);
    match row.map(|row| (row, adopted(now, row, issued, (&owner, demand)))) {
        Some((row, Some(key))) if unfit(now, row, &demand.asked).is_none() => ManualValue::Key(key),
        Some(_) | None => ManualValue::AsLeft,
    }
}

/// Returns what is wrong with a value that is neither the key in force nor another usable key.
pub(super) fn flaw(
    now: Timestamp,
    view: &SecretView<'_>,
    data_key: &str,
    current: Option<&Adopted>,
    demand: &KeyDemand,
) -> Option<Flaw> {
    let value = view.values.get(data_key)?;
    if value.flaw.is_some() {
        return value.flaw;
    }
    let issued = view.issued.get(&demand.control_plane);
    if let Some(current) = current {
        // Only a row with a prefix can show that the value is a different one.
        let shown = issued?.keys.get(&current.id)?.prefix.as_ref()?;
        if value.prefix.as_ref() == Some(shown) {
            return None;
        }
    }
    let Some(prefix) = &value.prefix else {
        return Some(Flaw::Form);
    };
    match row(issued?, prefix) {
        Some(row) => unfit(now, row, &demand.asked),
        None => (!issued?.truncated).then_some(Flaw::Unknown),
    }
}

fn row<'a>(issued: &'a IssuedKeys, prefix: &KeyPrefix) -> Option<&'a PreAuthKey> {
    let mut keys = issued.keys.values();
    keys.find(|key| key.prefix.as_ref() == Some(prefix))
}

/// Returns why pods cannot use a key of the control plane. User and tags are the choice of the person who put it there.
fn unfit(now: Timestamp, row: &PreAuthKey, asked: &KeySpec) -> Option<Flaw> {
    if row.expiration.is_none_or(|end| end <= now) {
        Some(Flaw::Ended)
    } else if row.reusable {
        None
    } else if row.used {
        Some(Flaw::UsedUp)
    } else {
        asked.reusable.then_some(Flaw::Once)
    }
}

/// Returns the key as if it had what pods ask for: they keep it until they ask for something else, or it is due.
fn adopted(
    now: Timestamp,
    row: &PreAuthKey,
    issued: &IssuedKeys,
    (owner, demand): (&ServiceOwner, &KeyDemand),
) -> Option<Adopted> {
    // Only the prefix of the value was compared, and the person who put it there may know only that prefix. So the key is
    // later expired only if Sidescale created its user for this very service.
    let user = issued.user_of(row);
    let of_ours = user.is_some_and(|user| user.owner.as_ref() == Some(owner));
    Some(Adopted {
        id: row.id,
        created: row.created_at.unwrap_or(now).min(now),
        expires: row.expiration?,
        origin: if of_ours {
            Origin::Hand
        } else {
            Origin::Foreign
        },
        asked: demand.asked.clone(),
    })
}
