//! The output of `sidescale cleanup` about each removal, and about what remains. Pure.

use anyhow::Result;
use jiff::Timestamp;
use sidescale_core::id::Id;
use sidescale_rotation::demand::Demands;
use sidescale_rotation::retention::removal::Removal;
use sidescale_rotation::retention::unused::{Unused, unused};
use sidescale_webhook::profile::Policy;

use crate::controller::sweep::{ListedSecret, Removed};

/// Describes a removal, after "would".
pub(super) fn to_do(control_plane: &str, removal: &Removal<'_>) -> String {
    match removal {
        Removal::Orphan { key, user, owner } => format!(
            "expire key {} of user {user} at control plane {control_plane}: it is still valid, and no Secret of namespace {} \
             records it",
            key.id.0, owner.namespace
        ),
        Removal::Row { key } => format!(
            "delete the row of key {} at control plane {control_plane}: it has expired, and no node and no record refers to \
             it",
            key.0
        ),
        Removal::Node {
            id,
            name,
            user,
            seen,
        } => format!(
            "delete node {name} (id {}) of user {user} at control plane {control_plane}: no pod needs it, and it was last \
             seen at {seen}",
            id.0
        ),
        Removal::User { id, name } => format!(
            "delete user {name} (id {}) at control plane {control_plane}: it has no service, node or key",
            id.0
        ),
    }
}

/// Describes a removal that was done, or why it was not.
pub(super) fn outcome(
    control_plane: &str,
    removal: &Removal<'_>,
    removed: Result<Removed>,
) -> String {
    let to_do = || to_do(control_plane, removal);
    match removed {
        Ok(Removed::Yes) => done(control_plane, removal),
        Ok(Removed::StillReferenced) => {
            format!("skipped, because it is needed by now: {}", to_do())
        }
        Ok(Removed::Unread(problem)) => format!("skipped, because {problem}: {}", to_do()),
        Err(error) => format!("failed to {}: {error:#}", to_do()),
    }
}

fn done(control_plane: &str, removal: &Removal<'_>) -> String {
    match removal {
        Removal::Orphan { key, user, .. } => format!(
            "expired key {} of user {user} at control plane {control_plane}",
            key.id.0
        ),
        Removal::Row { key } => {
            format!(
                "deleted the row of key {} at control plane {control_plane}",
                key.0
            )
        }
        Removal::Node { id, name, user, .. } => format!(
            "deleted node {name} (id {}) of user {user} at control plane {control_plane}",
            id.0
        ),
        Removal::User { id, name } => {
            format!(
                "deleted user {name} (id {}) at control plane {control_plane}",
                id.0
            )
        }
    }
}

/// Lists the keys that no pod needs: they are expired in time by the running Sidescale, the only writer of their
/// Secrets.
pub(super) fn left(
    now: Timestamp,
    secrets: &[ListedSecret],
    demands: &Demands,
    policy: &Policy,
) -> Vec<String> {
    let mut lines = Vec::new();
    for ListedSecret {
        secret,
        ours: _,
        record,
    } in secrets.iter().filter(|one| one.ours || one.record.is_err())
    {
        let namespace = demands.namespaces.get(secret.namespace.as_str());
        let needed = namespace.and_then(|namespace| namespace.secrets.get(&secret.name));
        let record = match record {
            Ok(record) => record,
            Err(problem) => {
                lines.push(format!(
                    "skipped, with everything else of its namespace: {problem}"
                ));
                continue;
            }
        };
        for (data_key, key) in &record.keys {
            let demanded = needed.is_some_and(|needed| needed.contains_key(data_key));
            let when = match unused(now, key, demanded, policy.rotation.unused_keys_after) {
                Unused::Used | Unused::Note(None) | Unused::Forget => continue,
                Unused::Note(Some(_)) => "if that remains so".to_owned(),
                Unused::Wait(until) => format!("after {until}"),
                Unused::Retire => "soon".to_owned(),
            };
            let id = key
                .current
                .as_ref()
                .map_or(Id::from(0), |current| current.id.0);
            lines.push(format!(
                "left to Sidescale: no pod needs key {id} of service {} in Secret {secret}; it is removed and expired {when}",
                key.service
            ));
        }
    }
    lines
}
