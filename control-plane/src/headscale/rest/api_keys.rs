//! API keys of Headscale by REST. I/O.

use jiff::Timestamp;
use sidescale_core::id::ApiKeyId;
use sidescale_core::objects::{ApiKey, MintedApiKey};

use super::{Error, HeadscaleRest, wire};

impl HeadscaleRest {
    pub(crate) async fn list_api_keys(&self) -> Result<Vec<ApiKey>, Error> {
        self.list("/api/v1/apikey").await
    }

    pub(crate) async fn create_api_key(
        &self,
        expiration: Timestamp,
    ) -> Result<MintedApiKey, Error> {
        let answer = self
            .post("/api/v1/apikey", &wire::CreateApiKey { expiration })
            .await?;
        self.parse(answer, "the new API key", wire::minted_api_key)
    }

    pub(crate) async fn expire_api_key(&self, id: ApiKeyId) -> Result<(), Error> {
        let answer = self
            .post("/api/v1/apikey/expire", &wire::ById::new(id.0))
            .await?;
        self.parse(answer, "an empty JSON object", wire::nothing)
    }
}
