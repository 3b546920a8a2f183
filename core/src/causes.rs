//! An error with its causes, as text. Pure.

use std::error::Error;
use std::iter::successors;

/// Returns all causes, from the outermost to the innermost.
#[must_use]
pub fn all(error: &dyn Error) -> String {
    let causes = successors(error.source(), |cause| (*cause).source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// Returns the innermost cause, which a reader can act on: the outer ones say only that a request was sent.
#[must_use]
pub fn innermost(error: &dyn Error) -> String {
    let causes = successors(error.source(), |cause| (*cause).source());
    causes
        .last()
        .map_or_else(|| error.to_string(), ToString::to_string)
}
