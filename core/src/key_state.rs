//! The states that a key, Secret or control plane can be in, as metrics, Events and `status` name them. Pure.

/// State of a key, or of what it depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KeyState {
    /// There is a key that is valid as far as known.
    Ready,
    /// The control plane is unavailable or refuses: the old key is kept, and creation is retried.
    Degraded,
    /// There is no API key for the control plane.
    NoCredentials,
    /// The control plane refuses the API key.
    InvalidCredentials,
    /// A Secret of that name exists, but Sidescale may not write it.
    SecretNotOurs,
    /// A user of that name exists, but Sidescale may not use it.
    UserNotOurs,
    /// The user does not exist, and `rotation.users: never` leaves its creation to people.
    UserMissing,
    /// The control plane's version is not supported.
    Unsupported,
    /// Another writer keeps overwriting what Sidescale writes.
    Contended,
    /// The namespace has more services than allowed.
    QuotaExceeded,
    /// The service or its namespace had too many keys created within an hour: the next key is created later.
    Throttled,
    /// The control plane holds more rows than allowed, most of them of this namespace: no more keys are created for it.
    TooManyRows,
    /// The operator paused rotation, everywhere or for this Secret.
    Paused,
}

impl KeyState {
    /// Every state, for metrics that show all of them.
    pub const ALL: [Self; 13] = [
        Self::Ready,
        Self::Degraded,
        Self::NoCredentials,
        Self::InvalidCredentials,
        Self::SecretNotOurs,
        Self::UserNotOurs,
        Self::UserMissing,
        Self::Unsupported,
        Self::Contended,
        Self::QuotaExceeded,
        Self::Throttled,
        Self::TooManyRows,
        Self::Paused,
    ];

    /// Returns the name used in metrics and Events.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "Ready",
            Self::Degraded => "Degraded",
            Self::NoCredentials => "NoCredentials",
            Self::InvalidCredentials => "InvalidCredentials",
            Self::SecretNotOurs => "SecretNotOurs",
            Self::UserNotOurs => "UserNotOurs",
            Self::UserMissing => "UserMissing",
            Self::Unsupported => "Unsupported",
            Self::Contended => "Contended",
            Self::QuotaExceeded => "QuotaExceeded",
            Self::Throttled => "Throttled",
            Self::TooManyRows => "TooManyRows",
            Self::Paused => "Paused",
        }
    }
}
