//! Annotation keys, their forms and defaults: metadata and policy -> Injection, or an error that its author can act on. Pure.

mod asked;
mod choose;
mod decide;
mod headscale;
mod injection;
mod key;
mod kinds;
mod known;
mod life;
mod network;
mod read;
mod reason;
mod state;
mod subject;

pub(crate) use decide::check_defaults;
pub(crate) use known::{Defaults, KNOWN, Support, is_known};
pub(crate) use network::{is_argument, of_ours};

pub use crate::lookup::{Lookup, NamespaceMetadata};
pub use asked::{deciding, unknown};
pub use decide::decide;
pub use headscale::{ApikeyManager, ServerKeys};
pub use injection::{Decision, Injection, Tailscale};
pub use key::{AuthKeyRef, ManagedKey};
pub use kinds::Kinds;
pub use reason::{DenyReason, Refusal, SkipReason};
pub use state::StateStorage;
pub use subject::{Caller, Subject};
