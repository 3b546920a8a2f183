//! Headscale's API key and the Secret that holds it: decides what to do from what was read. Pure.
//!
//! ```text
//! Secret ─► form ─► SecretContents ┐
//!                                  ├─► TokenKeeper::next(now) ─► Action ─► taken ─► TokenKeeper::absorb ─► read again
//! Headscale's list ────────────────┘
//! ```
//! The sidecar in the Headscale pod and the key rotation use the same [`TokenKeeper`] with different [`TokenPolicy`]s.

pub mod form;
pub mod keeper;
pub mod record;
pub mod value;

pub mod need;

pub use form::{SecretContents, Stated, TokenOwnership};
pub use keeper::{Action, ActionOutcome, Idle, TokenKeeper};
pub use need::{TokenDecision, TokenPolicy, TokenReason};
pub use record::{AbandonedApiKey, ApiKeyIntent, ApiKeyRecord, PreviousApiKey, RecordedApiKey};
pub use value::ListedApiKey;
