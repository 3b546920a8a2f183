//! A Headscale in memory: our calls by REST and gRPC, answered as by 0.28, 0.29 and 0.30. I/O only by its router.
//!
//! The conformance suite runs the same functions against it and against real servers, which decide where they differ.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use sidescale_core::id::NodeId;
use sidescale_core::key_value::KeyValue;
use sidescale_core::time::after;

mod body;
mod faults;
mod grpc;
mod reply;
mod routes;
mod socket;
mod state;

pub use state::{ServerKey, ServerState};

/// The release that is imitated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Flavour {
    /// 0.28.
    V0_28,
    /// 0.29.
    V0_29,
    /// The future 0.30.
    Main,
}

impl Flavour {
    /// All of them, the oldest first.
    pub const ALL: [Self; 3] = [Self::V0_28, Self::V0_29, Self::Main];

    /// Whether deleting a user deletes all users' keys: a bug of 0.28, fixed in 0.29.
    fn deletes_all_keys(self) -> bool {
        match self {
            Self::V0_28 => true,
            Self::V0_29 | Self::Main => false,
        }
    }

    /// Returns the minimum length of a node's name.
    fn shortest_node_name(self) -> usize {
        match self {
            Self::V0_28 => 2,
            Self::V0_29 | Self::Main => 1,
        }
    }

    /// Returns its name for people.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V0_28 => "0.28",
            Self::V0_29 => "0.29",
            Self::Main => "main",
        }
    }
}

/// A kind of request, for counts and faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Call {
    /// `GET /version`.
    Version,
    /// Lists users.
    ListUsers,
    /// Creates a user.
    CreateUser,
    /// Lists pre-auth keys.
    ListPreAuthKeys,
    /// Creates a pre-auth key.
    CreatePreAuthKey,
    /// Expires a pre-auth key.
    ExpirePreAuthKey,
    /// Deletes a pre-auth key.
    DeletePreAuthKey,
    /// Deletes a user.
    DeleteUser,
    /// Lists nodes.
    ListNodes,
    /// Deletes, renames or expires a node.
    ChangeNode,
    /// Lists API keys.
    ListApiKeys,
    /// Creates or expires an API key.
    ChangeApiKey,
    /// Anything else.
    Other,
}

/// An intended fault.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// 200 and a login page; nothing is done.
    Html,
    /// 302 to a login page; nothing is done.
    Redirect,
    /// 401; nothing is done.
    Unauthorized,
    /// This status with a web page, as a proxy answers for an unavailable server; nothing is done.
    Status(u16),
    /// The request waits this long before it is done.
    Slow(Duration),
    /// The request is done, and its answer breaks off halfway.
    CutBody,
    /// The request is done, and its answer continues with more bytes than a client should read.
    Endless,
    /// The request is done, and its answer lacks this field, or has another value there (a JSON pointer).
    Field(&'static str, Option<serde_json::Value>),
}

/// A Headscale in memory; clones share it.
#[derive(Clone)]
pub struct Embedded {
    shared: Arc<SharedState>,
}

struct SharedState {
    flavour: Flavour,
    now: Box<dyn Fn() -> Timestamp + Send + Sync>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    state: ServerState,
    calls: BTreeMap<Call, u64>,
    fault: Option<(Option<Call>, Fault)>,
}

impl Embedded {
    /// Creates an empty server, whose time is that of `now`.
    pub fn new(flavour: Flavour, now: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        let inner = Mutex::new(Inner::default());
        Self {
            shared: Arc::new(SharedState {
                flavour,
                now: Box::new(now),
                inner,
            }),
        }
    }

    /// Creates an API key like `headscale apikeys create` on the server's own machine.
    #[must_use]
    pub fn create_api_key(&self, life: Duration) -> KeyValue {
        let now = self.now();
        self.inner()
            .state
            .create_api_key(secret("hskey-api-"), now, after(now, life))
    }

    /// Applies a fault to calls of this kind, or to all calls, until [`Self::mend`].
    pub fn break_calls(&self, call: Option<Call>, fault: Fault) {
        self.inner().fault = Some((call, fault));
    }

    /// Removes the faults of [`Self::break_calls`].
    pub fn mend(&self) {
        self.inner().fault = None;
    }

    /// Deletes all users, keys, nodes and API keys, as with a lost database.
    pub fn forget(&self) {
        self.inner().state = ServerState::default();
    }

    /// Returns the number of requests of a kind, refused ones included.
    #[must_use]
    pub fn calls(&self, call: Call) -> u64 {
        self.inner().calls.get(&call).copied().unwrap_or_default()
    }

    /// Returns the number of all requests.
    #[must_use]
    pub fn all_calls(&self) -> u64 {
        self.inner().calls.values().sum()
    }

    /// Returns all pre-auth keys, expired ones included, by id.
    #[must_use]
    pub fn issued(&self) -> Vec<ServerKey> {
        self.inner().state.issued()
    }

    /// Whether a node could join with this key now.
    #[must_use]
    pub fn accepts(&self, key: &str) -> bool {
        let now = self.now();
        self.inner().state.accepts(key, now)
    }

    /// Joins a node with a key, as a client would; `None` if the key is not accepted.
    #[must_use]
    pub fn join(&self, key: &str, hostname: &str) -> Option<NodeId> {
        let now = self.now();
        self.inner().state.join(key, hostname, now)
    }

    /// Sets whether a node is connected.
    pub fn set_online(&self, node: NodeId, online: bool) {
        self.inner().state.set_online(node, online);
    }

    /// Deletes a node like `headscale nodes delete`; returns whether it existed.
    pub fn remove_node(&self, node: NodeId) -> bool {
        let id = node.0.number();
        id.is_some_and(|id| self.inner().state.delete_node(id).is_ok())
    }

    /// Returns the label of each node in the tailnet's DNS, by id.
    #[must_use]
    pub fn given_names(&self) -> BTreeMap<NodeId, String> {
        let inner = self.inner();
        let nodes = inner.state.nodes.iter();
        nodes
            .map(|node| (NodeId::from(node.id), node.given_name.clone()))
            .collect()
    }

    /// Returns the names of all users, the oldest first.
    #[must_use]
    pub fn user_names(&self) -> Vec<String> {
        let inner = self.inner();
        let users = inner.state.users.iter();
        users.map(|user| user.name.clone()).collect()
    }

    /// Adds a user that another client created; `provider` is empty, or such as `oidc`.
    pub fn add_user(&self, name: &str, display_name: &str, provider: &str) {
        let now = self.now();
        self.inner()
            .state
            .add_user(name, display_name, provider, now);
    }

    fn now(&self) -> Timestamp {
        (self.shared.now)()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.shared
            .inner
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns twelve characters to find it by and sixty-four secret ones, as 0.30 writes them: hexadecimal.
fn secret(prefix: &str) -> KeyValue {
    let random = || uuid::Uuid::new_v4().simple().to_string();
    let (find, first, second) = (random(), random(), random());
    KeyValue::new(format!("{prefix}{}-{first}{second}", &find[..12]))
}
