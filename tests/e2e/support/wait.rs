//! Waits on conditions: probe until it holds or the deadline passes (reads the clock, never sleeps blindly).

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Time between two looks at a condition.
const PAUSE: Duration = Duration::from_millis(100);

/// A program that was waited for is gone: further waiting is of no use.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Ended(pub(crate) String);

/// Probes until it answers, and says on failure what the last look saw.
pub(crate) fn until<T>(
    what: &str,
    limit: Duration,
    mut probe: impl FnMut() -> Result<T>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        match probe() {
            Ok(value) => return Ok(value),
            Err(error) if error.is::<Ended>() => return Err(error.context(what.to_owned())),
            Err(error) if start.elapsed() > limit => {
                bail!(
                    "{what}: not within {} s; last seen: {error:#}",
                    limit.as_secs()
                )
            }
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}
