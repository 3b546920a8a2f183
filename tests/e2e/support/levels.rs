//! The levels that a test needs, those that this run has, and whether a missing one is a failure.

use std::fmt;

use anyhow::{Result, bail};

/// Parts of a run, from cheap to expensive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// etcd, kube-apiserver and kube-controller-manager.
    Api,
    /// A node on top, in which pods run.
    Node,
    /// A real Headscale.
    Headscale,
    /// Real manifests, in the folder that SIDESCALE_CORPUS names.
    Corpus,
}

impl Level {
    /// Every level.
    pub(crate) const ALL: [Level; 4] = [Level::Api, Level::Node, Level::Headscale, Level::Corpus];

    fn as_str(self) -> &'static str {
        match self {
            Level::Api => "api",
            Level::Node => "node",
            Level::Headscale => "headscale",
            Level::Corpus => "corpus",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// Returns the levels of SIDESCALE_E2E_REQUIRE, whose absence fails the run.
pub(crate) fn required() -> Result<Vec<Level>> {
    let text = std::env::var("SIDESCALE_E2E_REQUIRE").unwrap_or_default();
    let words = text
        .split(',')
        .map(str::trim)
        .filter(|word| !word.is_empty());
    words
        .map(
            |word| match Level::ALL.into_iter().find(|level| level.as_str() == word) {
                Some(level) => Ok(level),
                None => bail!(
                    "SIDESCALE_E2E_REQUIRE is {text:?}: want some of api,node,headscale,corpus with commas"
                ),
            },
        )
        .collect()
}
