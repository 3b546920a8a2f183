//! What is no longer needed: keys of services without pods, keys that no Secret knows, rows of expired keys, users. Pure.

pub mod orphans;
pub mod removal;
pub mod unused;
