//! Headscale by REST v1, over TCP with an API key or on its Unix socket without one: our calls. I/O.

use std::path::Path;
use std::time::Duration;

use futures::TryFutureExt as _;
use reqwest::{Client, ClientBuilder, StatusCode, header};
use sidescale_core::key_value::KeyValue;
use sidescale_core::release::HeadscaleRelease;
use tokio::net::UnixStream;

use super::wire;
use crate::version::{Age, age};
use crate::{At, ControlPlane as _, Endpoint, Error, Version};
use sidescale_core::causes;

mod api_keys;
mod base;
mod calls;
mod transport;

/// Works on the socket too, where `/health` does not.
const HEALTH: &str = "/api/v1/health";

/// Whether a call carries the API key.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Auth {
    Bearer,
    None,
}

/// Client of one Headscale.
#[derive(Clone, Debug)]
pub struct HeadscaleRest {
    name: String,
    /// Has no trailing slash.
    base: String,
    /// The same as messages show it.
    shown: String,
    /// `None` on a socket: every client that can open it may do everything.
    api_key: Option<KeyValue>,
    client: Client,
    deadline: Duration,
}

impl HeadscaleRest {
    /// Prepares calls to `endpoint`; sends none yet.
    pub(crate) fn new(endpoint: Endpoint, deadline: Duration) -> Result<Self, Error> {
        let Endpoint {
            name,
            api_url,
            api_key,
            ca_bundle,
            allow_insecure,
        } = endpoint;
        let invalid = |problem: String| Error::InvalidEndpoint {
            control_plane: name.clone(),
            problem,
        };
        let base = base::base_url(&api_url, allow_insecure).map_err(invalid)?;
        if header::HeaderValue::from_str(api_key.expose()).is_err()
            || api_key.expose().trim().is_empty()
        {
            return Err(invalid(
                "the API key is empty or contains bytes that are not allowed in an HTTP header: want what \"headscale apikeys create\" prints; put it into the Secret that apiKeySecret names"
                    .to_owned(),
            ));
        }
        let mut builder = builder();
        if let Some(pem) = ca_bundle {
            let authorities =
                reqwest::Certificate::from_pem_bundle(pem.as_bytes()).unwrap_or_default();
            if authorities.is_empty() {
                return Err(invalid(format!(
                    "caBundle contains no certificate ({} bytes): want PEM that begins with -----BEGIN CERTIFICATE-----",
                    pem.len()
                )));
            }
            builder = builder.tls_certs_only(authorities);
        }
        let client = builder.build().map_err(|error| {
            invalid(format!(
                "cannot create a TLS client: {}",
                causes::innermost(&error)
            ))
        })?;
        Ok(Self {
            name,
            shown: base.clone(),
            base,
            api_key: Some(api_key),
            client,
            deadline,
        })
    }

    /// Prepares calls to the Unix socket at `path`; sends none yet.
    pub(crate) fn on_socket(name: &str, path: &Path, deadline: Duration) -> Result<Self, Error> {
        let name = name.to_owned();
        let client = builder()
            .unix_socket(path)
            // Headscale creates a new file at each start: an older connection may lead to its predecessor.
            .pool_max_idle_per_host(0)
            .build()
            .map_err(|error| Error::InvalidEndpoint {
                control_plane: name.clone(),
                problem: format!(
                    "cannot create an HTTP client: {}",
                    causes::innermost(&error)
                ),
            })?;
        Ok(Self {
            name,
            base: "http://headscale".to_owned(),
            shown: format!("unix:{}:", path.display()),
            api_key: None,
            client,
            deadline,
        })
    }

    /// Connects, whatever protocol the server speaks.
    pub(crate) async fn connect(&self, path: &Path) -> Result<(), Error> {
        let at = self.at("GET", HEALTH);
        let connected =
            UnixStream::connect(path)
                .map_ok(drop)
                .map_err(|error| Error::Unreachable {
                    at: at.clone(),
                    cause: error.to_string(),
                });
        self.in_time(&at, connected).await
    }

    /// Returns its name in the configuration.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) async fn probe(&self) -> Result<Version, Error> {
        let answer = self.get("/version", Auth::None).await?;
        let at = answer.at.clone();
        let unsupported = |version: String| Error::Unsupported {
            at: at.clone(),
            version,
        };
        if answer.status == StatusCode::NOT_FOUND && self.tells_health().await? {
            return Err(unsupported(
                "0.26 or older (it does not report its version)".to_owned(),
            ));
        }
        let text = self.parse(answer, "Headscale's version as JSON", wire::version)?;
        let release = match age(&text) {
            Age::TooOld => return Err(unsupported(text)),
            Age::Is(release) => release,
            Age::Unknown => self.release(&text, unsupported).await?,
        };
        Ok(Version { text, release })
    }

    /// Returns the release of a server that was built from source, by its features.
    async fn release(
        &self,
        text: &str,
        unsupported: impl Fn(String) -> Error,
    ) -> Result<HeadscaleRelease, Error> {
        // 0.30 serves its description without a key; before, everything under /api needs one.
        let description = self.get("/api/v1/openapi.yaml", Auth::None).await?;
        if description.status == StatusCode::OK
            && !description.content_type.starts_with("text/html")
        {
            return Ok(HeadscaleRelease::V0_30);
        }
        // 0.27 lists the keys of one user, and answers 500 to a request without a user.
        match self.list_last_pre_auth_keys().await {
            Ok(_) => {}
            Err(Error::Refused { .. } | Error::NotFound { .. }) => {
                return Err(unsupported(format!(
                    "{text:?}, which cannot list all pre-auth keys"
                )));
            }
            Err(error) => return Err(error),
        }
        // 0.29 knows this path and expects a POST there; 0.28 does not know it.
        let newer = self.get("/api/v1/auth/register", Auth::Bearer).await?;
        Ok(match newer.status {
            StatusCode::NOT_IMPLEMENTED | StatusCode::METHOD_NOT_ALLOWED => HeadscaleRelease::V0_29,
            _ => HeadscaleRelease::V0_28,
        })
    }

    /// Whether this is Headscale on its socket: no release before 0.30 speaks HTTP there, and 0.30 does not report its
    /// version.
    pub(crate) async fn probe_socket(&self) -> Result<(), Error> {
        let answer = self.get(HEALTH, Auth::None).await?;
        self.parse(answer, "Headscale's health as JSON", wire::connectivity)
    }

    /// Whether `/health` answers as every Headscale since 0.23 does.
    async fn tells_health(&self) -> Result<bool, Error> {
        let answer = self.get("/health", Auth::None).await?;
        Ok(wire::is_health(&answer.body))
    }
}

/// Returns the common settings of our clients.
fn builder() -> ClientBuilder {
    // The first one wins; all our entry points install the same one.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .connect_timeout(Duration::from_secs(5))
        .user_agent(concat!("sidescale/", env!("CARGO_PKG_VERSION")))
}
