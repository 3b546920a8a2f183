//! Makes, renews and ends the keys that injected sidecars refer to.
//!
//! ```text
//! pods ─► demand ─► plan(now, view, policy) ─► steps ─► run: control plane and Secrets
//! ```
//! `record`, `demand`, `plan`, `queue` and `state` are pure; `run` obeys them.

pub mod demand;
pub mod fleet;
pub mod in_cluster;
mod known;
pub mod plan;
pub mod plane;
mod planes;
mod private_ca;
pub mod queue;
pub mod record;
pub mod run;
mod settle;
pub mod state;
