//! An error with what led to it, as text. Pure.

use std::error::Error;
use std::iter::successors;

/// All of it, from the outermost to the innermost.
pub(crate) fn all(error: &dyn Error) -> String {
    let causes = successors(error.source(), |cause| (*cause).source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// The innermost cause, which is what a reader can act on: the outer ones say only that a request was sent.
pub(crate) fn innermost(error: &dyn Error) -> String {
    let causes = successors(error.source(), |cause| (*cause).source());
    causes
        .last()
        .map_or_else(|| error.to_string(), ToString::to_string)
}
