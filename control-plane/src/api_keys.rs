//! The calls for API keys, and no others: by REST, and by gRPC on Headscale's Unix socket. I/O behind one enum.

use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use sidescale_core::id::ApiKeyId;
use sidescale_core::objects::{ApiKey, MintedApiKey};

use crate::error::unless_not_found;
use crate::headscale::{HeadscaleGrpc, HeadscaleRest};
use crate::{DEADLINE, Endpoint, Error, checks};

/// Name in messages of a control plane on a socket, which no configuration names.
const ON_SOCKET: &str = "headscale";

/// A Headscale on which API keys are created and expired.
#[derive(Clone, Debug)]
pub enum ApiKeyClient {
    /// By REST: over TCP, or on its Unix socket since 0.30.
    Rest(HeadscaleRest),
    /// By gRPC on its Unix socket: 0.28 and 0.29.
    Grpc(HeadscaleGrpc),
}

impl ApiKeyClient {
    /// Prepares calls to `endpoint` by REST; sends none yet.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidEndpoint`] if the URL, the authority or the key cannot be used.
    pub fn new(endpoint: Endpoint) -> Result<Self, Error> {
        Self::with_deadline(endpoint, DEADLINE)
    }

    /// The same, with a time limit for each call other than ten seconds.
    ///
    /// # Errors
    ///
    /// As [`Self::new`].
    pub fn with_deadline(endpoint: Endpoint, deadline: Duration) -> Result<Self, Error> {
        HeadscaleRest::new(endpoint, deadline).map(Self::Rest)
    }

    /// Detects the server on Headscale's Unix socket, where no API key is needed: REST since 0.30, else gRPC.
    ///
    /// # Errors
    ///
    /// [`Error::Unreachable`] while the socket does not exist or accept, [`Error::Unsupported`] below 0.28.
    pub async fn on_socket(path: &Path) -> Result<Self, Error> {
        Self::on_socket_within(path, DEADLINE).await
    }

    /// The same, with a time limit for each call other than ten seconds.
    ///
    /// # Errors
    ///
    /// As [`Self::on_socket`].
    pub async fn on_socket_within(path: &Path, deadline: Duration) -> Result<Self, Error> {
        let rest = HeadscaleRest::on_socket(ON_SOCKET, path, deadline)?;
        rest.connect(path).await?;
        match rest.probe_socket().await {
            Ok(()) => return Ok(Self::Rest(rest)),
            // The server accepts, and does not speak HTTP/1.1.
            Err(Error::Unreachable { .. }) => {}
            Err(error) => return Err(error),
        }
        let grpc = HeadscaleGrpc::on_socket(ON_SOCKET, path, deadline);
        grpc.probe().await?;
        Ok(Self::Grpc(grpc))
    }

    /// Lists all API keys, without their values.
    ///
    /// # Errors
    ///
    /// The error of the call.
    pub async fn list(&self) -> Result<Vec<ApiKey>, Error> {
        match self {
            Self::Rest(rest) => rest.list_api_keys().await,
            Self::Grpc(grpc) => grpc.list_api_keys().await,
        }
    }

    /// Creates an API key. The expiration is always set: a key without one is never valid.
    ///
    /// # Errors
    ///
    /// [`Error::NotHeadscale`] if the answer is not an API key, [`Error::MalformedKey`] if it is too long, in which
    /// case it is expired again; else the error of the call.
    pub async fn create(&self, expiration: Timestamp) -> Result<MintedApiKey, Error> {
        let made = match self {
            Self::Rest(rest) => rest.create_api_key(expiration).await,
            Self::Grpc(grpc) => grpc.create_api_key(expiration).await,
        }?;
        if made.value.expose().len() <= checks::LONGEST_KEY {
            return Ok(made);
        }
        let listed = self.list().await.unwrap_or_default();
        let row = listed.iter().find(|row| row.prefix == made.prefix);
        let ended = match row {
            Some(row) => self.expire(row.id).await.is_ok(),
            None => false,
        };
        Err(Error::MalformedKey {
            control_plane: self.name().to_owned(),
            what: "API key",
            begins: "hskey-api-",
            ended,
        })
    }

    /// Expires an API key; a missing one counts as expired.
    ///
    /// # Errors
    ///
    /// The error of the call.
    pub async fn expire(&self, id: ApiKeyId) -> Result<(), Error> {
        let answer = match self {
            Self::Rest(rest) => rest.expire_api_key(id).await,
            Self::Grpc(grpc) => grpc.expire_api_key(id).await,
        };
        match unless_not_found(answer) {
            // Before 0.30 a missing key is a 500 like any other problem: the list shows which it is.
            Err(Error::Refused { status: 500, .. })
                if !self.list().await?.iter().any(|key| key.id == id) =>
            {
                Ok(())
            }
            other => other,
        }
    }

    /// Returns its name in the configuration, for messages.
    fn name(&self) -> &str {
        match self {
            Self::Rest(rest) => rest.name(),
            Self::Grpc(grpc) => grpc.name(),
        }
    }
}
