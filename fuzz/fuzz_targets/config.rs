//! Any text as a configuration file.

#![no_main]
#![allow(
    dead_code,
    reason = "the bodies and what checks them are shared with the tests"
)]

#[path = "../../webhook/tests/fuzz/bodies.rs"]
mod bodies;
#[path = "../../webhook/tests/whole/support.rs"]
mod support;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bodies::config(bytes));
