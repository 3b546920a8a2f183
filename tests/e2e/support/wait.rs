//! Waits for conditions: probes until one holds or the deadline passes (reads the clock, never sleeps blindly).

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Time between two probes of a condition.
const PAUSE: Duration = Duration::from_millis(100);

/// A program that was waited for has exited: waiting longer does not help.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Ended(pub(crate) String);

/// Probes until it answers; an error contains the result of the last probe.
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
