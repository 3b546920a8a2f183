//! Removes what was decided on; confirms again before a working key is expired or a user deleted. I/O.

use std::time::Instant;

use sidescale_core::key_state::KeyState;
use sidescale_core::problem::Problem;
use sidescale_core::secret::SecretRef;
use sidescale_rotation::demand::Demands;
use sidescale_rotation::owner::KeyClaim;
use sidescale_rotation::ownership::ownership;
use sidescale_rotation::plan::{Claimed, Ownership};
use sidescale_rotation::record::Record;
use sidescale_rotation::retention::orphans;
use sidescale_rotation::retention::removal::{Records, Removal, away, decide};
use sidescale_rotation::survey::Survey;

use super::context::Context;
use super::session::Session;
use crate::metrics::RotationResult;

/// A Secret of keys, with its record.
#[derive(Clone, Debug)]
pub(crate) struct ListedSecret {
    pub(crate) secret: SecretRef,
    /// Whether rotation currently writes it.
    pub(crate) ours: bool,
    /// Its record, whoever owns the Secret by now; or why the record cannot be read.
    pub(crate) record: Result<Record, String>,
}

/// The result of a removal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Removed {
    /// It was removed.
    Yes,
    /// It stays: a Secret refers to the key by now.
    StillReferenced,
    /// It stays: the namespace cannot be read, for this reason.
    Unread(String),
}

/// A second survey before a removal that cannot be undone: much may have happened since the first.
pub(crate) struct Confirmation {
    survey: Survey,
    records: Records,
}

impl Confirmation {
    /// Reads the control plane, then the Secrets; what pods need has to be read after that.
    ///
    /// # Errors
    /// A call failed.
    pub(crate) async fn read(context: &Context, plane: &Session) -> Result<Self, Problem> {
        let survey = plane.survey().await?;
        let listed = listed(context).await.map_err(|message| Problem {
            state: KeyState::Degraded,
            message,
            of_plane: false,
        })?;
        let records = records(listed);
        Ok(Self { survey, records })
    }

    /// Returns whether the removal is still justified.
    pub(crate) fn confirms(
        &self,
        context: &Context,
        control_plane: &str,
        demands: &Demands,
        removal: &Removal<'_>,
    ) -> bool {
        let now = context.clock.now();
        let (survey, records, policy) = (&self.survey, &self.records, &context.policy);
        if let Removal::Node { .. } = removal {
            return away(now, control_plane, survey, records, demands, policy).contains(removal);
        }
        decide(now, control_plane, survey, Some(records), demands, policy).contains(removal)
    }
}

/// Removes it from the control plane. A node or a user needs a [`Confirmation`] first.
///
/// # Errors
/// A call failed.
pub(crate) async fn remove(
    context: &Context,
    control_plane: &str,
    plane: &Session,
    removal: &Removal<'_>,
) -> Result<Removed, Problem> {
    match removal {
        Removal::Orphan { key, owner, .. } => {
            // The list covered all namespaces; what counts is what this namespace says now.
            let records = match of_namespace(context, &owner.namespace).await {
                Ok(records) => records,
                Err(problem) => return Ok(Removed::Unread(problem)),
            };
            let mut records = records.iter();
            if records.any(|record| orphans::is_known(record, control_plane, owner, key)) {
                return Ok(Removed::StillReferenced);
            }
            let Some(expires) = key.expiration else {
                return Ok(Removed::StillReferenced);
            };
            let read = Instant::now();
            let claim = KeyClaim {
                owner,
                id: key.id,
                expires,
            };
            match plane.judge(&claim, read, context.clock.now()).await? {
                Claimed::Owned => plane.expire(key.id).await?,
                Claimed::NotListed | Claimed::NotOwned => return Ok(Removed::StillReferenced),
            }
            context.metrics.rotation.count(RotationResult::Expired);
        }
        Removal::Row { key } => plane.delete_key(*key).await?,
        Removal::Node { id, .. } => plane.delete_node(*id).await?,
        Removal::User { id, name: _ } => plane.delete_user(*id).await?,
    }
    Ok(Removed::Yes)
}

/// Lists all Secrets of keys in the cluster. An unreadable record is a problem of its own namespace only.
pub(crate) async fn listed(context: &Context) -> Result<Vec<ListedSecret>, String> {
    let mut listed = Vec::new();
    let found = context.each_secret(|secret| {
        listed.push(ListedSecret {
            ours: ownership(&secret).0 == Ownership::Ours,
            // Whoever owns it by now: the keys that it names are in use.
            record: Record::named(&secret),
            secret: SecretRef {
                namespace: secret.namespace,
                name: secret.name,
            },
        });
    });
    found.await.map_err(|error| shown(error.into()))?;
    Ok(listed)
}

/// Groups the records by namespace.
pub(crate) fn records(listed: Vec<ListedSecret>) -> Records {
    let mut records = Records::default();
    for ListedSecret { secret, record, .. } in listed {
        let namespace = secret.namespace;
        match record {
            Ok(record) => records.read.entry(namespace).or_default().push(record),
            Err(_) => drop(records.unreadable.insert(namespace)),
        }
    }
    records
}

/// Reads the records of one namespace.
pub(super) async fn of_namespace(
    context: &Context,
    namespace: &str,
) -> Result<Vec<Record>, String> {
    let mut records = Vec::new();
    for name in context.policy.auth_key_secrets() {
        let found = context.store.read(namespace, name).await;
        if let Some(secret) = found.map_err(|error| shown(error.into()))? {
            records.push(Record::named(&secret)?);
        }
    }
    Ok(records)
}

fn shown(error: anyhow::Error) -> String {
    format!("{error:#}")
}
