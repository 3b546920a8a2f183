//! Creates, renews and expires the keys that injected sidecars refer to.
//!
//! ```text
//! pods ─► demand ─► run ─► queue ─► reconcile ─► plan ─► steps ─► create, retire ─► control plane and Secret
//!                    ▲                                                       │
//!                    └────────── secret_state ◄────────── outcome ◄──────────┘
//! ```
//! Read it in this order. `demand`, `queue`, `plan`, `record`, `owner` and `budget` are pure; `run` and `reconcile` obey them.
//!
//! ```text
//! pods  ─► replicas ┬─► nodes: joined, late, lost, uninvited ──► node_monitor: Events, gauges, evictions
//! nodes ─► tailnet ─┼─► rename: which node gets its name back ─► node_monitor: the control plane
//!                   └─► claims: owner of each hostname ────────► rename, and node_monitor: Events, a ConfigMap
//! ```
//! These are pure as well and run every few seconds, independently of key rotation. So are `orphans`, `cleanup` and `removal`,
//! which list what is no longer needed, every 15 minutes and when a person asks.

mod api_keys;
pub mod budget;
mod checkpoint;
pub mod claims;
pub mod cleanup;
pub mod context;
pub mod demand;
pub mod expiry_alerts;
mod in_flight;
mod jitter;
mod key_status;
#[cfg(test)]
mod model;
mod node_monitor;
pub mod nodes;
pub mod orphans;
mod outcome;
pub mod owner;
mod ownership;
pub mod plan;
mod private_ca;
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
pub mod survey;
pub(crate) mod sweep;
pub mod tailnet;
mod value;
mod wake;
mod waker;
pub mod workload;

pub use checkpoint::Checkpoint;
pub(crate) use ownership::{foreign_keys, joining, ownership};
pub(crate) use replicas::expanded;
pub use value::{Flaw, StoredValue};
