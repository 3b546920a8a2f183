//! Decides about keys, tokens and nodes, and never acts: `now` is an argument, and what was read is another.
//!
//! Read it in this order; the controller of the process obeys it:
//!
//! ```text
//! pods ─► demand ─► queue ─► plan ─► steps, which the controller takes ─► outcome ─► secret_state ─► queue
//!                              ▲
//!                              └── record: what a Secret remembers ── owner, ownership: what of it may be believed
//! ```
//! `budget`, `quota` and `request` bound and cause what `plan` decides. Independently of it, every few seconds:
//!
//! ```text
//! pods  ─► replicas ┬─► nodes: joined, late, lost, uninvited ──► Events, gauges, evictions
//! nodes ─► tailnet ─┼─► rename: which node gets its name back ─► the control plane
//!                   └─► claims: owner of each hostname ────────► rename, Events, a ConfigMap
//! ```
//! `retention` lists what is no longer needed. `tokens` keeps the API keys by which control planes are called.

pub mod budget;
pub mod demand;
pub mod expiry_alerts;
pub mod in_flight;
pub mod key_status;
pub mod nodes;
pub mod outcome;
pub mod owner;
pub mod ownership;
pub mod plan;
pub mod private_ca;
pub mod queue;
pub mod quota;
pub mod record;
pub mod request;
pub mod retention;
pub mod rotated;
pub mod secret_state;
pub mod survey;
pub mod tokens;
pub mod value;
pub mod wake;
pub mod workload;
