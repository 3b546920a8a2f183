//! Watches of the cluster, kept as plain indexes. I/O.

mod feed;
mod hostnames;
mod namespaces;
pub mod pods;
mod secrets;

pub use hostnames::Hostnames;
pub use namespaces::Namespaces;
pub(crate) use secrets::run as run_secrets;
