//! Hostnames in the tailnets and the namespaces that own them, as the leader writes them. Pure.
//!
//! Both are stored as hashes: a reader of Sidescale's namespace sees how many there are, but no list of services.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};

/// Stored bytes of a hash.
const BYTES: usize = 10;

/// Maximum number of stored names, of all control planes together.
pub const MOST: usize = 5_000;

/// First bytes of the hash of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hashed([u8; BYTES]);

/// A hostname in the tailnet of one control plane, and the namespace that owns it; one line of the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostnameRow {
    /// Hash of the hostname.
    pub hostname: Hashed,
    /// Hash of the namespace.
    pub namespace: Hashed,
    /// Time since which no pod or node of the namespace has asked for it, in seconds since 1970.
    pub idle_since: Option<i64>,
}

/// Hostnames owned by a namespace, by control plane.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClaimedHostnames {
    planes: BTreeMap<String, HashMap<Hashed, Hashed>>,
}

impl Hashed {
    /// Returns the hash of `name`.
    #[must_use]
    pub fn of(name: &str) -> Self {
        let mut bytes = [0; BYTES];
        bytes.copy_from_slice(&Sha256::digest(name.as_bytes())[..BYTES]);
        Self(bytes)
    }
}

impl fmt::Display for Hashed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for Hashed {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let digits = text.as_bytes();
        if digits.len() != 2 * BYTES || !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(());
        }
        let mut bytes = [0; BYTES];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let pair = std::str::from_utf8(pair).map_err(drop)?;
            *byte = u8::from_str_radix(pair, 16).map_err(drop)?;
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for HostnameRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            hostname,
            namespace,
            idle_since,
        } = self;
        write!(f, "{hostname} {namespace}")?;
        idle_since.map_or(Ok(()), |since| write!(f, " {since}"))
    }
}

impl FromStr for HostnameRow {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut words = text.split(' ');
        let mut hash = || words.next().ok_or(())?.parse();
        let (hostname, namespace) = (hash()?, hash()?);
        let idle_since = words.next().map(str::parse).transpose().map_err(drop)?;
        match words.next() {
            None => Ok(Self {
                hostname,
                namespace,
                idle_since,
            }),
            Some(_) => Err(()),
        }
    }
}

/// Parses the list of one control plane; skips lines that cannot be read, and all after [`MOST`].
pub fn rows(text: &str) -> impl Iterator<Item = HostnameRow> {
    text.lines().filter_map(|line| line.parse().ok()).take(MOST)
}

impl ClaimedHostnames {
    /// Parses the ConfigMap that the leader writes: one list for each control plane.
    #[must_use]
    pub fn read(data: &BTreeMap<String, String>) -> Self {
        let plane = |(plane, text): (&String, &String)| {
            let rows = rows(text).map(|row| (row.hostname, row.namespace));
            (plane.clone(), rows.collect())
        };
        Self {
            planes: data.iter().map(plane).collect(),
        }
    }

    /// Returns whether another namespace owns the hostname.
    #[must_use]
    pub fn is_anothers(&self, control_plane: &str, hostname: &str, namespace: &str) -> bool {
        let plane = self.planes.get(control_plane);
        let holder = plane.and_then(|rows| rows.get(&Hashed::of(hostname)));
        holder.is_some_and(|holder| *holder != Hashed::of(namespace))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_rows_that_it_writes_and_leaves_out_all_else() {
        let row = |idle_since| HostnameRow {
            hostname: Hashed::of("vault"),
            namespace: Hashed::of("prod"),
            idle_since,
        };
        for want in [row(None), row(Some(1_700_000_000))] {
            assert_eq!(want.to_string().parse(), Ok(want));
        }
        let shown = row(Some(7)).to_string();
        assert_eq!(shown, "e6f0a1fbb43c89196dcf 6754af9632a2745e85c2 7");
        let hash = Hashed::of("vault");
        for wrong in [
            String::new(),
            "vault prod".to_owned(),
            hash.to_string(),
            format!("{hash} {hash} soon"),
            format!("{hash} {hash} 7 8"),
            format!("{hash}  {hash}"),
            format!("{hash} {}", "+f".repeat(10)),
            format!("{hash} {}", "é".repeat(10)),
        ] {
            assert_eq!(wrong.parse::<HostnameRow>(), Err(()), "{wrong:?}");
        }
        let text = format!("x\n{}\n\n{}\n", row(None), row(Some(7)));
        assert_eq!(rows(&text).count(), 2);
        let many = format!("{}\n", row(None)).repeat(MOST + 1);
        assert_eq!(rows(&many).count(), MOST);
    }

    #[test]
    fn a_name_is_anothers_at_its_own_control_plane_only() {
        let row = HostnameRow {
            hostname: Hashed::of("vault"),
            namespace: Hashed::of("prod"),
            idle_since: None,
        };
        let data = [("default".to_owned(), row.to_string())].into();
        let claimed = ClaimedHostnames::read(&data);
        for (plane, hostname, namespace, want) in [
            ("default", "vault", "shop", true),
            ("default", "vault", "prod", false),
            ("default", "vault-1", "shop", false),
            ("lab", "vault", "shop", false),
        ] {
            assert_eq!(
                claimed.is_anothers(plane, hostname, namespace),
                want,
                "{plane} {hostname} {namespace}"
            );
        }
        assert!(!ClaimedHostnames::default().is_anothers("default", "vault", "shop"));
    }
}
