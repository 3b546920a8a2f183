//! What can go wrong with a control plane, in words that say what to do. Pure.

use std::fmt;
use std::time::Duration;

/// Names a call: which control plane, which method, which URL.
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

    /// What to look at where nothing answers.
    fn way(&self) -> &'static str {
        if self.on_socket() {
            "check that Headscale runs, that the folder of its socket is shared with it, and that unix_socket_permission lets this user in"
        } else {
            "check apiUrl, DNS and network policies"
        }
    }

    /// What to look at where somebody else answers.
    fn end(&self) -> &'static str {
        if self.on_socket() {
            "check that it is Headscale's socket"
        } else {
            "check that apiUrl leads to Headscale itself and not to a proxy or login page"
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

/// What a call to a control plane met. No message holds a byte of a key.
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
        /// What the socket said.
        cause: String,
    },
    /// Its certificate is not trusted.
    #[error(
        "{at}: certificate refused ({cause}): want one for this host that a trusted authority signed; set caBundle to the PEM of a private authority"
    )]
    Untrusted {
        /// The call.
        at: At,
        /// What TLS said.
        cause: String,
    },
    /// No whole answer in time.
    #[error(
        "{at}: no whole answer within {after:?}: check the load of the server and of what stands before it"
    )]
    TimedOut {
        /// The call.
        at: At,
        /// The deadline.
        after: Duration,
    },
    /// The API key is not accepted.
    #[error(
        "{at} answered 401: the API key is unknown, expired or deleted; make one with \"headscale apikeys create --expiration 90d\" and put it into the Secret that apiKeySecret names"
    )]
    Unauthorized {
        /// The call.
        at: At,
    },
    /// Something sends us elsewhere, perhaps a login page.
    #[error(
        "{at} answered {status} with a redirect to {location:?}: redirects are not followed; set apiUrl to the address at which Headscale itself answers"
    )]
    Redirected {
        /// The call.
        at: At,
        /// The status.
        status: u16,
        /// Where to, without query.
        location: String,
    },
    /// The answer is none that Headscale gives.
    #[error(
        "{at} answered {status} with {answered}: want {expected}; {}", at.end()
    )]
    NotHeadscale {
        /// The call.
        at: At,
        /// The status.
        status: u16,
        /// What came, in words; never the body.
        answered: String,
        /// What Headscale would answer.
        expected: &'static str,
    },
    /// What stands before Headscale says that it is away.
    #[error(
        "{at} answered {status} with {answered}, as a proxy does whose server is away: want a running Headscale behind it; check that its pod is ready and what its log says"
    )]
    Away {
        /// The call.
        at: At,
        /// The status.
        status: u16,
        /// What came, in words; never the body.
        answered: String,
    },
    /// The answer is longer than we read.
    #[error(
        "{at} answered more than {limit} bytes: nothing of it is used; check that apiUrl leads to Headscale itself"
    )]
    TooLarge {
        /// The call.
        at: At,
        /// The limit.
        limit: usize,
    },
    /// A list has more rows than are kept.
    #[error(
        "{at} lists more than 200000 rows, or more than 24 MiB of them: it is not read whole, and nothing is decided by what it does not list; delete expired pre-auth keys, unused users and nodes there"
    )]
    TooManyRows {
        /// The call.
        at: At,
    },
    /// A new key has a value that is none.
    #[error(
        "control plane {control_plane:?}: the new {what} has not the form of one (\"{begins}…\", at most 128 characters): it is not used, and {}; check that apiUrl leads to Headscale itself",
        match ended { true => "was expired again", false => "could not be expired: expire it there" }
    )]
    MalformedKey {
        /// The control plane's name in the configuration.
        control_plane: String,
        /// What kind of key.
        what: &'static str,
        /// What such keys begin with.
        begins: &'static str,
        /// Whether it was ended.
        ended: bool,
    },
    /// The object is not there.
    #[error("{at} answered 404: {message:?}")]
    NotFound {
        /// The call.
        at: At,
        /// What the server said.
        message: String,
    },
    /// The object is there already.
    #[error(
        "{at} answered {status}: {message:?}: the name is taken; list the users or nodes to see whose it is"
    )]
    Conflict {
        /// The call.
        at: At,
        /// The status.
        status: u16,
        /// What the server said.
        message: String,
    },
    /// The server does not do it; a gRPC code counts as the status that Headscale's own gateway gives for it.
    #[error("{at} answered {status}: {message:?}: want 200; the log of the server says more")]
    Refused {
        /// The call.
        at: At,
        /// The status.
        status: u16,
        /// What the server said.
        message: String,
    },
    /// Deleting a user would delete every pre-auth key of the server; no call was made.
    #[error(
        "control plane {control_plane:?}: user {user} is not deleted on Headscale {version}: it would delete every pre-auth key of the server with it; upgrade to 0.29 or newer, or leave the user"
    )]
    DeletesAllKeys {
        /// The control plane's name in the configuration.
        control_plane: String,
        /// The user's id.
        user: u64,
        /// The server's version.
        version: String,
    },
    /// A Headscale that we cannot work with.
    #[error("{at}: this is Headscale {version}: want 0.28 or newer; upgrade it")]
    Unsupported {
        /// The call.
        at: At,
        /// Its version, as far as it can be told.
        version: String,
    },
}

impl Error {
    /// A bounded label for metrics.
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

/// 0.30 says that something is not there where older ones say that it is done: either way it is gone.
pub(super) fn unless_not_found(answer: Result<(), Error>) -> Result<(), Error> {
    match answer {
        Err(Error::NotFound { .. }) => Ok(()),
        other => other,
    }
}
