//! One file, or folder, per command.

pub mod apikey_manager;
pub mod check;
pub mod cleanup;
pub mod config;
pub mod demo;
mod inventory;
mod progress;
pub mod release;
pub mod rotate;
pub mod serve;
pub mod status;
