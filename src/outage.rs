//! Something that does not work for a while: its first failure is warned of, repeats are for debug, one line says that it is over.
//! State; reads the machine's clock.

use std::time::{Duration, Instant};

/// Since when something has failed and that was reported, if it has.
#[derive(Debug, Default)]
pub struct Outage(Option<Instant>);

impl Outage {
    /// Takes in a failure; says whether it is the first, and so to be warned of.
    pub fn failed(&mut self) -> bool {
        let is_first = self.0.is_none();
        self.0.get_or_insert_with(Instant::now);
        is_first
    }

    /// Takes in a success; says how long it did not work, where that was reported.
    pub fn recovered(&mut self) -> Option<Duration> {
        self.0.take().map(|since| since.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_failure_and_the_end_are_said_once_each() {
        let mut outage = Outage::default();
        for (fails, says) in [
            (false, false),
            (true, true),
            (true, false),
            (true, false),
            (false, true),
            (false, false),
            (true, true),
            (false, true),
        ] {
            let said = if fails {
                outage.failed()
            } else {
                outage.recovered().is_some()
            };
            assert_eq!(said, says, "fails: {fails}");
        }
    }
}
