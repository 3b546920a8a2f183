//! Ends what nobody uses any more: keys that no Secret knows, rows of ended keys, users without a service. I/O.

use std::collections::{BTreeMap, BTreeSet};

use tracing::{debug, info};

use super::Keeper;
use crate::control_plane::{KeyId, PreAuthKey, UserId};
use crate::metrics::RotationResult;
use crate::rotation::cleanup::{self, View};
use crate::rotation::demand::Demands;
use crate::rotation::orphans;
use crate::rotation::plane::{Plane, Survey, Trouble};
use crate::rotation::record::{DATA_KEY, KeyRecord, Record};
use crate::rotation::tailnet::KeyUser;
use crate::store::StoredSecret;

/// Bounds what one sweep ends, so that it holds up no look for long; the next one follows soon.
const MOST_ENDED: usize = 100;

/// What every Secret of ours remembers, or why that is not known.
type Records = Result<Vec<Record>, String>;

impl Keeper {
    /// Sweeps one control plane; says whether there is more to do.
    pub(super) async fn sweep(
        &self,
        name: &str,
        plane: &Plane,
        demands: &Demands,
    ) -> Result<bool, Trouble> {
        let Survey {
            keys,
            nodes,
            users,
            release,
        } = plane.survey().await?;
        // After what they are held against: what is made meanwhile is known here, not there.
        let records = self.listed().await;
        let mut left = MOST_ENDED;
        let survey = (&keys[..], &users);
        self.end_orphans(name, plane, survey, &records, &mut left)
            .await?;
        let Ok(records) = records else {
            return Ok(left == 0);
        };
        if !demands.synced {
            return Ok(true);
        }
        let view = View {
            keys: &keys,
            nodes: &nodes,
            users: &users,
            named: &named(name, &records),
            wanted: &wanted(name, &records, demands),
        };
        let now = self.context.clock.now();
        for key in cleanup::rows(now, &view).into_iter().take(left) {
            left -= 1;
            plane.delete_key(key).await?;
            debug!(
                control_plane = name,
                key_id = key.0,
                "Removed the row of an ended key"
            );
        }
        let unused = self.context.policy.rotation.unused_users_after;
        for user in cleanup::users(now, &view, release, unused)
            .into_iter()
            .take(left)
        {
            left -= 1;
            plane.delete_user(user).await?;
            let user_name = users.get(&user).map(|user| user.name.as_str());
            info!(
                control_plane = name,
                user = user_name,
                user_id = user.0,
                "Removed a user that had no service"
            );
        }
        Ok(left == 0)
    }

    async fn end_orphans(
        &self,
        name: &str,
        plane: &Plane,
        (keys, users): (&[PreAuthKey], &BTreeMap<UserId, KeyUser>),
        listed: &Records,
        left: &mut usize,
    ) -> Result<(), Trouble> {
        let Some(config) = self.context.policy.control_planes.get(name) else {
            return Ok(());
        };
        let now = self.context.clock.now();
        let age = self.context.policy.rotation.orphaned_keys_after;
        let is_listed = |key: &PreAuthKey| {
            let records = listed.as_deref().unwrap_or_default();
            records
                .iter()
                .any(|record| orphans::is_known(record, name, key))
        };
        for (user, mut keys) in orphans::candidates(now, keys, users, age) {
            keys.retain(|key| !is_listed(key));
            if keys.is_empty() || *left == 0 {
                continue;
            }
            let Some(namespace) = orphans::namespace_of(&config.user_template, user) else {
                debug!(
                    control_plane = name,
                    user, "Keys of a user that another template named are left"
                );
                continue;
            };
            // The list was for everybody; what counts is what this namespace says now.
            let records = match self.of_namespace(&namespace).await {
                Ok(records) => records,
                Err(trouble) => {
                    info!(
                        control_plane = name,
                        namespace,
                        trouble,
                        "Orphaned keys are left, because the namespace cannot be read"
                    );
                    continue;
                }
            };
            for key in keys.into_iter().take(*left) {
                if records
                    .iter()
                    .any(|record| orphans::is_known(record, name, key))
                {
                    continue;
                }
                *left -= 1;
                plane.expire(key.id).await?;
                self.context.metrics.rotation.count(RotationResult::Expired);
                info!(
                    control_plane = name,
                    namespace,
                    user,
                    key_id = key.id.0,
                    "Ended a key that no Secret knows"
                );
            }
        }
        Ok(())
    }

    /// The records of all Secrets of ours in the cluster.
    async fn listed(&self) -> Records {
        let mut records = Vec::new();
        for name in self.secret_names() {
            let found = self.context.store.list(name).await;
            for secret in found.map_err(|error| shown(error.into()))? {
                records.push(read(&secret)?);
            }
        }
        Ok(records)
    }

    /// The records of one namespace, read now.
    async fn of_namespace(&self, namespace: &str) -> Records {
        let mut records = Vec::new();
        for name in self.secret_names() {
            let found = self.context.store.read(namespace, name).await;
            if let Some(secret) = found.map_err(|error| shown(error.into()))? {
                records.push(read(&secret)?);
            }
        }
        Ok(records)
    }

    fn secret_names(&self) -> BTreeSet<&str> {
        let profiles = self.context.policy.profiles.values();
        profiles
            .map(|profile| profile.auth_key_secret_name.as_str())
            .collect()
    }
}

/// Reads a Secret's record, whoever it belongs to by now: what it names is in use.
fn read(secret: &StoredSecret) -> Result<Record, String> {
    let document = secret
        .data
        .get(DATA_KEY)
        .map(|document| document.as_slice());
    let trouble =
        |error: anyhow::Error| format!("Secret {}/{}: {error:#}", secret.namespace, secret.name);
    Record::parse(document).map_err(|error| trouble(error.into()))
}

fn shown(error: anyhow::Error) -> String {
    format!("{error:#}")
}

fn of_plane<'a>(name: &'a str, records: &'a [Record]) -> impl Iterator<Item = &'a KeyRecord> {
    let keys = records.iter().flat_map(|record| record.keys.values());
    keys.filter(move |key| key.control_plane == name)
}

/// The ids of all keys that records name.
fn named(name: &str, records: &[Record]) -> BTreeSet<KeyId> {
    let ids = of_plane(name, records).flat_map(|key| {
        let current = key.current.iter().map(|current| current.id);
        current.chain(key.previous.iter().map(|previous| previous.id))
    });
    ids.collect()
}

/// The names of all users that a record or a pod names.
fn wanted(name: &str, records: &[Record], demands: &Demands) -> BTreeSet<String> {
    let recorded = of_plane(name, records).flat_map(|key| {
        let current = key.current.iter().map(|current| &current.asked);
        let intents = key
            .intent
            .iter()
            .chain(key.abandoned.iter().map(|abandoned| &abandoned.intent));
        current.chain(intents.map(|intent| &intent.asked))
    });
    let recorded = recorded.map(|asked| asked.user.clone());
    let demands = demands.namespaces.values();
    let asked = demands.clone().flat_map(|demand| {
        let keys = demand.secrets.values().flat_map(BTreeMap::values);
        keys.filter(|key| key.control_plane == name)
            .map(|key| key.asked.user.clone())
    });
    let guests = demands.flat_map(|demand| demand.guests.keys());
    let guests = guests.filter(|(plane, _)| plane == name);
    recorded
        .chain(asked)
        .chain(guests.map(|(_, user)| user.clone()))
        .collect()
}
