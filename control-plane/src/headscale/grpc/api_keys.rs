//! API keys of Headscale by gRPC. I/O.

use jiff::Timestamp;
use sidescale_core::id::ApiKeyId;
use sidescale_core::key_value::KeyValue;
use sidescale_core::objects::{ApiKey, MintedApiKey};
use sidescale_proto::v1;

use super::{HeadscaleGrpc, read};
use crate::{Error, checks};

impl HeadscaleGrpc {
    pub(crate) async fn list_api_keys(&self) -> Result<Vec<ApiKey>, Error> {
        let mut client = self.client();
        let request = v1::ListApiKeysRequest {};
        let answer = self
            .call("ListApiKeys", client.list_api_keys(request))
            .await?;
        let keys = answer.api_keys.into_iter().map(read::api_key).collect();
        self.expect("ListApiKeys", "a list of API keys", keys)
    }

    pub(crate) async fn create_api_key(
        &self,
        expiration: Timestamp,
    ) -> Result<MintedApiKey, Error> {
        let request = v1::CreateApiKeyRequest {
            expiration: Some(read::to_proto(expiration)),
        };
        let mut client = self.client();
        let answer = self
            .call("CreateApiKey", client.create_api_key(request))
            .await?;
        let minted = checks::minted_api_key(KeyValue::new(answer.api_key));
        self.expect("CreateApiKey", "the new API key", minted)
    }

    pub(crate) async fn expire_api_key(&self, id: ApiKeyId) -> Result<(), Error> {
        let request = v1::ExpireApiKeyRequest {
            id: self.number("ExpireApiKey", id.0)?,
        };
        let mut client = self.client();
        self.call("ExpireApiKey", client.expire_api_key(request))
            .await
            .map(drop)
    }
}
