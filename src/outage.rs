//! Reports a temporary failure: warns once, repeats it for debug, logs the recovery. State; reads the machine's clock.

use std::time::{Duration, Instant};

/// Start of a reported failure, if there is one.
#[derive(Debug, Default)]
pub struct Outage(Option<Instant>);

impl Outage {
    /// Records a failure; returns whether it is the first, which is to be warned of.
    pub fn failed(&mut self) -> bool {
        let is_first = self.0.is_none();
        self.0.get_or_insert_with(Instant::now);
        is_first
    }

    /// Records a success; returns the duration of a reported failure.
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
