//! What rotation asks of Headscale, by REST. I/O.

use futures::FutureExt as _;
use futures::future::BoxFuture;
use sidescale_core::id::{KeyId, NodeId, UserId};
use sidescale_core::objects::{MintedKey, NewPreAuthKey, Node, PreAuthKey, User};

use super::super::wire;
use super::HeadscaleRest;
use crate::{ControlPlane, Error, RowList, Version};

/// The expected answer of a call that has nothing to say.
const NOTHING: &str = "an empty JSON object";

impl ControlPlane for HeadscaleRest {
    fn name(&self) -> &str {
        self.name()
    }

    fn probe(&self) -> BoxFuture<'_, Result<Version, Error>> {
        self.probe().boxed()
    }

    fn list_users(&self) -> BoxFuture<'_, Result<Vec<User>, Error>> {
        self.list("/api/v1/user").boxed()
    }

    fn create_user<'a>(
        &'a self,
        name: &'a str,
        display_name: &'a str,
    ) -> BoxFuture<'a, Result<User, Error>> {
        let call = async move {
            let body = wire::CreateUser { name, display_name };
            let answer = self.post("/api/v1/user", &body).await?;
            self.parse(answer, "the new user", |body| {
                wire::created_user(body, name)
            })
        };
        call.boxed()
    }

    fn delete_user(&self, id: UserId) -> BoxFuture<'_, Result<(), Error>> {
        let call = async move {
            let answer = self.delete(&format!("/api/v1/user/{}", id.0)).await?;
            self.parse(answer, NOTHING, wire::nothing)
        };
        call.boxed()
    }

    fn list_last_pre_auth_keys(&self) -> BoxFuture<'_, Result<RowList<PreAuthKey>, Error>> {
        self.list_last("/api/v1/preauthkey").boxed()
    }

    fn create_pre_auth_key<'a>(
        &'a self,
        new: &'a NewPreAuthKey,
    ) -> BoxFuture<'a, Result<MintedKey, Error>> {
        let call = async move {
            let body = wire::create_pre_auth_key(new);
            let answer = self.post("/api/v1/preauthkey", &body).await?;
            self.parse(answer, "the new pre-auth key as requested", |body| {
                wire::minted(body, new)
            })
        };
        call.boxed()
    }

    fn expire_pre_auth_key(&self, id: KeyId) -> BoxFuture<'_, Result<(), Error>> {
        let call = async move {
            let body = wire::ById::new(id.0);
            let answer = self.post("/api/v1/preauthkey/expire", &body).await?;
            self.parse(answer, NOTHING, wire::nothing)
        };
        call.boxed()
    }

    fn delete_pre_auth_key(&self, id: KeyId) -> BoxFuture<'_, Result<(), Error>> {
        let call = async move {
            let path = format!("/api/v1/preauthkey?id={}", id.0);
            let answer = self.delete(&path).await?;
            self.parse(answer, NOTHING, wire::nothing)
        };
        call.boxed()
    }

    fn list_nodes(&self) -> BoxFuture<'_, Result<Vec<Node>, Error>> {
        self.list("/api/v1/node").boxed()
    }

    fn delete_node(&self, id: NodeId) -> BoxFuture<'_, Result<(), Error>> {
        let call = async move {
            let answer = self.delete(&format!("/api/v1/node/{}", id.0)).await?;
            self.parse(answer, NOTHING, wire::nothing)
        };
        call.boxed()
    }

    fn rename_node<'a>(&'a self, id: NodeId, name: &'a str) -> BoxFuture<'a, Result<Node, Error>> {
        let call = async move {
            if !is_label(name) {
                let at = self.at("POST", &format!("/api/v1/node/{}/rename/NAME", id.0));
                let message = format!("{name:?} is not a DNS label; it was not sent");
                return Err(Error::Refused {
                    at,
                    status: 400,
                    message,
                });
            }
            let path = format!("/api/v1/node/{}/rename/{name}", id.0);
            let answer = self.post(&path, &serde_json::json!({})).await?;
            self.parse(answer, "the changed node", |body| {
                wire::renamed_node(body, id, name)
            })
        };
        call.boxed()
    }
}

/// Whether it needs no escaping in a URL, and Headscale may accept it.
fn is_label(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}
