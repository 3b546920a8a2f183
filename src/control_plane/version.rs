//! Which Headscale answers: from its version text, else from what it can do. Pure.

use std::fmt;

/// The dialect of REST v1 that a server speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Api {
    /// 0.28 and 0.29: a gateway before gRPC; 500 for most refusals.
    Gateway,
    /// 0.30: plain HTTP with problem documents; 404, 409 and 422 where the gateway says 200 or 500.
    Problem,
}

/// What a probe found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// What the server calls itself; `dev` for one built from source.
    pub text: String,
    /// The dialect it speaks.
    pub api: Api,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { text, api } = self;
        match api {
            Api::Gateway => write!(f, "{text} (0.28 or 0.29)"),
            Api::Problem => write!(f, "{text} (0.30)"),
        }
    }
}

/// The oldest minor version that we can work with.
const OLDEST: (u32, u32) = (0, 28);

/// What a version text alone says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Age {
    /// New enough.
    Supported,
    /// Too old.
    TooOld,
    /// The text holds no number, as in a build from source.
    Unknown,
}

/// Reads `0.29.2`, `v0.28.0` or `v0.30.0-beta.1`.
pub(super) fn age(text: &str) -> Age {
    let mut numbers = text
        .trim()
        .trim_start_matches('v')
        .splitn(3, '.')
        .map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) if (major, minor) >= OLDEST => Age::Supported,
        (Some(Ok(_)), Some(Ok(_))) => Age::TooOld,
        _ => Age::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::{Age, age};

    #[test]
    fn reads_the_version_texts_that_headscale_gives() {
        for (text, want) in [
            ("v0.29.2", Age::Supported),
            ("0.28.0", Age::Supported),
            ("v0.30.0-beta.1", Age::Supported),
            ("v1.0.0", Age::Supported),
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
