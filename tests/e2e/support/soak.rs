//! How much a test does: little in `make test`, all of it in `make soak` (reads the environment).

/// Whether this is `make soak`.
pub(crate) fn is_on() -> bool {
    std::env::var_os("SIDESCALE_SOAK").is_some_and(|value| !value.is_empty())
}

/// The first number in `make test`, the second in `make soak`.
pub(crate) fn number(test: usize, soak: usize) -> usize {
    if is_on() { soak } else { test }
}
