//! The nodes of a control plane, and the calls that change them. I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{MutexGuard, PoisonError};

use jiff::Timestamp;
use sidescale_control_plane::{Error, RowList};
use sidescale_core::id::{KeyId, NodeId, UserId};
use sidescale_core::objects::PreAuthKey;
use sidescale_core::problem::Problem;
use sidescale_core::release::HeadscaleRelease;
use sidescale_rotation::nodes::rename::RenameStep;
use sidescale_rotation::nodes::tailnet::{KeyOrigin, Tailnet};
use sidescale_rotation::owner::KeyUser;
use sidescale_rotation::survey::Survey;

use super::{Origins, Session};

impl Session {
    /// Lists its nodes, by the users of Sidescale whose keys they joined with.
    ///
    /// # Errors
    /// A call failed.
    pub async fn tailnet(&self, now: Timestamp) -> Result<Tailnet, Problem> {
        let nodes = self.counted("list_nodes", self.client.list_nodes()).await?;
        let strange = {
            let origins = self.origins();
            let mut keys = nodes.iter().filter_map(|node| node.pre_auth_key);
            keys.any(|key| !origins.contains_key(&key))
        };
        if strange {
            // A key created since the last listing, by Sidescale or anyone else.
            let keys = self
                .counted("list_pre_auth_keys", self.client.list_pre_auth_keys())
                .await?;
            self.note_origins(&keys);
        }
        let users = self.key_users();
        let lent = self.lent.keys();
        Ok(Tailnet::new(now, nodes, &self.origins(), &users, &lent))
    }

    /// Lists everything that it holds.
    ///
    /// # Errors
    /// A call failed.
    pub async fn survey(&self) -> Result<Survey, Problem> {
        self.list_users().await?;
        let keys = self.client.list_last_pre_auth_keys();
        let RowList { rows: keys, beyond } = self.counted("list_pre_auth_keys", keys).await?;
        let truncated = beyond.is_some();
        if !truncated {
            self.note_origins(&keys);
        }
        let nodes = self.counted("list_nodes", self.client.list_nodes()).await?;
        Ok(Survey {
            keys,
            truncated,
            nodes,
            users: self.key_users(),
            // If the version is unknown, assume the most restrictive one.
            release: self
                .version
                .as_ref()
                .map_or(HeadscaleRelease::V0_28, |version| version.release),
        })
    }

    /// Deletes the row of a key that no node names.
    ///
    /// # Errors
    /// The call failed.
    pub async fn delete_key(&self, id: KeyId) -> Result<(), Problem> {
        let deleted = self.client.delete_pre_auth_key(id);
        Ok(self.counted("delete_pre_auth_key", deleted).await?)
    }

    /// Deletes a user with its keys, if Sidescale manages users.
    ///
    /// # Errors
    /// The call failed, or would delete keys of other users.
    pub async fn delete_user(&self, id: UserId) -> Result<(), Problem> {
        let Some(version) = self.version.as_ref().filter(|_| self.manages_users) else {
            return Ok(());
        };
        self.users().retain(|_, user| user.id != id);
        let deleted = self.client.delete_user(id, version);
        Ok(self.counted("delete_user", deleted).await?)
    }

    /// Deletes a node; one that is gone already counts as deleted.
    ///
    /// # Errors
    /// The call failed.
    pub async fn delete_node(&self, id: NodeId) -> Result<(), Problem> {
        let deleted = self.client.delete_node(id);
        Ok(self.counted("delete_node", deleted).await?)
    }

    /// Does a step of the `NodeRenamer`.
    ///
    /// # Errors
    /// The call failed, another node has the name, or the node is gone.
    pub async fn name_step(&self, step: &RenameStep) -> Result<(), Error> {
        match step {
            RenameStep::Delete { node, name: _ } => {
                let deleted = self.client.delete_node(*node);
                self.counted("delete_node", deleted).await
            }
            RenameStep::Rename { node, from: _, to } => {
                let renamed = self.client.rename_node(*node, to);
                self.counted("rename_node", renamed).await.map(drop)
            }
            RenameStep::TellTaken { .. } => Ok(()),
        }
    }

    /// Remembers foreign keys that are or were in Secrets of keys: pods join with them too.
    pub(in crate::controller) fn note_foreign_key(
        &self,
        keys: impl IntoIterator<Item = (KeyId, String)>,
    ) {
        self.lent.note(keys);
    }

    /// Remembers the foreign keys of all Secrets, as [`Self::note_foreign_key`] does.
    pub(in crate::controller) fn note_foreign_keys(
        &self,
        lent: &BTreeSet<(String, KeyId, String)>,
    ) {
        let here = lent.iter().filter(|(plane, _, _)| *plane == self.name);
        self.lent
            .note_all(here.map(|(_, key, namespace)| (*key, namespace.clone())));
    }

    /// Returns whether all foreign keys in Secrets are known: before, it is unknown which nodes belong to pods.
    pub(in crate::controller) fn knows_foreign_keys(&self) -> bool {
        self.lent.is_complete()
    }

    /// Remembers the owner of each key.
    pub(super) fn note_origins(&self, keys: &[PreAuthKey]) {
        let origin = |key: &PreAuthKey| {
            // A key with tags only has no user: it is not ours.
            let origin = KeyOrigin {
                user: key.user.unwrap_or(UserId::from(0)),
                ephemeral: key.ephemeral,
            };
            (key.id, origin)
        };
        *self.origins() = keys.iter().map(origin).collect();
    }

    /// Returns the users that keys are created for, by id.
    pub(super) fn key_users(&self) -> BTreeMap<UserId, KeyUser> {
        self.installation
            .key_users(self.users().values(), &self.adopted)
    }

    fn origins(&self) -> MutexGuard<'_, Origins> {
        self.origins.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
