//! Pure nouns that the other packages share, and what can be said of one alone. No rule, no socket, clock or file.
//!
//! ```text
//! a control plane has   objects: users, keys, nodes ── id, key_prefix, release
//! a cluster has         secret: the values of keys ─── key_value, key_form
//! people read           notice, problem ────────────── key_state, quote
//! time                  time, duration, backoff, and fingerprint: the expiration that identifies a key
//! ```

pub mod backoff;
pub mod causes;
pub mod duration;
pub mod fingerprint;
pub mod id;
pub mod items;
pub mod key_form;
pub mod key_prefix;
pub mod key_state;
pub mod key_value;
pub mod notice;
pub mod objects;
pub mod problem;
pub mod quote;
pub mod release;
pub mod secret;
pub mod time;
