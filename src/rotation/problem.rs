//! A problem with a key, and which answers of a control plane cause it. Pure.

use super::state::KeyState;
use crate::control_plane::Error;

/// A problem, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The resulting state.
    pub state: KeyState,
    /// Names the object, what was found, what is expected and what to do. Never contains a key's value.
    pub message: String,
    /// Whether it may concern the whole control plane, not just one key.
    pub of_plane: bool,
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let (state, of_plane) = match &error {
            Error::Unauthorized { .. } => (KeyState::InvalidCredentials, true),
            Error::Unsupported { .. } => (KeyState::Unsupported, true),
            Error::InvalidEndpoint { .. }
            | Error::Unreachable { .. }
            | Error::Untrusted { .. }
            | Error::TimedOut { .. }
            | Error::Redirected { .. }
            | Error::NotHeadscale { .. }
            | Error::Away { .. }
            | Error::MalformedKey { .. }
            | Error::TooLarge { .. } => (KeyState::Degraded, true),
            // It answers, and its keys still work: a recheck would read as much again.
            Error::TooManyRows { .. } => (KeyState::TooManyRows, false),
            Error::Refused { status: 403, .. } => (KeyState::InvalidCredentials, false),
            Error::NotFound { .. }
            | Error::Conflict { .. }
            | Error::Refused { .. }
            | Error::DeletesAllKeys { .. } => (KeyState::Degraded, false),
        };
        let mut message = error.to_string();
        if matches!(error, Error::Refused { status: 403, .. }) {
            message.push_str(
                "; the API key lacks the permission for this call: want one that \"headscale apikeys create\" prints",
            );
        }
        Self {
            state,
            message,
            of_plane,
        }
    }
}
