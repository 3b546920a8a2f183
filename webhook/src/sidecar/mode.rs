//! Readers of the files of a Secret's volume. Pure.

/// Readers of the files; the kubelet gives them to root, and to the pod's group if there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileMode {
    Owner = 0o400,
    Group = 0o440,
    All = 0o444,
}

impl FileMode {
    /// Returns the strictest mode in which a container can read them that runs as this user, in a pod with this group.
    pub(crate) fn of(uid: Option<i64>, fs_group: Option<i64>) -> Self {
        match (uid, fs_group) {
            (Some(0), _) => Self::Owner,
            (_, Some(_)) => Self::Group,
            (_, None) => Self::All,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lets_no_more_read_than_have_to() {
        for (uid, fs_group, mode) in [
            (Some(0), None, 0o400),
            (Some(0), Some(1000), 0o400),
            (Some(1000), Some(1000), 0o440),
            (Some(65_532), Some(1000), 0o440),
            (None, Some(1000), 0o440),
            (Some(65_532), None, 0o444),
            (None, None, 0o444),
        ] {
            assert_eq!(
                FileMode::of(uid, fs_group) as u32,
                mode,
                "{uid:?} {fs_group:?}"
            );
        }
    }
}
