//! Size of a test: small in `make test`, full in `make soak` (reads the environment).

/// Returns whether this is `make soak`.
pub(crate) fn is_on() -> bool {
    std::env::var_os("SIDESCALE_SOAK").is_some_and(|value| !value.is_empty())
}

/// Returns the first number in `make test`, the second in `make soak`.
pub(crate) fn number(test: usize, soak: usize) -> usize {
    if is_on() { soak } else { test }
}
