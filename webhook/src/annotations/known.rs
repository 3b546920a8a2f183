//! The table of annotations, and a profile's defaults for them. Pure.

use crate::keys::PREFIX;

/// How far a key of the table is supported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Support {
    /// Read.
    Now,
    /// Known, and refused.
    NotYet,
    /// Written by Sidescale.
    Ours,
}

/// Every key, without the prefix. Those that are read come first, in the order of [`super::asked::Annotation`].
pub(crate) const KNOWN: [(&str, Support); 40] = [
    ("inject", Support::Now),
    ("service", Support::Now),
    ("hostname", Support::Now),
    ("control-plane", Support::Now),
    ("tags", Support::Now),
    ("reusable", Support::Now),
    ("auth-key-expiration", Support::Now),
    ("auth-key-rotation-buffer", Support::Now),
    ("auth-key-delivery", Support::Now),
    ("auth-key-secret", Support::Now),
    ("state", Support::Now),
    ("userspace", Support::Now),
    ("wait", Support::Now),
    ("native-sidecar", Support::Now),
    ("cpu-request", Support::Now),
    ("cpu-limit", Support::Now),
    ("memory-request", Support::Now),
    ("memory-limit", Support::Now),
    ("headscale-container", Support::Now),
    ("socket-path", Support::Now),
    ("api-key-secret", Support::Now),
    ("api-key-expiration", Support::Now),
    ("api-key-rotation-buffer", Support::Now),
    ("server-keys-secret", Support::Now),
    ("server-keys-files", Support::Now),
    ("server-keys-path", Support::Now),
    ("ephemeral", Support::Now),
    ("accept-dns", Support::Now),
    ("accept-routes", Support::Now),
    ("extra-args", Support::Now),
    ("proxy", Support::Now),
    ("proxy-env", Support::Now),
    ("image", Support::Now),
    ("profile", Support::Now),
    ("key-mode", Support::Now),
    ("advertise-routes", Support::NotYet),
    ("exit-node", Support::NotYet),
    ("serve-config", Support::NotYet),
    ("status", Support::Ours),
    ("key-written", Support::Ours),
];

/// A profile's defaults of annotations, by their index in the table.
#[derive(Clone, Debug, Default)]
pub(crate) struct Defaults(pub(super) Vec<(usize, String)>);

impl Defaults {
    /// Returns the default of `name`.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let mut entries = self.0.iter();
        entries
            .find(|(place, _)| KNOWN[*place].0 == name)
            .map(|(_, text)| text.as_str())
    }

    /// Sets a default; the caller has looked `name` up.
    pub(crate) fn set(&mut self, name: &str, text: String) {
        let place = KNOWN.iter().position(|(known, _)| *known == name);
        self.0.extend(place.map(|place| (place, text)));
    }
}

/// Returns whether a key under our prefix is in the table.
pub(crate) fn is_known(key: &str) -> bool {
    let name = key.strip_prefix(PREFIX);
    name.is_some_and(|name| KNOWN.iter().any(|(known, _)| *known == name))
}
