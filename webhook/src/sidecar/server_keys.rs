//! Headscale's own keys: one volume, and one read-only mount for each file, which leaves its directory writable. Pure.

use std::collections::BTreeSet;

use super::mode::FileMode;
use super::shapes::{Item, SidecarMount, SidecarVolume};
use crate::annotations::{Refusal, ServerKeys};
use crate::headscale::{ContainerUser, Headscale};
use crate::keys::SERVER_KEYS;
use crate::pod::Details;

/// Placement of the keys, as the pod's spec requires.
#[derive(Debug)]
pub(crate) struct ServerKeysPlacement<'a> {
    headscale: Headscale<'a>,
    mode: FileMode,
    files: Vec<File<'a>>,
}

#[derive(Debug)]
struct File<'a> {
    name: &'a str,
    path: String,
}

/// Finds Headscale, and the files that it does not mount already.
pub(crate) fn fit<'a>(
    keys: &ServerKeys<'a>,
    details: &'a Details<'_>,
) -> Result<ServerKeysPlacement<'a>, Refusal> {
    let headscale = Headscale::find(details, keys.container)?;
    let wanted: BTreeSet<&'a str> = keys.files.iter().copied().collect();
    let mut mounted: BTreeSet<&'a str> = BTreeSet::new();
    headscale.container.each_mount(|mount| {
        let below = mount.path().strip_prefix(keys.path);
        let name = below.and_then(|below| below.strip_prefix('/'));
        mounted.extend(name.and_then(|name| wanted.get(name)));
    });
    let missing = keys.files.iter().filter(|name| !mounted.contains(*name));
    let files = missing
        .map(|name| File {
            name,
            path: format!("{}/{name}", keys.path),
        })
        .collect();
    let ContainerUser { uid, fs_group, .. } = headscale.user;
    Ok(ServerKeysPlacement {
        mode: FileMode::of(uid, fs_group),
        headscale,
        files,
    })
}

impl<'a> ServerKeysPlacement<'a> {
    /// Returns whether the pod already mounts every file.
    pub(crate) fn is_made_by_hand(&self) -> bool {
        self.files.is_empty()
    }

    /// Returns a remark if the files could have fewer readers.
    pub(crate) fn remark(&self) -> Option<String> {
        (self.mode == FileMode::All).then(|| format!(
            "the server keys are readable by every user in container '{}': set securityContext.runAsUser to 0 or the pod's fsGroup, whichever Headscale runs with",
            &*self.headscale.container.name
        ))
    }

    /// Returns Headscale's container, and its mounts.
    pub(crate) fn mounts_of_headscale(&self) -> (&Headscale<'a>, Vec<SidecarMount<'_>>) {
        let mounts = self.files.iter().map(|file| SidecarMount {
            sub_path: Some(file.name),
            ..SidecarMount::readable(SERVER_KEYS, &file.path)
        });
        (&self.headscale, mounts.collect())
    }

    /// Appends the volume. It is not optional: Headscale waits for its keys, and never creates others.
    pub(crate) fn volumes(&self, keys: &ServerKeys<'a>, volumes: &mut Vec<SidecarVolume<'a>>) {
        let items = self.files.iter().map(|file| Item {
            key: file.name,
            path: file.name,
        });
        let mode = self.mode as u32;
        volumes.push(SidecarVolume::secret(
            SERVER_KEYS,
            keys.secret,
            mode,
            items.collect(),
        ));
    }
}
