//! Tests against our own fakes and the embedded servers; no real server is needed.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test's helper may fail the test"
)]

mod acceptance;
mod alerts;
mod apikey_manager;
mod architecture;
mod book;
mod chart;
mod check;
mod client;
mod config;
mod conformance;
mod control_plane;
mod demo;
mod fences;
mod imports;
mod pages;
mod rotation;
mod schema;
mod server;
