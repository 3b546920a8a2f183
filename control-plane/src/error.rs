//! Errors of a control plane, in words that say what to do. Pure.

use std::fmt;
use std::time::Duration;

use sidescale_core::id::UserId;

/// A call: which control plane, which method, which URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct At {
    /// The control plane's name in the configuration.
    pub control_plane: String,
    /// The method, or `gRPC`.
    pub method: &'static str,
    /// The URL, without query; on a socket `unix:`, the socket's path, a colon and the path of the call.
    pub url: String,
}

impl At {
    /// Whether the call goes to a Unix socket.
    fn on_socket(&self) -> bool {
        self.url.starts_with("unix:")
    }

    /// What to check if nothing answers.
    fn way(&self) -> &'static str {
        if self.on_socket() {
            "check that Headscale runs, that it shares its socket's directory, and that unix_socket_permission admits this user"
        } else {
            "check apiUrl, DNS and network policies"
        }
    }

    /// What to check if something else answers.
    fn end(&self) -> &'static str {
        if self.on_socket() {
            "check that it is Headscale's socket"
        } else {
            "check that apiUrl points to Headscale itself and not to a proxy or login page"
        }
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "control plane {:?}: {} {}",
            self.control_plane, self.method, self.url
        )
    }
}

/// The failure of a call to a control plane. No message contains a byte of a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The configuration cannot be used; no call was made.
    #[error("control plane {control_plane:?}: {problem}")]
    InvalidEndpoint {
        /// The control plane's name in the configuration.
        control_plane: String,
        /// Names the field, its value, what is accepted and what to do.
        problem: String,
    },
    /// Nothing answers there.
    #[error(
        "{at}: no connection ({cause}): want a running Headscale there; {}", at.way()
    )]
    Unreachable {
        /// The call.
        at: At,
        /// The error of the socket.
        cause: String,
    },
    /// Its certificate is not trusted.
    #[error(
        "{at}: certificate rejected ({cause}): want one for this host, signed by a trusted authority; for a private authority, set caBundle to its PEM"
    )]
    Untrusted {
        /// The call.
        at: At,
        /// The error of TLS.
        cause: String,
    },
    /// No complete answer in time.
    #[error(
        "{at}: no complete answer within {after:?}: check the load of the server and of any proxy in front of it"
    )]
    TimedOut {
        /// The call.
        at: At,
        /// The time limit.
        after: Duration,
    },
    /// The API key is not accepted.
    #[error(
        "{at} answered 401: the API key is unknown, expired or deleted; create one with \"headscale apikeys create --expiration 90d\" and put it into the Secret that apiKeySecret names"
    )]
    Unauthorized {
        /// The call.
        at: At,
    },
    /// A redirect, perhaps to a login page.
    #[error(
        "{at} answered {status} with a redirect to {location:?}: redirects are not followed; set apiUrl to the address at which Headscale itself answers"
    )]
    Redirected {
        /// The call.
        at: At,
        /// Status of the answer.
        status: u16,
        /// Its target, without query.
        location: String,
    },
    /// The answer is not from Headscale.
    #[error(
        "{at} answered {status} with {answered}: want {expected}; {}", at.end()
    )]
    NotHeadscale {
        /// The call.
        at: At,
        /// Status of the answer.
        status: u16,
        /// What arrived, in words; never the body.
        answered: String,
        /// What Headscale would answer.
        expected: &'static str,
    },
    /// A proxy reports that Headscale is unavailable.
    #[error(
        "{at} answered {status} with {answered}, as a proxy does when its server is down: want a running Headscale behind it; check that its pod is ready, and read its log"
    )]
    Away {
        /// The call.
        at: At,
        /// Status of the answer.
        status: u16,
        /// What arrived, in words; never the body.
        answered: String,
    },
    /// The answer exceeds the limit.
    #[error(
        "{at} answered more than {limit} bytes: the answer is discarded; check that apiUrl points to Headscale itself"
    )]
    TooLarge {
        /// The call.
        at: At,
        /// The limit, in bytes.
        limit: usize,
    },
    /// A list has more rows than are kept.
    #[error(
        "{at} lists more than 200000 rows, or more than 24 MiB of them: Sidescale does not read all of them, and treats unread rows as unknown; delete expired pre-auth keys, unused users and nodes there"
    )]
    TooManyRows {
        /// The call.
        at: At,
    },
    /// A new key has an invalid value.
    #[error(
        "control plane {control_plane:?}: the new {what} does not have the form of one (\"{begins}…\", at most 128 characters): it is not used, and {}; check that apiUrl points to Headscale itself",
        match ended { true => "was expired", false => "could not be expired: expire it there" }
    )]
    MalformedKey {
        /// The control plane's name in the configuration.
        control_plane: String,
        /// Kind of the key.
        what: &'static str,
        /// Prefix of such keys.
        begins: &'static str,
        /// Whether it was expired.
        ended: bool,
    },
    /// The object does not exist.
    #[error("{at} answered 404: {message:?}")]
    NotFound {
        /// The call.
        at: At,
        /// The server's message.
        message: String,
    },
    /// The object exists already.
    #[error(
        "{at} answered {status}: {message:?}: the name is taken; list the users or nodes to see whose it is"
    )]
    Conflict {
        /// The call.
        at: At,
        /// Status of the answer.
        status: u16,
        /// The server's message.
        message: String,
    },
    /// The server refused; a gRPC code counts as the status that Headscale's own gateway gives for it.
    #[error("{at} answered {status}: {message:?}: want 200; see the server's log")]
    Refused {
        /// The call.
        at: At,
        /// Status of the answer.
        status: u16,
        /// The server's message.
        message: String,
    },
    /// Deleting a user would delete every pre-auth key of the server; no call was made.
    #[error(
        "control plane {control_plane:?}: user {} is not deleted on Headscale {version}: that would also delete every pre-auth key of the server; upgrade to 0.29 or newer, or keep the user",
        user.0
    )]
    DeletesAllKeys {
        /// The control plane's name in the configuration.
        control_plane: String,
        /// The user.
        user: UserId,
        /// Version of the server.
        version: String,
    },
    /// An unsupported release of Headscale.
    #[error("{at}: this is Headscale {version}: want 0.28 or newer; upgrade it")]
    Unsupported {
        /// The call.
        at: At,
        /// Its version, as far as known.
        version: String,
    },
}

impl Error {
    /// Returns a label for metrics, from a fixed set.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::InvalidEndpoint { .. } => "invalid_endpoint",
            Self::Unreachable { .. } => "unreachable",
            Self::Untrusted { .. } => "untrusted",
            Self::TimedOut { .. } => "timed_out",
            Self::Unauthorized { .. } => "unauthorized",
            Self::Redirected { .. } => "redirected",
            Self::NotHeadscale { .. } => "not_headscale",
            Self::Away { .. } => "away",
            Self::TooLarge { .. } => "too_large",
            Self::TooManyRows { .. } => "too_many_rows",
            Self::MalformedKey { .. } => "malformed_key",
            Self::NotFound { .. } => "not_found",
            Self::Conflict { .. } => "conflict",
            Self::Refused { .. } => "refused",
            Self::DeletesAllKeys { .. } => "deletes_all_keys",
            Self::Unsupported { .. } => "unsupported",
        }
    }
}

/// For a missing object 0.30 answers "not found" where older releases report success: either way it is gone.
pub(super) fn unless_not_found(answer: Result<(), Error>) -> Result<(), Error> {
    match answer {
        Err(Error::NotFound { .. }) => Ok(()),
        other => other,
    }
}
