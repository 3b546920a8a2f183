//! Secrets that a pass keeps while it reads them one by one, within fixed limits. Pure.

use std::collections::BTreeSet;

use sidescale_core::id::KeyId;
use sidescale_core::secret::{SecretRef, StoredSecret};
use sidescale_rotation::ownership::foreign_keys;
use sidescale_webhook::identity::POD_SECRET;

/// Maximum size in bytes of one Secret that is kept whole: enough for the keys of four hundred services.
const MOST_OF_ONE: usize = 256 << 10;

/// Maximum size in bytes of all Secrets that are kept whole; each counts at least [`LEAST`].
const MOST_IN_ALL: usize = 8 << 20;

/// Bytes that a Secret takes in addition to its data.
const LEAST: usize = 2 << 10;

/// A Secret as a pass has read it.
#[derive(Debug)]
pub(super) enum ReadSecret {
    /// The whole Secret.
    Whole(Box<StoredSecret>),
    /// Only its revision: a job reads the Secret again, and uses the listing only if the revision is unchanged.
    Revision(Option<String>),
}

/// What is kept of all Secrets.
#[derive(Debug, Default)]
pub(super) struct Snapshots {
    /// The Secrets, in the order in which they were read.
    pub(super) secrets: Vec<(SecretRef, ReadSecret)>,
    /// Whether keys of single pods are among them.
    pub(super) of_pods: bool,
    /// Foreign keys in them, with their control planes and namespaces.
    pub(super) lent: BTreeSet<(String, KeyId, String)>,
    bytes: usize,
}

impl Snapshots {
    /// Adds the next Secret.
    pub(super) fn take(&mut self, secret: StoredSecret) {
        self.of_pods |= secret.name == POD_SECRET;
        self.lent.extend(foreign_keys([&secret]));
        let name = SecretRef::new(&secret.namespace, &secret.name);
        let bytes = secret.size() + LEAST;
        let fits = bytes <= MOST_OF_ONE && self.bytes + bytes <= MOST_IN_ALL;
        let seen = if fits {
            self.bytes += bytes;
            ReadSecret::Whole(Box::new(secret))
        } else {
            ReadSecret::Revision(secret.revision)
        };
        self.secrets.push((name, seen));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(namespace: usize, bytes: usize) -> StoredSecret {
        let namespace = format!("n{namespace}");
        let mut secret = StoredSecret::absent(&namespace, "headscale-auth-keys");
        secret.data.insert("x".into(), vec![b'x'; bytes].into());
        secret.revision = Some("7".into());
        secret
    }

    #[test]
    fn of_large_and_of_many_secrets_the_revision_is_kept() {
        for (count, bytes, whole) in [
            (10, 1_000, 10),
            (10, MOST_OF_ONE, 0),
            (1_000, 30 << 10, 255),
            (10_000, 1, 4_092),
        ] {
            let mut snapshots = Snapshots::default();
            (0..count).for_each(|n| snapshots.take(secret(n, bytes)));
            assert_eq!(snapshots.secrets.len(), count, "none is left out");
            let seen = snapshots.secrets.iter().map(|(_, seen)| seen);
            let kept = seen.filter(|seen| match seen {
                ReadSecret::Whole(_) => true,
                ReadSecret::Revision(revision) => revision.is_none(),
            });
            assert_eq!(kept.count(), whole, "{count} of {bytes} bytes");
            assert!(snapshots.bytes <= MOST_IN_ALL);
        }
    }
}
