//! What several commands read, and the flags that select an installation.

pub mod form;
pub(crate) mod held;
pub(crate) mod inventory;
pub(crate) mod progress;
pub mod release;
pub(crate) mod span;
pub(crate) mod verify;
