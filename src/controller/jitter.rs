//! The random part of a back-off. Reads the machine's randomness.

/// Returns a number from 0 to 1.
pub(super) fn jitter() -> f64 {
    f64::from(uuid::Uuid::new_v4().as_fields().0) / f64::from(u32::MAX)
}
