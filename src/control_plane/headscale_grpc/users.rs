//! Users of Headscale by gRPC. I/O.

use sidescale_core::id::UserId;
use sidescale_core::objects::User;
use sidescale_proto::v1;

use super::{HeadscaleGrpc, read};
use crate::control_plane::{Error, checks};

impl HeadscaleGrpc {
    pub(in crate::control_plane) async fn list_users(&self) -> Result<Vec<User>, Error> {
        let mut client = self.client();
        let answer = self.call("ListUsers", client.list_users(v1::ListUsersRequest {}));
        let users = answer.await?.users.into_iter().map(read::user).collect();
        self.expect("ListUsers", "a list of users", users)
    }

    pub(in crate::control_plane) async fn create_user(
        &self,
        name: &str,
        display_name: &str,
    ) -> Result<User, Error> {
        let request = v1::CreateUserRequest {
            name: name.to_owned(),
            display_name: display_name.to_owned(),
        };
        let mut client = self.client();
        let answer = self.call("CreateUser", client.create_user(request)).await?;
        let user = read::required(answer.user, "user")
            .and_then(read::user)
            .and_then(|user| checks::created_user(user, name));
        self.expect("CreateUser", "the new user", user)
    }

    pub(in crate::control_plane) async fn delete_user(&self, id: UserId) -> Result<(), Error> {
        let request = v1::DeleteUserRequest {
            id: self.number("DeleteUser", id.0)?,
        };
        let mut client = self.client();
        self.call("DeleteUser", client.delete_user(request))
            .await
            .map(drop)
    }
}
