//! One file, or folder, per command.

pub mod apikey_manager;
pub mod demo;
pub mod serve;
