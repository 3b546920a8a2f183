//! The calls of any control plane, with their answers checked, and a missing object told from a failure. I/O by the calls.

use std::sync::Arc;
use std::time::Duration;

use sidescale_core::id::{KeyId, NodeId, UserId};
use sidescale_core::objects::{MintedKey, NewPreAuthKey, Node, PreAuthKey, User};

use crate::error::unless_not_found;
use crate::headscale::HeadscaleRest;
use crate::{ControlPlane, DEADLINE, Endpoint, Error, RowList, Version, checks, refusals};

/// A control plane that keys are created on. Clones share its connections.
#[derive(Clone, Debug)]
pub struct Client(Arc<dyn ControlPlane>);

impl Client {
    /// Prepares calls to a Headscale by REST, of at most ten seconds each; sends none yet.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidEndpoint`] if the URL, the authority or the key cannot be used.
    pub fn new(endpoint: Endpoint) -> Result<Self, Error> {
        Self::with_deadline(endpoint, DEADLINE)
    }

    /// The same, with another time limit for each call.
    ///
    /// # Errors
    ///
    /// As [`Self::new`].
    pub fn with_deadline(endpoint: Endpoint, deadline: Duration) -> Result<Self, Error> {
        let rest = HeadscaleRest::new(endpoint, deadline)?;
        Ok(Self::of(Arc::new(rest)))
    }

    /// Calls this control plane.
    #[must_use]
    pub fn of(plane: Arc<dyn ControlPlane>) -> Self {
        Self(plane)
    }

    /// Detects the server's release, and refuses one that is too old.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] below Headscale 0.28, else the error of a call.
    pub async fn probe(&self) -> Result<Version, Error> {
        self.0.probe().await
    }

    /// Lists all users.
    ///
    /// # Errors
    ///
    /// The error of the call.
    pub async fn list_users(&self) -> Result<Vec<User>, Error> {
        self.0.list_users().await
    }

    /// Creates a user.
    ///
    /// # Errors
    ///
    /// [`Error::Conflict`] if the name is taken, else the error of the call.
    pub async fn create_user(&self, name: &str, display_name: &str) -> Result<User, Error> {
        let answer = self.0.create_user(name, display_name).await;
        refusals::is_taken(&*self.0, name, answer).await
    }

    /// Deletes a user with its keys; a missing one counts as deleted.
    ///
    /// # Errors
    ///
    /// [`Error::DeletesAllKeys`] on Headscale 0.28, [`Error::Refused`] while it has nodes, else the error of the call.
    pub async fn delete_user(&self, id: UserId, version: &Version) -> Result<(), Error> {
        refusals::may_delete_user(&*self.0, id, version)?;
        let answer = self.0.delete_user(id).await;
        refusals::unless_user_gone(&*self.0, id, answer).await
    }

    /// Lists all pre-auth keys, without their values.
    ///
    /// # Errors
    ///
    /// [`Error::TooManyRows`] if there are more than are kept, else the error of the call.
    pub async fn list_pre_auth_keys(&self) -> Result<Vec<PreAuthKey>, Error> {
        self.list_last_pre_auth_keys().await?.whole()
    }

    /// Lists the pre-auth keys, without their values; if there are too many, those that are listed last.
    ///
    /// # Errors
    ///
    /// The error of the call.
    pub async fn list_last_pre_auth_keys(&self) -> Result<RowList<PreAuthKey>, Error> {
        self.0.list_last_pre_auth_keys().await
    }

    /// Creates a pre-auth key and checks the answer field by field.
    ///
    /// # Errors
    ///
    /// [`Error::NotHeadscale`] if the answer is not the requested key, [`Error::MalformedKey`] if its value must not
    /// reach a node, in which case the key is expired again; else the error of the call.
    pub async fn create_pre_auth_key(&self, new: &NewPreAuthKey) -> Result<MintedKey, Error> {
        let created = self.0.create_pre_auth_key(new).await?;
        if checks::is_pre_auth_key(&created.value) {
            return Ok(created);
        }
        // The rest of the answer matches the request: this is the key to expire.
        let ended = self.expire_pre_auth_key(created.key.id).await.is_ok();
        Err(Error::MalformedKey {
            control_plane: self.0.name().to_owned(),
            what: "pre-auth key",
            begins: "hskey-auth-",
            ended,
        })
    }

    /// Expires a pre-auth key; a missing one counts as expired.
    ///
    /// # Errors
    ///
    /// The error of the call.
    pub async fn expire_pre_auth_key(&self, id: KeyId) -> Result<(), Error> {
        unless_not_found(self.0.expire_pre_auth_key(id).await)
    }

    /// Deletes a pre-auth key; a missing one counts as deleted.
    ///
    /// Only for a key without nodes: a node is ephemeral only through its key's row, and becomes permanent without it.
    ///
    /// # Errors
    ///
    /// The error of the call.
    pub async fn delete_pre_auth_key(&self, id: KeyId) -> Result<(), Error> {
        unless_not_found(self.0.delete_pre_auth_key(id).await)
    }

    /// Lists all nodes.
    ///
    /// # Errors
    ///
    /// The error of the call.
    pub async fn list_nodes(&self) -> Result<Vec<Node>, Error> {
        self.0.list_nodes().await
    }

    /// Deletes a node; a missing one counts as deleted.
    ///
    /// # Errors
    ///
    /// The error of the call.
    pub async fn delete_node(&self, id: NodeId) -> Result<(), Error> {
        unless_not_found(self.0.delete_node(id).await)
    }

    /// Renames a node in the tailnet and returns the changed node.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] if it does not exist, [`Error::Conflict`] while another node has the name, else the error of
    /// the call.
    pub async fn rename_node(&self, id: NodeId, name: &str) -> Result<Node, Error> {
        let answer = self.0.rename_node(id, name).await;
        refusals::renamed_node(&*self.0, id, name, answer).await
    }
}
