//! Nodes of Headscale by gRPC. I/O.

use sidescale_core::id::NodeId;
use sidescale_core::objects::Node;
use sidescale_proto::v1;

use super::{HeadscaleGrpc, read};
use crate::control_plane::{Error, checks};

impl HeadscaleGrpc {
    pub(in crate::control_plane) async fn list_nodes(&self) -> Result<Vec<Node>, Error> {
        let mut client = self.client();
        let answer = self.call("ListNodes", client.list_nodes(v1::ListNodesRequest {}));
        let nodes = answer.await?.nodes.into_iter().map(read::node).collect();
        self.expect("ListNodes", "a list of nodes", nodes)
    }

    pub(in crate::control_plane) async fn delete_node(&self, id: NodeId) -> Result<(), Error> {
        let request = v1::DeleteNodeRequest {
            node_id: self.number("DeleteNode", id.0)?,
        };
        let mut client = self.client();
        self.call("DeleteNode", client.delete_node(request))
            .await
            .map(drop)
    }

    pub(in crate::control_plane) async fn rename_node(
        &self,
        id: NodeId,
        name: &str,
    ) -> Result<Node, Error> {
        let request = v1::RenameNodeRequest {
            node_id: self.number("RenameNode", id.0)?,
            new_name: name.to_owned(),
        };
        let mut client = self.client();
        let answer = self.call("RenameNode", client.rename_node(request)).await?;
        self.changed("RenameNode", answer.node, id, Some(name))
    }

    pub(in crate::control_plane) async fn expire_node(&self, id: NodeId) -> Result<Node, Error> {
        let request = v1::ExpireNodeRequest {
            node_id: self.number("ExpireNode", id.0)?,
        };
        let mut client = self.client();
        let answer = self.call("ExpireNode", client.expire_node(request)).await?;
        self.changed("ExpireNode", answer.node, id, None)
    }

    fn changed(
        &self,
        call: &str,
        node: Option<v1::Node>,
        id: NodeId,
        name: Option<&str>,
    ) -> Result<Node, Error> {
        let node = read::required(node, "node")
            .and_then(read::node)
            .and_then(|node| checks::changed_node(node, id, name));
        self.expect(call, "the node as it is now", node)
    }
}
