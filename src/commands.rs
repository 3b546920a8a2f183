//! One file, or folder, per command.

pub mod demo;
pub mod serve;
