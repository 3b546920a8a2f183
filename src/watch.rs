//! Watches of the cluster, kept as plain indexes. I/O.

mod feed;
pub mod metadata;
mod namespaces;
pub mod pods;
mod secrets;

pub use namespaces::Namespaces;
pub(crate) use secrets::run as run_secrets;
