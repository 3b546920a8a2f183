//! Headscale's API key and the Secret that holds it: what is to be done, from what was read. Pure, but for `run`.
//!
//! ```text
//! Secret ─► form ─► Held ┐
//!                        ├─► Keeper::next(now) ─► Action ─► done by `run` ─► Keeper::absorb ─► read again
//! Headscale's list ──────┘
//! ```
//! The sidecar in the Headscale pod and the rotation of keys obey the same [`Keeper`]; only their [`Policy`] differs.

pub mod form;
pub mod keeper;
pub mod record;
pub mod run;
pub mod value;

mod need;

pub use form::{Held, Ownership, Stated};
pub use keeper::{Action, Done, Keeper, Rest};
pub use need::{Decision, Policy, Why};
pub use record::{Abandoned, Intent, Key, Previous, Record};
pub use value::Listed;
