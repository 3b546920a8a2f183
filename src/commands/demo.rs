//! Everything on one laptop: the embedded Headscale, and the `demo` command around it.

pub mod headscale;
