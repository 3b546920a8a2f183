//! Foundation of the real-server tests: programs, processes, clusters, images, Headscale.

pub(crate) mod api;
pub(crate) mod cgroups;
pub(crate) mod context;
pub(crate) mod evidence;
pub(crate) mod fence;
pub(crate) mod folder;
pub(crate) mod headscale;
pub(crate) mod image;
pub(crate) mod kubectl;
pub(crate) mod leaks;
pub(crate) mod levels;
pub(crate) mod metrics;
pub(crate) mod node;
pub(crate) mod pods;
pub(crate) mod post;
pub(crate) mod processes;
pub(crate) mod product;
pub(crate) mod programs;
pub(crate) mod proxy;
pub(crate) mod recorder;
pub(crate) mod remains;
pub(crate) mod soak;
pub(crate) mod stand_in;
pub(crate) mod stranger;
pub(crate) mod wait;
