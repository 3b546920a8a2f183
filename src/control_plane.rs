//! The calls of rotation to any kind of control plane. I/O behind one enum.

use std::time::Duration;

use sidescale_core::id::{KeyId, NodeId, UserId};
use sidescale_core::objects::{MintedKey, NewPreAuthKey, Node, PreAuthKey, User};

mod api_keys;
mod checks;
mod endpoint;
mod error;
mod headscale_grpc;
mod headscale_rest;
mod problem;
mod refusals;
mod row_list;
mod text;
mod version;
mod wire;

pub use api_keys::ApiKeyClient;
pub use endpoint::Endpoint;
pub use error::{At, Error};
pub use headscale_grpc::HeadscaleGrpc;
pub use headscale_rest::HeadscaleRest;
pub use row_list::RowList;
pub use version::{Api, Version};

/// Time limit of one call, from the connection to the last byte; with an API key the server computes a slow hash.
const DEADLINE: Duration = Duration::from_secs(10);

/// A control plane that keys are created on.
#[derive(Clone, Debug)]
pub enum ControlPlane {
    /// Headscale by REST over TCP.
    Rest(HeadscaleRest),
    /// One in memory, for the model of rotation.
    #[cfg(test)]
    Model(crate::rotation::model::doors::Door),
}

impl ControlPlane {
    /// Prepares calls to `endpoint`; sends none yet.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidEndpoint`] if the URL, the authority or the key cannot be used.
    pub fn new(endpoint: Endpoint) -> Result<Self, Error> {
        HeadscaleRest::new(endpoint, DEADLINE).map(Self::Rest)
    }

    /// Limits each call to `deadline` instead of ten seconds.
    #[must_use]
    pub fn with_deadline(self, deadline: Duration) -> Self {
        match self {
            Self::Rest(rest) => Self::Rest(rest.with_deadline(deadline)),
            #[cfg(test)]
            Self::Model(_) => self,
        }
    }

    /// Returns its name in the configuration, for messages.
    fn name(&self) -> &str {
        match self {
            Self::Rest(rest) => rest.name(),
            #[cfg(test)]
            Self::Model(_) => "model",
        }
    }

    /// Detects the server's release, and refuses one that is too old.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] below Headscale 0.28, else the error of a call.
    pub async fn probe(&self) -> Result<Version, Error> {
        match self {
            Self::Rest(rest) => rest.probe().await,
            #[cfg(test)]
            Self::Model(door) => door.probe().await,
        }
    }

    /// Lists all users.
    ///
    /// # Errors
    ///
    /// The error of the call.
    pub async fn list_users(&self) -> Result<Vec<User>, Error> {
        match self {
            Self::Rest(rest) => rest.list_users().await,
            #[cfg(test)]
            Self::Model(door) => door.list_users().await,
        }
    }

    /// Creates a user.
    ///
    /// # Errors
    ///
    /// [`Error::Conflict`] if the name is taken, else the error of the call.
    pub async fn create_user(&self, name: &str, display_name: &str) -> Result<User, Error> {
        let answer = match self {
            Self::Rest(rest) => rest.create_user(name, display_name).await,
            #[cfg(test)]
            Self::Model(door) => door.create_user(name, display_name).await,
        };
        self.is_taken(name, answer).await
    }

    /// Deletes a user with its keys; a missing one counts as deleted.
    ///
    /// # Errors
    ///
    /// [`Error::DeletesAllKeys`] on Headscale 0.28, [`Error::Refused`] while it has nodes, else the error of the call.
    pub async fn delete_user(&self, id: UserId, version: &Version) -> Result<(), Error> {
        self.may_delete_user(id, version)?;
        let answer = match self {
            Self::Rest(rest) => rest.delete_user(id).await,
            #[cfg(test)]
            Self::Model(_) => crate::rotation::model::doors::none(),
        };
        self.unless_user_gone(id, answer).await
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
        match self {
            Self::Rest(rest) => rest.list_last_pre_auth_keys().await,
            #[cfg(test)]
            Self::Model(door) => {
                let rows = door.list_pre_auth_keys().await?;
                Ok(RowList { rows, beyond: None })
            }
        }
    }

    /// Creates a pre-auth key and checks the answer field by field.
    ///
    /// # Errors
    ///
    /// [`Error::NotHeadscale`] if the answer is not the requested key, [`Error::MalformedKey`] if its value must not
    /// reach a node, in which case the key is expired again; else the error of the call.
    pub async fn create_pre_auth_key(&self, new: &NewPreAuthKey) -> Result<MintedKey, Error> {
        let made = match self {
            Self::Rest(rest) => rest.create_pre_auth_key(new).await,
            #[cfg(test)]
            Self::Model(door) => door.create_pre_auth_key(new).await,
        }?;
        if checks::is_pre_auth_key(&made.value) {
            return Ok(made);
        }
        // The rest of the answer matches the request: this is the key to expire.
        let ended = self.expire_pre_auth_key(made.key.id).await.is_ok();
        Err(Error::MalformedKey {
            control_plane: self.name().to_owned(),
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
        let answer = match self {
            Self::Rest(rest) => rest.expire_pre_auth_key(id).await,
            #[cfg(test)]
            Self::Model(door) => door.expire_pre_auth_key(id).await,
        };
        error::unless_not_found(answer)
    }

    /// Deletes a pre-auth key; a missing one counts as deleted.
    ///
    /// Only for a key without nodes: a node is ephemeral only through its key's row, and becomes permanent without it.
    ///
    /// # Errors
    ///
    /// The error of the call.
    pub async fn delete_pre_auth_key(&self, id: KeyId) -> Result<(), Error> {
        let answer = match self {
            Self::Rest(rest) => rest.delete_pre_auth_key(id).await,
            #[cfg(test)]
            Self::Model(_) => crate::rotation::model::doors::none(),
        };
        error::unless_not_found(answer)
    }

    /// Lists all nodes.
    ///
    /// # Errors
    ///
    /// The error of the call.
    pub async fn list_nodes(&self) -> Result<Vec<Node>, Error> {
        match self {
            Self::Rest(rest) => rest.list_nodes().await,
            #[cfg(test)]
            Self::Model(door) => door.list_nodes().await,
        }
    }

    /// Deletes a node; a missing one counts as deleted.
    ///
    /// # Errors
    ///
    /// The error of the call.
    pub async fn delete_node(&self, id: NodeId) -> Result<(), Error> {
        let answer = match self {
            Self::Rest(rest) => rest.delete_node(id).await,
            #[cfg(test)]
            Self::Model(_) => crate::rotation::model::doors::none(),
        };
        error::unless_not_found(answer)
    }

    /// Renames a node in the tailnet and returns the changed node.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] if it does not exist, [`Error::Conflict`] while another node has the name, else the error of
    /// the call.
    pub async fn rename_node(&self, id: NodeId, name: &str) -> Result<Node, Error> {
        let answer = match self {
            Self::Rest(rest) => rest.rename_node(id, name).await,
            #[cfg(test)]
            Self::Model(_) => crate::rotation::model::doors::none(),
        };
        self.renamed_node(id, name, answer).await
    }
}
