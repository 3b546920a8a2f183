//! Releases of Headscale, as far as they behave differently. Pure.

/// The releases that behave differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HeadscaleRelease {
    /// 0.28: deleting a user there deletes every pre-auth key of the server.
    V0_28,
    /// 0.29: the last one with gRPC.
    V0_29,
    /// 0.30 and later.
    V0_30,
}

impl HeadscaleRelease {
    /// Returns its name for people.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V0_28 => "0.28",
            Self::V0_29 => "0.29",
            Self::V0_30 => "0.30",
        }
    }
}
