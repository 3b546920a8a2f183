//! The calls of a control plane, each with a time limit and bounded answers. I/O.
//!
//! ```text
//! Client: what every caller uses, answers checked ─► trait ControlPlane ─► headscale: REST
//! ApiKeyClient: API keys alone ────────────────────────────────────────► headscale: REST, or gRPC on its socket
//! ```

use std::time::Duration;

mod api_keys;
mod checks;
mod client;
mod endpoint;
mod error;
mod headscale;
mod plane;
mod problem;
mod refusals;
mod row_list;
mod text;
mod version;

pub use api_keys::ApiKeyClient;
pub use client::Client;
pub use endpoint::Endpoint;
pub use error::{At, Error};
pub use plane::ControlPlane;
pub use row_list::RowList;
pub use version::{Api, Version};

/// Time limit of one call, from the connection to the last byte; with an API key the server computes a slow hash.
const DEADLINE: Duration = Duration::from_secs(10);
