//! Pure injection: AdmissionReview bytes and a policy in, AdmissionReview bytes out. No socket, clock or cluster.
//!
//! ```text
//! body ─ review, pod ─► Subject ─ annotations::decide ─► Injection ─ sidecar, patch ─► reply
//!                          ▲
//!        rotation, from a pod's metadata
//!
//! body of a workload ─ workload ─► a pod's metadata and spec ─ as above ─► warnings
//! ```

mod bounded;
mod headscale;
mod json;
mod lookup;
mod patch;
mod pod;
mod review;
mod text;

pub mod annotations;
pub mod forms;
pub mod hostnames;
pub mod identity;
pub mod keys;
pub mod mutate;
pub mod profile;
pub mod quote;
pub mod sidecar;
pub mod workload;
