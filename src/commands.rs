//! One file, or folder, per command.

pub mod serve;
