//! Makes, renews and ends the keys that injected sidecars refer to.
//!
//! ```text
//! pods ─► demand ─► plan(now, view, policy) ─► steps ─► run: control plane and Secrets
//! ```
//! `record`, `demand`, `plan`, `queue` and `state` are pure; `run` obeys them.
//!
//! ```text
//! pods ─► fleet ─┬─► nodes: joined, late, lost, uninvited ─► housekeeping: Events, gauges, evictions
//! nodes ─► tailnet ─► names: who makes room, who is named ─► housekeeping: the control plane
//! pods, nodes ─► claims: which namespace a name belongs to ─► names, and housekeeping: Events, a ConfigMap
//! ```
//! The five are pure as well, and looked at every few seconds beside the rotation of keys; so are `orphans`, `cleanup` and
//! `removal`, which say once an hour, or when a person asks, what nobody needs any more.

mod api_keys;
pub mod budget;
mod checkpoint;
pub mod claims;
pub mod cleanup;
pub mod context;
pub mod demand;
pub mod expiry_alerts;
mod in_flight;
mod key_status;
#[cfg(test)]
pub(crate) mod model;
mod node_monitor;
pub mod nodes;
pub mod orphans;
mod outcome;
pub mod owner;
mod ownership;
pub mod plan;
mod private_ca;
pub mod problem;
pub mod queue;
pub mod quota;
mod reconcile;
pub mod record;
pub mod removal;
pub mod rename;
pub mod replicas;
pub mod request;
pub mod run;
mod secret_state;
pub mod session;
mod sessions;
pub mod state;
pub mod survey;
pub(crate) mod sweep;
pub mod tailnet;
mod value;
pub mod workload;

pub use checkpoint::Checkpoint;
pub(crate) use ownership::{foreign_keys, joining, ownership};
pub(crate) use replicas::expanded;
pub use value::{Flaw, StoredValue};
pub(crate) use value::{KeyKind, kind_of_key, may_be_a_key};
