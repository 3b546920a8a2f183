//! Expiry of old keys: keys whose overlap has passed, keys of lost intents; and a check of created keys. Pure.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use sidescale_core::fingerprint::same_fingerprint;
use sidescale_core::id::{KeyId, UserId};
use sidescale_core::objects::PreAuthKey;
use sidescale_core::time::after;

use super::step::{ExpireReason, Plan, Step};
use super::view::{IssuedKeys, SecretView};
use super::when::earliest;
use crate::owner::ServiceOwner;
use crate::record::{ABANDONED_FOR, Abandoned, Intent, KeyRecord, KeySpec};
use crate::retention::unused::Unused;

/// How long after an intent was abandoned its key is looked for: until then, a job that lost a race expires its own key.
const SETTLES_IN: Duration = Duration::from_secs(15);

/// Plans the expiry of old keys.
pub(super) fn cleanup(
    now: Timestamp,
    view: &SecretView<'_>,
    (data_key, key): (&str, &KeyRecord),
    in_force: &BTreeSet<(&str, KeyId)>,
    overlap: Duration,
    plan: &mut Plan,
) {
    let in_force = |id| in_force.contains(&(key.control_plane.as_str(), id));
    // Otherwise, times set by a fast clock would only come when the clock shows them.
    let put_off = key
        .previous
        .iter()
        .any(|old| old.expire_at > after(now, overlap));
    let far = after(now, ABANDONED_FOR);
    if put_off || key.abandoned.iter().any(|lost| lost.since > far) {
        let data_key = data_key.to_owned();
        plan.steps.push(Step::BringBack { data_key });
        return;
    }
    for previous in &key.previous {
        let (data_key, id) = (data_key.to_owned(), previous.id);
        let revoked = previous.revoked || view.requests.revoke(&data_key, id);
        if in_force(id) {
            plan.steps.push(Step::ForgetPrevious { data_key, id });
        } else if now >= previous.expire_at || revoked {
            plan.steps.push(Step::Expire {
                data_key,
                control_plane: key.control_plane.clone(),
                id,
                expires: previous.expires,
                why: if revoked {
                    ExpireReason::Revoked
                } else {
                    ExpireReason::Overlap
                },
            });
        } else {
            earliest(&mut plan.cleanup_at, previous.expire_at);
        }
    }
    for abandoned in &key.abandoned {
        let over = after(abandoned.since, ABANDONED_FOR);
        let owner = view.owner(&key.service);
        let Some(issued) = view.issued.get(&key.control_plane) else {
            earliest(&mut plan.confirm_at, after(abandoned.since, SETTLES_IN));
            continue;
        };
        let mut found = issued
            .keys
            .values()
            .filter(|row| made_by(abandoned, row, issued, &owner))
            .peekable();
        if found.peek().is_none() && now >= over && !issued.truncated {
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
        let found = found.filter(|found| !in_force(found.id));
        plan.steps.extend(found.map(|found| Step::Expire {
            data_key: data_key.to_owned(),
            control_plane: key.control_plane.clone(),
            id: found.id,
            expires: abandoned.intent.expires,
            why: ExpireReason::LostIntent,
        }));
    }
}

/// Plans the steps for the use of a key.
pub(super) fn use_of(data_key: &str, unused: Unused, plan: &mut Plan) {
    let data_key = data_key.to_owned();
    let step = match unused {
        Unused::Used => return,
        Unused::Wait(until) => return earliest(&mut plan.cleanup_at, until),
        Unused::Note(unused_since) => Step::NoteUse {
            data_key,
            unused_since,
        },
        Unused::Retire => Step::Retire { data_key },
        Unused::Forget => Step::Forget { data_key },
    };
    plan.steps.push(step);
}

/// Returns whether the key was certainly created from the intent.
fn made_by(
    abandoned: &Abandoned,
    row: &PreAuthKey,
    issued: &IssuedKeys,
    owner: &ServiceOwner,
) -> bool {
    let Intent { asked, expires, .. } = &abandoned.intent;
    let ends = row
        .expiration
        .is_some_and(|at| same_fingerprint(at, *expires));
    ends && issued.serves(row, owner, &asked.user) && !differs(row, asked)
}

/// Returns whether the key has other tags or properties than requested.
pub(super) fn differs(row: &PreAuthKey, asked: &KeySpec) -> bool {
    let mut tags = row.tags.clone();
    tags.sort();
    let KeySpec {
        user: _,
        tags: wanted,
        reusable,
        ephemeral,
    } = asked;
    (&tags, row.reusable, row.ephemeral) != (wanted, *reusable, *ephemeral)
}

/// Compares the key with the request field by field; returns the first field that differs.
#[must_use]
pub fn mismatch(key: &PreAuthKey, user: UserId, intent: &Intent) -> Option<&'static str> {
    let KeySpec {
        user: _,
        tags,
        reusable,
        ephemeral,
    } = &intent.asked;
    let user_fits = key.user == Some(user);
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
