//! The process: every socket, clock read and call to Kubernetes or a control plane.
//!
//! ```text
//! main → app → args → commands → {server, watch, controller, tls} → {store, events, metrics} → {rotation, control-plane, webhook, certs, core}
//! ```
//! No layer imports from its left, and no command from another; `tests/suite/imports.rs` checks every file.

#![allow(
    missing_docs,
    reason = "none of this crate is published: a name that says it all needs no comment"
)]

pub mod admin;
pub mod alert_log;
pub mod api_key;
pub mod app;
pub mod args;
pub mod clock;
pub mod cluster;
pub mod commands;
pub mod config;
pub mod controller;
pub mod events;
pub mod fences;
pub mod health;
pub mod installations;
pub mod leader;
pub mod metadata;
pub mod metrics;
pub mod outage;
pub mod pods;
pub mod server;
pub mod store;
pub mod telemetry;
pub mod tls;
pub mod watch;
