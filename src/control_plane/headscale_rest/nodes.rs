//! Nodes of Headscale by REST. I/O.

use sidescale_core::id::NodeId;
use sidescale_core::objects::Node;

use super::{Error, HeadscaleRest, wire};

impl HeadscaleRest {
    pub(in crate::control_plane) async fn list_nodes(&self) -> Result<Vec<Node>, Error> {
        self.list("/api/v1/node").await
    }

    pub(in crate::control_plane) async fn delete_node(&self, id: NodeId) -> Result<(), Error> {
        let answer = self.delete(&format!("/api/v1/node/{}", id.0)).await?;
        self.parse(answer, "an empty JSON object", wire::nothing)
    }

    pub(in crate::control_plane) async fn rename_node(
        &self,
        id: NodeId,
        name: &str,
    ) -> Result<Node, Error> {
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
    }
}

/// Whether it needs no escaping in a URL, and Headscale may accept it.
fn is_label(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}
