//! Detects the release of Headscale: from its version text, else from its features. Pure.

use std::fmt;

use sidescale_core::release::HeadscaleRelease;

/// The dialect of REST v1 that a server speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Api {
    /// 0.28 and 0.29: a gateway before gRPC; 500 for most refusals.
    Gateway,
    /// 0.30: plain HTTP with problem documents; 404, 409 and 422 where the gateway says 200 or 500.
    Problem,
}

/// Result of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// The server's own text; `dev` for a build from source.
    pub text: String,
    /// The release that it behaves like.
    pub release: HeadscaleRelease,
}

impl Version {
    /// Returns the dialect of REST that it speaks.
    #[must_use]
    pub fn api(&self) -> Api {
        match self.release {
            HeadscaleRelease::V0_28 | HeadscaleRelease::V0_29 => Api::Gateway,
            HeadscaleRelease::V0_30 => Api::Problem,
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { text, release } = self;
        write!(f, "{text} ({})", release.as_str())
    }
}

/// What a version text alone shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Age {
    /// Older than the supported releases.
    TooOld,
    /// This release, or one that is treated like it.
    Is(HeadscaleRelease),
    /// The text contains no number, as in a build from source.
    Unknown,
}

/// Parses `0.29.2`, `v0.28.0` or `v0.30.0-beta.1`.
pub(super) fn age(text: &str) -> Age {
    let mut numbers = text
        .trim()
        .trim_start_matches('v')
        .splitn(3, '.')
        .map(str::parse::<u32>);
    let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else {
        return Age::Unknown;
    };
    match (major, minor) {
        (0, ..28) => Age::TooOld,
        (0, 28) => Age::Is(HeadscaleRelease::V0_28),
        (0, 29) => Age::Is(HeadscaleRelease::V0_29),
        (0, 30..) | (1.., _) => Age::Is(HeadscaleRelease::V0_30),
    }
}

#[cfg(test)]
mod tests {
    use sidescale_core::release::HeadscaleRelease;

    use super::{Age, age};

    #[test]
    fn reads_the_version_texts_that_headscale_gives() {
        for (text, want) in [
            ("v0.29.2", Age::Is(HeadscaleRelease::V0_29)),
            ("0.28.0", Age::Is(HeadscaleRelease::V0_28)),
            ("v0.30.0-beta.1", Age::Is(HeadscaleRelease::V0_30)),
            ("v1.0.0", Age::Is(HeadscaleRelease::V0_30)),
            ("v0.27.1", Age::TooOld),
            ("0.9.3", Age::TooOld),
            ("dev", Age::Unknown),
            ("", Age::Unknown),
            ("v0", Age::Unknown),
        ] {
            assert_eq!(age(text), want, "{text}");
        }
    }
}
