//! Random numbers for episodes. Tests.

/// Pseudo-random numbers that can be reproduced.
#[derive(Clone, Debug)]
pub(in crate::controller::model) struct Random(u64);

impl Random {
    pub(in crate::controller::model) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(in crate::controller::model) fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % limit
    }

    /// Returns true this often in a thousand.
    pub(in crate::controller::model) fn chance(&mut self, permille: u64) -> bool {
        self.below(1_000) < permille
    }
}
