//! Pre-auth keys of Headscale by REST. I/O.

use sidescale_core::id::KeyId;
use sidescale_core::objects::{MintedKey, NewPreAuthKey, PreAuthKey};

use super::{Error, HeadscaleRest, wire};
use crate::control_plane::RowList;

impl HeadscaleRest {
    pub(in crate::control_plane) async fn list_last_pre_auth_keys(
        &self,
    ) -> Result<RowList<PreAuthKey>, Error> {
        self.list_last("/api/v1/preauthkey").await
    }

    pub(in crate::control_plane) async fn create_pre_auth_key(
        &self,
        new: &NewPreAuthKey,
    ) -> Result<MintedKey, Error> {
        let answer = self
            .post("/api/v1/preauthkey", &wire::create_pre_auth_key(new))
            .await?;
        self.parse(answer, "the new pre-auth key as requested", |body| {
            wire::minted(body, new)
        })
    }

    pub(in crate::control_plane) async fn expire_pre_auth_key(
        &self,
        id: KeyId,
    ) -> Result<(), Error> {
        let answer = self
            .post("/api/v1/preauthkey/expire", &wire::ById::new(id.0))
            .await?;
        self.parse(answer, "an empty JSON object", wire::nothing)
    }

    pub(in crate::control_plane) async fn delete_pre_auth_key(
        &self,
        id: KeyId,
    ) -> Result<(), Error> {
        let answer = self
            .delete(&format!("/api/v1/preauthkey?id={}", id.0))
            .await?;
        self.parse(answer, "an empty JSON object", wire::nothing)
    }
}
