//! A value that a person put into a Secret: it wins if it is a living key, and is told and replaced if it is not. Pure.

use jiff::Timestamp;

use super::view::{IssuedKeys, SecretView};
use crate::control_plane::{KeyPrefix, PreAuthKey};
use crate::rotation::demand::KeyDemand;
use crate::rotation::owner::ServiceOwner;
use crate::rotation::record::{IssuedKey as Adopted, KeyRecord, KeySpec, Origin};
use crate::rotation::value::Flaw;

/// What stands in the place of a key.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ManualValue {
    /// What we left there, or nothing of use.
    AsLeft,
    /// A value that no record knows: what it is, the control plane has to say.
    Asked,
    /// A living key that we did not put there.
    Key(Adopted),
}

/// Looks at what stands in the place of a key.
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
        // It may be one of those that were not read.
        return ManualValue::Asked;
    }
    let row = listed.filter(|row| current.is_none_or(|current| current.id != row.id));
    let owner = view.owner(&demand.service);
    match row.map(|row| (row, adopted(now, row, issued, (&owner, demand)))) {
        Some((row, Some(key))) if unfit(now, row, &demand.asked).is_none() => ManualValue::Key(key),
        Some(_) | None => ManualValue::AsLeft,
    }
}

/// What is wrong with a value that is not the one in force, and no other key to use.
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
        // Only a row that shows its prefix can tell that the value is another.
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

/// Why a key that the control plane has is of no use to pods. Its user and tags are up to whoever put it there.
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

/// The key as if it were what pods ask for: they keep it until they ask for something else, or it is due.
fn adopted(
    now: Timestamp,
    row: &PreAuthKey,
    issued: &IssuedKeys,
    (owner, demand): (&ServiceOwner, &KeyDemand),
) -> Option<Adopted> {
    // Only the prefix of the value was compared, and whoever put it there may have seen no more than that: the key is expired
    // one day only if Sidescale created its user for this very service.
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
