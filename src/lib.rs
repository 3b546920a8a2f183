//! The process: every socket, clock read and call to Kubernetes or a control plane.
//!
//! ```text
//! main → app → {server, watch, rotation::run, tls::run} → {control_plane, store, metrics} → {webhook, certs, plan, record}
//! ```

pub mod clock;
pub mod control_plane;
pub mod key_value;
pub mod rotation;
pub mod store;
