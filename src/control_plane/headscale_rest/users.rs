//! Users of Headscale by REST. I/O.

use super::transport::Auth;
use super::{Error, HeadscaleRest, Release, Version, wire};
use crate::control_plane::{User, UserId};

impl HeadscaleRest {
    pub(in crate::control_plane) async fn list_users(&self) -> Result<Vec<User>, Error> {
        let answer = self.get("/api/v1/user", Auth::Bearer).await?;
        self.parse(answer, "a list of users", wire::users)
    }

    pub(in crate::control_plane) async fn create_user(
        &self,
        name: &str,
        display_name: &str,
    ) -> Result<User, Error> {
        let answer = self
            .post("/api/v1/user", &wire::CreateUser { name, display_name })
            .await?;
        let at = answer.at.clone();
        match self.parse(answer, "the new user", |body| {
            wire::created_user(body, name)
        }) {
            // Before 0.30 a taken name is a 500 like any other trouble: only a look tells.
            Err(Error::Refused {
                status: 500,
                message,
                ..
            }) if self
                .list_users()
                .await?
                .iter()
                .any(|user| user.name == name && !user.from_provider) =>
            {
                Err(Error::Conflict {
                    at,
                    status: 500,
                    message,
                })
            }
            other => other,
        }
    }

    pub(in crate::control_plane) async fn delete_user(
        &self,
        id: UserId,
        version: &Version,
    ) -> Result<(), Error> {
        let path = format!("/api/v1/user/{}", id.0);
        match version.release {
            Release::V0_28 => {
                return Err(Error::DeletesAllKeys {
                    at: self.at("DELETE", &path),
                    version: version.to_string(),
                });
            }
            Release::V0_29 | Release::V0_30 => {}
        }
        let answer = self.delete(&path).await?;
        match self.parse(answer, "an empty JSON object", wire::nothing) {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            // Before 0.30 a user that is not there is a 500 like any other trouble: only a look tells.
            Err(Error::Refused { status: 500, .. })
                if !self.list_users().await?.iter().any(|user| user.id == id) =>
            {
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}
