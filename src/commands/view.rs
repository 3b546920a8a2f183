//! What several commands look at, and how they are told which installation it is.

pub mod form;
pub(crate) mod held;
pub(crate) mod inventory;
pub(crate) mod progress;
pub mod release;
pub(crate) mod span;
pub(crate) mod verify;
