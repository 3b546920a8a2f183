//! The nodes of the embedded Headscale. Pure; `now` is an argument.

use jiff::Timestamp;
use sidescale_core::id::NodeId;

use super::{LastIds, ServerState, StateError, StoredNode};

impl ServerState {
    pub(crate) fn join(&mut self, value: &str, hostname: &str, now: Timestamp) -> Option<NodeId> {
        let index = self.usable(value, now)?;
        let key = &mut self.keys[index];
        key.used = true;
        let (key, user, tags) = (key.id, key.user, key.tags.clone());
        let id = LastIds::next(&mut self.last.node);
        let taken = |name: &str| self.nodes.iter().any(|node| node.given_name == name);
        let mut given_name = hostname.to_owned();
        let mut suffix = 0;
        while taken(&given_name) {
            suffix += 1;
            given_name = format!("{hostname}-{suffix}");
        }
        let name = hostname.to_owned();
        self.nodes.push(StoredNode {
            id,
            name,
            given_name,
            online: true,
            // A node with tags belongs to its tags.
            user: user.filter(|_| tags.is_empty()),
            key: Some(key),
            tags,
            created_at: now,
            last_seen: now,
            expiry: None,
        });
        Some(NodeId::from(id))
    }

    pub(crate) fn set_online(&mut self, node: NodeId, online: bool) {
        if let Some(node) = self
            .nodes
            .iter_mut()
            .find(|known| NodeId::from(known.id) == node)
        {
            node.online = online;
        }
    }

    pub(crate) fn delete_node(&mut self, id: u64) -> Result<(), StateError> {
        let index = self
            .nodes
            .iter()
            .position(|node| node.id == id)
            .ok_or(StateError::UnknownNode)?;
        self.nodes.remove(index);
        Ok(())
    }

    pub(crate) fn expire_node(
        &mut self,
        id: u64,
        now: Timestamp,
    ) -> Result<&StoredNode, StateError> {
        let node = self
            .nodes
            .iter_mut()
            .find(|node| node.id == id)
            .ok_or(StateError::UnknownNode)?;
        node.expiry = Some(now);
        Ok(node)
    }

    /// Renames a node; names shorter than `shortest` are refused.
    pub(crate) fn rename_node(
        &mut self,
        id: u64,
        name: &str,
        shortest: usize,
    ) -> Result<&StoredNode, StateError> {
        let label = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if name.len() < shortest
            || name.len() > 63
            || !name.bytes().all(label)
            || name.starts_with('-')
            || name.ends_with('-')
        {
            return Err(StateError::BadNodeName);
        }
        let index = self
            .nodes
            .iter()
            .position(|node| node.id == id)
            .ok_or(StateError::UnknownNode)?;
        if self
            .nodes
            .iter()
            .any(|node| node.id != id && node.given_name == name)
        {
            return Err(StateError::NodeNameTaken);
        }
        name.clone_into(&mut self.nodes[index].given_name);
        Ok(&self.nodes[index])
    }
}
