//! The states that a key, Secret or control plane can be in, as metrics, Events and `status` name them. Pure.

/// Says how a key, or what it hangs on, is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KeyState {
    /// There is a key, valid as far as we know.
    Ready,
    /// The control plane is away or refuses: the old key is kept, and it is tried again.
    Degraded,
    /// There is no API key for the control plane.
    NoCredentials,
    /// The control plane refuses the API key.
    InvalidCredentials,
    /// A Secret of that name is there and is not ours to write.
    SecretNotOurs,
    /// A user of that name is there and is not ours to use.
    UserNotOurs,
    /// There is no user, and `rotation.users: never` leaves making it to people.
    UserMissing,
    /// The control plane's version is one that we do not know how to talk to.
    Unsupported,
    /// Another writer keeps undoing what we write.
    Contended,
    /// The namespace has more services than it may.
    QuotaExceeded,
    /// The service, or its namespace, had too many keys created within an hour: the next one has its time.
    Throttled,
    /// The control plane holds more rows than rotation works with, most of them of this namespace: no more keys are created for it.
    TooManyRows,
    /// The operator stopped rotation, everywhere or for this Secret.
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

    /// Its name in metrics and Events.
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
