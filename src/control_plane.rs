//! What rotation asks of a control plane, whichever it is. I/O behind one enum.

use std::time::Duration;

use jiff::Timestamp;

use crate::key_value::KeyValue;

mod error;
mod headscale_rest;
mod version;
mod wire;

pub use error::{At, Error};
pub use headscale_rest::HeadscaleRest;
pub use version::{Api, Version};

/// Identifies a Headscale user.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct UserId(pub u64);

/// Identifies a pre-auth key.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct KeyId(pub u64);

/// Identifies a node.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct NodeId(pub u64);

/// A user of the control plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Its id.
    pub id: UserId,
    /// Its name.
    pub name: String,
    /// Holds our mark if we made it.
    pub display_name: String,
    /// Whether an identity provider made it; such a user is never ours.
    pub from_provider: bool,
}

/// A pre-auth key as the control plane lists it: without its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreAuthKey {
    /// Its id.
    pub id: KeyId,
    /// The user it belongs to; none for a key with tags alone.
    pub user: Option<UserId>,
    /// Whether it may be used more than once.
    pub reusable: bool,
    /// Whether its nodes are ephemeral.
    pub ephemeral: bool,
    /// Whether it was used.
    pub used: bool,
    /// When it ends; none is a dead key.
    pub expiration: Option<Timestamp>,
    /// When it was made.
    pub created_at: Option<Timestamp>,
    /// Tags that its nodes get.
    pub tags: Vec<String>,
}

/// A pre-auth key just made; its value is shown this once.
#[derive(Clone, Debug)]
pub struct MintedKey {
    /// What the control plane says it made.
    pub key: PreAuthKey,
    /// The value.
    pub value: KeyValue,
}

/// Asks for a pre-auth key. The expiration is never left out: a key without one is dead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewPreAuthKey {
    /// The user it is made for.
    pub user: UserId,
    /// Whether it may be used more than once.
    pub reusable: bool,
    /// Whether its nodes are ephemeral.
    pub ephemeral: bool,
    /// When it ends.
    pub expiration: Timestamp,
    /// Tags that its nodes get.
    pub tags: Vec<String>,
}

/// A node of the tailnet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its id.
    pub id: NodeId,
    /// The host's own name.
    pub name: String,
    /// The label in the tailnet's DNS.
    pub given_name: String,
    /// Whether it is connected.
    pub online: bool,
    /// The key it joined with.
    pub pre_auth_key: Option<KeyId>,
    /// Its tags.
    pub tags: Vec<String>,
}

/// Says where a control plane is and how to call it.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Its name in the configuration, for messages.
    pub name: String,
    /// URL of its API, without `/api/v1`.
    pub api_url: String,
    /// The API key.
    pub api_key: KeyValue,
    /// PEM of a private authority; with it, no other is trusted.
    pub ca_bundle: Option<String>,
    /// Whether plain `http://` is accepted.
    pub allow_insecure: bool,
}

/// A control plane that keys are made on.
#[derive(Clone, Debug)]
pub enum ControlPlane {
    /// Headscale by REST over TCP.
    Rest(HeadscaleRest),
}

impl ControlPlane {
    /// Prepares calls to `endpoint`; makes none yet.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidEndpoint`] if the URL, the authority or the key cannot be used.
    pub fn new(endpoint: Endpoint) -> Result<Self, Error> {
        HeadscaleRest::new(endpoint).map(Self::Rest)
    }

    /// Bounds each call by `deadline` instead of ten seconds.
    #[must_use]
    pub fn with_deadline(self, deadline: Duration) -> Self {
        match self {
            Self::Rest(rest) => Self::Rest(rest.with_deadline(deadline)),
        }
    }

    /// Finds out what answers there, and refuses what is too old.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] below Headscale 0.28, else what the calls met.
    pub async fn probe(&self) -> Result<Version, Error> {
        match self {
            Self::Rest(rest) => rest.probe().await,
        }
    }

    /// Lists all users.
    ///
    /// # Errors
    ///
    /// What the call met.
    pub async fn list_users(&self) -> Result<Vec<User>, Error> {
        match self {
            Self::Rest(rest) => rest.list_users().await,
        }
    }

    /// Creates a user.
    ///
    /// # Errors
    ///
    /// [`Error::Conflict`] if the name is taken, else what the call met.
    pub async fn create_user(&self, name: &str, display_name: &str) -> Result<User, Error> {
        match self {
            Self::Rest(rest) => rest.create_user(name, display_name).await,
        }
    }

    /// Lists all pre-auth keys, without their values.
    ///
    /// # Errors
    ///
    /// What the call met.
    pub async fn list_pre_auth_keys(&self) -> Result<Vec<PreAuthKey>, Error> {
        match self {
            Self::Rest(rest) => rest.list_pre_auth_keys().await,
        }
    }

    /// Creates a pre-auth key and checks the answer field by field.
    ///
    /// # Errors
    ///
    /// [`Error::NotHeadscale`] if the answer is not the key that was asked for, else what the call met.
    pub async fn create_pre_auth_key(&self, new: &NewPreAuthKey) -> Result<MintedKey, Error> {
        match self {
            Self::Rest(rest) => rest.create_pre_auth_key(new).await,
        }
    }

    /// Expires a pre-auth key; one that is not there counts as expired.
    ///
    /// # Errors
    ///
    /// What the call met.
    pub async fn expire_pre_auth_key(&self, id: KeyId) -> Result<(), Error> {
        match self {
            Self::Rest(rest) => rest.expire_pre_auth_key(id).await,
        }
    }

    /// Lists all nodes.
    ///
    /// # Errors
    ///
    /// What the call met.
    pub async fn list_nodes(&self) -> Result<Vec<Node>, Error> {
        match self {
            Self::Rest(rest) => rest.list_nodes().await,
        }
    }
}
