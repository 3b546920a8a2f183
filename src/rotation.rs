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
pub mod ending;
pub mod fleet;
mod housekeeping;
mod in_flight;
mod known;
#[cfg(test)]
pub(crate) mod model;
pub mod names;
pub mod nodes;
pub mod orphans;
mod outcome;
pub mod owner;
mod ownership;
pub mod plan;
pub mod plane;
mod planes;
mod private_ca;
pub mod problem;
pub mod queue;
pub mod quota;
pub mod record;
pub mod removal;
pub mod request;
pub mod run;
mod settle;
mod standing;
pub mod state;
pub mod survey;
pub(crate) mod sweep;
pub mod tailnet;
mod value;
pub mod workload;

pub use checkpoint::Notebook;
pub(crate) use fleet::expanded;
pub(crate) use ownership::{joining, lent, ownership};
pub use value::{Flaw, Value};
pub(crate) use value::{KeyKind, kind_of_key, may_be_a_key};
