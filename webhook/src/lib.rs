//! Pure injection: AdmissionReview bytes and a policy in, AdmissionReview bytes out. No socket, clock or cluster.

pub mod annotations;
pub mod identity;
pub mod mutate;
pub mod profile;
