//! One file, or folder, per command; `view` reads what several of them show.

pub mod apikey_manager;
pub mod check;
pub mod cleanup;
pub mod config;
pub mod demo;
pub mod rotate;
pub mod serve;
pub mod status;
pub mod view;
