//! A pass over everything: all Secrets of keys, then what the control planes hold. I/O.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use futures::future::join_all;
use sidescale_core::key_state::KeyState;
use sidescale_core::problem::Problem;
use sidescale_core::secret::SecretRef;
use sidescale_rotation::plan::IssuedKeys;

use super::snapshots::{ReadSecret, Snapshots};
use crate::cluster;
use crate::controller::context::Context;
use crate::controller::session::Session;

/// What a pass has read: the Secrets, then the keys.
pub(super) struct Pass {
    /// When the Secrets were read.
    pub(super) read_at: Instant,
    pub(super) secrets: Result<Vec<(SecretRef, ReadSecret)>, Problem>,
    pub(super) issued: BTreeMap<String, IssuedKeys>,
    pub(super) suspects: BTreeMap<String, Problem>,
}

/// Reads all Secrets of keys, then what the control planes hold: `plan` depends on this order.
pub(super) async fn pass(context: &Context, planes: BTreeMap<String, Arc<Session>>) -> Pass {
    let mut passed = Pass {
        read_at: Instant::now(),
        secrets: Ok(Vec::new()),
        issued: BTreeMap::new(),
        suspects: BTreeMap::new(),
    };
    let mut snapshots = Snapshots::default();
    let read = context.each_secret(|secret| snapshots.take(secret));
    if let Err(error) = read.await {
        passed.secrets = Err(Problem {
            state: KeyState::Degraded,
            message: cluster::chain(&error),
            of_plane: false,
        });
        return passed;
    }
    let Snapshots {
        secrets,
        of_pods: own,
        lent,
        ..
    } = snapshots;
    for plane in planes.values() {
        plane.note_foreign_keys(&lent);
    }
    passed.secrets = Ok(secrets);
    passed.read_at = Instant::now();
    // Concurrently: a control plane that hangs does not delay the others.
    let asked = planes.values().map(|plane| issued(context, plane, own));
    for (name, issued) in planes.keys().zip(join_all(asked).await) {
        match issued {
            Ok(issued) => {
                passed.issued.insert(name.clone(), issued);
            }
            Err(problem) => {
                passed.suspects.insert(name.clone(), problem);
            }
        }
    }
    passed
}

/// Lists the keys of a control plane; its nodes as well, if needed to tell whether pods have joined.
async fn issued(context: &Context, plane: &Session, own: bool) -> Result<IssuedKeys, Problem> {
    let now = context.clock.now();
    let mut issued = plane.issued(now).await?;
    if own {
        match plane.tailnet(now).await {
            Ok(tailnet) => issued.online = tailnet.online(),
            // Assigning nodes to owners needs all keys; that is no reason to keep old keys valid.
            Err(_) if issued.truncated => {}
            Err(problem) => return Err(problem),
        }
    }
    Ok(issued)
}
