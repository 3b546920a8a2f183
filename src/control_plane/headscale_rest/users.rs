//! Users of Headscale by REST. I/O.

use sidescale_core::id::UserId;
use sidescale_core::objects::User;

use super::{Error, HeadscaleRest, wire};

impl HeadscaleRest {
    pub(in crate::control_plane) async fn list_users(&self) -> Result<Vec<User>, Error> {
        self.list("/api/v1/user").await
    }

    pub(in crate::control_plane) async fn create_user(
        &self,
        name: &str,
        display_name: &str,
    ) -> Result<User, Error> {
        let answer = self
            .post("/api/v1/user", &wire::CreateUser { name, display_name })
            .await?;
        self.parse(answer, "the new user", |body| {
            wire::created_user(body, name)
        })
    }

    pub(in crate::control_plane) async fn delete_user(&self, id: UserId) -> Result<(), Error> {
        let answer = self.delete(&format!("/api/v1/user/{}", id.0)).await?;
        self.parse(answer, "an empty JSON object", wire::nothing)
    }
}
