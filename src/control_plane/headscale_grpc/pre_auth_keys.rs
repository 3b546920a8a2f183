//! Pre-auth keys of Headscale by gRPC. I/O.

use sidescale_core::id::KeyId;
use sidescale_core::objects::{MintedKey, NewPreAuthKey, PreAuthKey};
use sidescale_proto::v1;

use super::{HeadscaleGrpc, read};
use crate::control_plane::{Error, checks};

impl HeadscaleGrpc {
    pub(in crate::control_plane) async fn list_pre_auth_keys(
        &self,
    ) -> Result<Vec<PreAuthKey>, Error> {
        let mut client = self.client();
        let request = v1::ListPreAuthKeysRequest {};
        let answer = self
            .call("ListPreAuthKeys", client.list_pre_auth_keys(request))
            .await?;
        let keys = answer.pre_auth_keys.into_iter();
        let keys = keys
            .map(|key| read::pre_auth_key(key).map(|(key, _)| key))
            .collect();
        self.expect("ListPreAuthKeys", "a list of pre-auth keys", keys)
    }

    pub(in crate::control_plane) async fn create_pre_auth_key(
        &self,
        new: &NewPreAuthKey,
    ) -> Result<MintedKey, Error> {
        let NewPreAuthKey {
            user,
            reusable,
            ephemeral,
            expiration,
            tags,
        } = new;
        let request = v1::CreatePreAuthKeyRequest {
            user: self.number("CreatePreAuthKey", user.0)?,
            reusable: *reusable,
            ephemeral: *ephemeral,
            expiration: Some(read::to_proto(*expiration)),
            acl_tags: tags.clone(),
        };
        let mut client = self.client();
        let answer = self
            .call("CreatePreAuthKey", client.create_pre_auth_key(request))
            .await?;
        let minted = read::required(answer.pre_auth_key, "pre_auth_key")
            .and_then(read::pre_auth_key)
            .and_then(|(key, value)| checks::minted(key, value, new));
        self.expect(
            "CreatePreAuthKey",
            "the new pre-auth key as it was asked for",
            minted,
        )
    }

    pub(in crate::control_plane) async fn expire_pre_auth_key(
        &self,
        id: KeyId,
    ) -> Result<(), Error> {
        let request = v1::ExpirePreAuthKeyRequest {
            id: self.number("ExpirePreAuthKey", id.0)?,
        };
        let mut client = self.client();
        self.call("ExpirePreAuthKey", client.expire_pre_auth_key(request))
            .await
            .map(drop)
    }

    pub(in crate::control_plane) async fn delete_pre_auth_key(
        &self,
        id: KeyId,
    ) -> Result<(), Error> {
        let request = v1::DeletePreAuthKeyRequest {
            id: self.number("DeletePreAuthKey", id.0)?,
        };
        let mut client = self.client();
        self.call("DeletePreAuthKey", client.delete_pre_auth_key(request))
            .await
            .map(drop)
    }
}
