//! Headscale's API key and the Secret that holds it: what is to be done, from what was read. Pure, but for `run`.
//!
//! ```text
//! Secret ─► form ─► SecretContents ┐
//!                                  ├─► TokenKeeper::next(now) ─► Action ─► done by `run` ─► TokenKeeper::absorb ─► read again
//! Headscale's list ────────────────┘
//! ```
//! The sidecar in the Headscale pod and the rotation of keys obey the same [`TokenKeeper`]; only their [`TokenPolicy`] differs.

pub mod form;
pub mod keeper;
pub mod record;
pub mod run;
pub mod value;

mod need;

pub use form::{SecretContents, Stated, TokenOwnership};
pub use keeper::{Action, ActionOutcome, Idle, TokenKeeper};
pub use need::{TokenDecision, TokenPolicy, TokenReason};
pub use record::{AbandonedApiKey, ApiKeyIntent, ApiKeyRecord, PreviousApiKey, RecordedApiKey};
pub use value::ListedApiKey;
