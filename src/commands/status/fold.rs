//! Merges the keys of a service's single pods into one row: a row per pod would be too long to read. Pure.

use std::collections::BTreeMap;

use sidescale_core::key_state::KeyState;
use sidescale_webhook::identity::POD_SECRET;

use super::row::StatusRow;

/// Merges the keys of single pods, by service and control plane; the others stay as they are.
pub(super) fn fold(rows: Vec<StatusRow>) -> Vec<StatusRow> {
    let mut folded = Vec::new();
    let mut own: BTreeMap<(String, String, String), StatusRow> = BTreeMap::new();
    for row in rows {
        // A Secret that is damaged as a whole belongs to no service.
        if row.secret != POD_SECRET || row.service.is_empty() {
            folded.push(row);
            continue;
        }
        let name = [&row.namespace, &row.service, &row.control_plane].map(String::clone);
        match own.get_mut(&name.clone().into()) {
            Some(all) => join(all, row),
            None => {
                let data_key = format!("{}-*-authkey", row.service);
                let key_id = None;
                let row = StatusRow {
                    data_key,
                    key_id,
                    ..row
                };
                own.insert(name.into(), row);
            }
        }
    }
    folded.extend(own.into_values());
    folded
}

fn join(all: &mut StatusRow, row: StatusRow) {
    let StatusRow {
        namespace: _,
        service: _,
        control_plane: _,
        secret: _,
        data_key: _,
        user: _,
        tags,
        key_id: _,
        keys,
        created,
        expires,
        next_rotation,
        pending,
        ending,
        state,
        owners,
        pods,
        // Each row has everything that joined with a key of the user.
        nodes_online: _,
        last_seen: _,
        nodes: _,
        verified,
        problems,
        unexplained,
    } = row;
    let first = |one, other: Option<_>| match (one, other) {
        (Some(one), Some(other)) => Some(std::cmp::min(one, other)),
        (one, other) => one.or(other),
    };
    let missing = tags.into_iter().filter(|tag| !all.tags.contains(tag));
    let missing = Vec::from_iter(missing);
    all.tags.extend(missing);
    all.keys += keys;
    all.created = first(all.created, created);
    all.expires = first(all.expires, expires);
    all.next_rotation = first(all.next_rotation, next_rotation);
    all.pending = all.pending.or(pending);
    all.ending.extend(ending);
    if weight(&state) > weight(&all.state) {
        all.state = state;
    }
    all.owners.extend(owners);
    all.pods += pods;
    all.verified = all.verified.zip(verified).map(|(one, other)| one && other);
    for problem in problems {
        if !all.problems.contains(&problem) {
            all.problems.push(problem);
        }
    }
    all.unexplained |= unexplained;
}

/// Orders problems before good keys, and those before unused ones.
fn weight(state: &str) -> u8 {
    match state {
        "Unused" => 0,
        state if state == KeyState::Ready.as_str() => 1,
        _ => 2,
    }
}
