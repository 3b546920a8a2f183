//! Watches of the cluster, kept as plain indexes. I/O.

mod namespaces;
pub mod pods;

pub use namespaces::Namespaces;
