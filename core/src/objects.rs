//! Users, keys and nodes as a control plane lists them, by any protocol. Pure.

use jiff::Timestamp;

use crate::id::{ApiKeyId, KeyId, NodeId, UserId};
use crate::key_prefix::KeyPrefix;
use crate::key_value::KeyValue;

/// A user of the control plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Id, by which its keys and nodes name it.
    pub id: UserId,
    /// Unique name.
    pub name: String,
    /// Contains the owner tag if Sidescale created it.
    pub display_name: String,
    /// Whether an identity provider created it; such a user is always foreign.
    pub from_provider: bool,
    /// When it was created, if the control plane says so.
    pub created_at: Option<Timestamp>,
}

/// A pre-auth key as the control plane lists it: without its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreAuthKey {
    /// Id, by which it is expired and deleted.
    pub id: KeyId,
    /// What the list shows of its value; `None` for a key of another form.
    pub prefix: Option<KeyPrefix>,
    /// The user that it belongs to; `None` for a key with only tags.
    pub user: Option<UserId>,
    /// Whether it may be used more than once.
    pub reusable: bool,
    /// Whether its nodes are ephemeral.
    pub ephemeral: bool,
    /// Whether a node has joined with it.
    pub used: bool,
    /// When it expires; `None` for a key that is never valid.
    pub expiration: Option<Timestamp>,
    /// When it was created, if the control plane says so.
    pub created_at: Option<Timestamp>,
    /// Tags of its nodes, each as `tag:name`.
    pub tags: Vec<String>,
}

/// A new pre-auth key; its value is shown only this once.
#[derive(Clone, Debug)]
pub struct MintedKey {
    /// The created key according to the control plane.
    pub key: PreAuthKey,
    /// What a node joins with.
    pub value: KeyValue,
}

/// An API key as the control plane lists it: without its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiKey {
    /// Id, by which it is expired.
    pub id: ApiKeyId,
    /// The public part of its value, without a marker: as [`api_key_prefix`](crate::key_prefix::api_key_prefix) returns it.
    pub prefix: String,
    /// When it expires; `None` for a key that is never valid.
    pub expiration: Option<Timestamp>,
    /// When it was created, if the control plane says so.
    pub created_at: Option<Timestamp>,
    /// When it was last used; no version writes it yet.
    pub last_seen: Option<Timestamp>,
}

/// A new API key; its value is shown only this once. The list has its id, by the prefix.
#[derive(Clone, Debug)]
pub struct MintedApiKey {
    /// The result of [`api_key_prefix`](crate::key_prefix::api_key_prefix) for the value.
    pub prefix: String,
    /// What a client authenticates with.
    pub value: KeyValue,
}

/// Request for a pre-auth key. The expiration is always set: a key without one is never valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewPreAuthKey {
    /// The user that it belongs to.
    pub user: UserId,
    /// Whether it may be used more than once.
    pub reusable: bool,
    /// Whether its nodes are ephemeral.
    pub ephemeral: bool,
    /// When it expires: its fingerprint, to the microsecond.
    pub expiration: Timestamp,
    /// Tags of its nodes, each as `tag:name`.
    pub tags: Vec<String>,
}

/// A node of the tailnet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Id, by which it is renamed, expired and deleted.
    pub id: NodeId,
    /// The host's own name.
    pub name: String,
    /// Its label in the tailnet's DNS.
    pub given_name: String,
    /// The user that it belongs to; a node with tags is listed under a built-in user.
    pub user: Option<UserId>,
    /// Whether it is connected to the control plane.
    pub online: bool,
    /// The key that it joined with; `None` also if that key's row was deleted.
    pub pre_auth_key: Option<KeyId>,
    /// Its tags, each as `tag:name`.
    pub tags: Vec<String>,
    /// When it first joined, if the control plane says so.
    pub created_at: Option<Timestamp>,
    /// When it was last connected; `None` if unknown.
    pub last_seen: Option<Timestamp>,
    /// When it has to log in again; `None` for never.
    pub expiry: Option<Timestamp>,
}
