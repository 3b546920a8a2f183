//! What rotation asks of a control plane, whichever it is. I/O behind one enum.

use jiff::Timestamp;

use crate::key_value::KeyValue;

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
