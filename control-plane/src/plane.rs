//! What every kind of control plane can do. The answers are those of the server; [`crate::Client`] checks them.

use std::fmt;

use futures::future::BoxFuture;
use sidescale_core::id::{KeyId, NodeId, UserId};
use sidescale_core::objects::{MintedKey, NewPreAuthKey, Node, PreAuthKey, User};

use crate::{Error, RowList, Version};

/// One method a call, object-safe. Each returns the error of the call if it fails.
pub trait ControlPlane: fmt::Debug + Send + Sync {
    /// Returns its name in the configuration, for messages.
    fn name(&self) -> &str;

    /// Detects the server's release; [`Error::Unsupported`] if it is too old.
    fn probe(&self) -> BoxFuture<'_, Result<Version, Error>>;

    /// Lists all users.
    fn list_users(&self) -> BoxFuture<'_, Result<Vec<User>, Error>>;

    /// Creates a user, and returns it as the server stored it.
    fn create_user<'a>(
        &'a self,
        name: &'a str,
        display_name: &'a str,
    ) -> BoxFuture<'a, Result<User, Error>>;

    /// Deletes a user with its keys.
    fn delete_user(&self, id: UserId) -> BoxFuture<'_, Result<(), Error>>;

    /// Lists the pre-auth keys, without their values; if there are too many, those that are listed last.
    fn list_last_pre_auth_keys(&self) -> BoxFuture<'_, Result<RowList<PreAuthKey>, Error>>;

    /// Creates a pre-auth key; [`Error::NotHeadscale`] if the answer is not the requested key.
    fn create_pre_auth_key<'a>(
        &'a self,
        new: &'a NewPreAuthKey,
    ) -> BoxFuture<'a, Result<MintedKey, Error>>;

    /// Expires a pre-auth key.
    fn expire_pre_auth_key(&self, id: KeyId) -> BoxFuture<'_, Result<(), Error>>;

    /// Deletes a pre-auth key.
    fn delete_pre_auth_key(&self, id: KeyId) -> BoxFuture<'_, Result<(), Error>>;

    /// Lists all nodes.
    fn list_nodes(&self) -> BoxFuture<'_, Result<Vec<Node>, Error>>;

    /// Deletes a node.
    fn delete_node(&self, id: NodeId) -> BoxFuture<'_, Result<(), Error>>;

    /// Renames a node in the tailnet, and returns the changed node.
    fn rename_node<'a>(&'a self, id: NodeId, name: &'a str) -> BoxFuture<'a, Result<Node, Error>>;
}
