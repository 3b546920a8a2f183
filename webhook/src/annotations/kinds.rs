//! Kinds of sidecar that `inject` asks for. Pure.

use super::Refusal;
use super::asked::{Annotation, Asked};

const WANT: &str = "want tailscale, apikey-manager, server-keys, several of these separated by commas, true or false";

/// Kinds of sidecar that a pod asks for, or has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kinds {
    /// The Tailscale sidecar.
    pub tailscale: bool,
    /// The manager of Headscale's API key.
    pub apikey_manager: bool,
    /// Headscale's own keys, from a Secret.
    pub server_keys: bool,
}

impl Kinds {
    /// Returns whether there are none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }

    /// Returns the value of the label and of metrics: names joined by dots, because a label cannot contain a comma.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        let Self {
            tailscale,
            apikey_manager,
            server_keys,
        } = self;
        match (tailscale, apikey_manager, server_keys) {
            (false, false, false) => "none",
            (true, false, false) => "tailscale",
            (false, true, false) => "apikey-manager",
            (false, false, true) => "server-keys",
            (true, true, false) => "tailscale.apikey-manager",
            (true, false, true) => "tailscale.server-keys",
            (false, true, true) => "apikey-manager.server-keys",
            (true, true, true) => "tailscale.apikey-manager.server-keys",
        }
    }

    /// Parses the label's value; `None` if Sidescale did not write it.
    pub(crate) fn of_label(text: &str) -> Option<Self> {
        let mut kinds = Self::default();
        for name in text.split('.') {
            kinds.add(name)?;
        }
        Some(kinds)
    }

    fn add(&mut self, name: &str) -> Option<()> {
        match name {
            "tailscale" => self.tailscale = true,
            "apikey-manager" => self.apikey_manager = true,
            "server-keys" => self.server_keys = true,
            _ => return None,
        }
        Some(())
    }
}

/// Returns what the pod itself asks for; no kinds if it opts out.
pub(super) fn inject(asked: &Asked<'_>) -> Result<Option<Kinds>, Refusal> {
    let Some(value) = asked.get(Annotation::Inject) else {
        return Ok(None);
    };
    let mut kinds = Kinds::default();
    if value.text == "false" {
        return Ok(Some(kinds));
    }
    for name in value.text.split(',').map(str::trim) {
        let name = if name == "true" { "tailscale" } else { name };
        kinds
            .add(name)
            .ok_or_else(|| asked.bad(Annotation::Inject, WANT))?;
    }
    Ok(Some(kinds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_label_that_it_writes() {
        for bits in 1..8 {
            let kinds = Kinds {
                tailscale: bits & 1 > 0,
                apikey_manager: bits & 2 > 0,
                server_keys: bits & 4 > 0,
            };
            assert_eq!(Kinds::of_label(kinds.as_str()), Some(kinds));
        }
        for other in ["", "none", "tailscale,apikey-manager", "tailscale."] {
            assert_eq!(Kinds::of_label(other), None, "{other:?}");
        }
    }
}
