//! Pure injection: AdmissionReview bytes and a policy in, AdmissionReview bytes out. No socket, clock or cluster.

mod forms;

pub mod annotations;
pub mod identity;
pub mod mutate;
pub mod profile;
