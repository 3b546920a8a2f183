//! The `sidescale` binary.

fn main() {}
