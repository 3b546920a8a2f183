//! The meaning of refusals that releases answer differently: a second call shows it. I/O by the calls only.

use sidescale_core::id::{NodeId, UserId};
use sidescale_core::objects::{Node, User};
use sidescale_core::release::HeadscaleRelease;

use crate::error::unless_not_found;
use crate::{ControlPlane, Error, Version};

/// Before 0.30 a taken name is a 500 like any other problem.
pub(crate) async fn is_taken(
    plane: &dyn ControlPlane,
    name: &str,
    answer: Result<User, Error>,
) -> Result<User, Error> {
    match answer {
        Err(Error::Refused {
            at,
            status: 500,
            message,
        }) if plane
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

/// Before 0.30 a missing user is a 500 too.
pub(crate) async fn unless_user_gone(
    plane: &dyn ControlPlane,
    id: UserId,
    answer: Result<(), Error>,
) -> Result<(), Error> {
    match unless_not_found(answer) {
        Err(Error::Refused { status: 500, .. })
            if !plane.list_users().await?.iter().any(|user| user.id == id) =>
        {
            Ok(())
        }
        other => other,
    }
}

/// Each release has another status for a deleted node and for a name that another node has.
pub(crate) async fn renamed_node(
    plane: &dyn ControlPlane,
    id: NodeId,
    name: &str,
    answer: Result<Node, Error>,
) -> Result<Node, Error> {
    let Err(Error::Refused {
        at,
        status,
        message,
    }) = answer
    else {
        return answer;
    };
    let nodes = plane.list_nodes().await?;
    if !nodes.iter().any(|node| node.id == id) {
        return Err(Error::NotFound { at, message });
    }
    let taken = |node: &Node| node.id != id && node.given_name == name;
    Err(if nodes.iter().any(taken) {
        Error::Conflict {
            at,
            status,
            message,
        }
    } else {
        Error::Refused {
            at,
            status,
            message,
        }
    })
}

/// Refuses to delete a user if that would delete the keys of all users.
pub(crate) fn may_delete_user(
    plane: &dyn ControlPlane,
    id: UserId,
    version: &Version,
) -> Result<(), Error> {
    match version.release {
        HeadscaleRelease::V0_28 => Err(Error::DeletesAllKeys {
            control_plane: plane.name().to_owned(),
            user: id,
            version: version.to_string(),
        }),
        HeadscaleRelease::V0_29 | HeadscaleRelease::V0_30 => Ok(()),
    }
}
