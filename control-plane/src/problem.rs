//! The problem of a key that each error of a control plane causes. Pure.

use sidescale_core::key_state::KeyState;
use sidescale_core::problem::Problem;

use super::Error;

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
