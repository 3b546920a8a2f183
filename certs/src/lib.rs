//! Pure certificate decisions: no file, socket or clock; `now` is an argument.
//!
//! ```text
//! stored PEM ─► Authority ─► renewal::authority_verdict(now) ─► keep, or generate another
//!                   └──────► Leaf::issue(now) ─► rustls key    Bundle: what the API server has to trust
//! ```

mod authority;
mod bundle;
mod der;
mod renewal;
mod serving;

pub use authority::{AUTHORITY_LIFE, Authority, AuthorityError};
pub use bundle::Bundle;
pub use renewal::{AuthorityVerdict, ReplaceReason, authority_verdict, leaf_is_due};
pub use serving::{LEAF_LIFE, Leaf, LeafError};
