//! A problem with a key, and its resulting state. Pure.

use crate::key_state::KeyState;

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
