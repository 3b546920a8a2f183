//! Why a call went wrong, in one phrase. Pure.

/// The innermost cause, which is what a reader can act on.
pub(super) fn causes(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
