//! The clock of rotation: the machine's, or one that runs faster and can be set. Reads the time.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use sidescale_core::time::after;
use tokio::sync::Notify;

/// A clock that goes back by more wakes its sleepers: they planned with another time.
const SET_BACK: SignedDuration = SignedDuration::from_secs(1);

/// Maximum length of one sleep, so that a change of the machine's clock is noticed soon.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);

/// A clock to read and to sleep by; clones share it.
#[derive(Clone, Debug)]
pub struct Clock(Arc<ClockKind>);

#[derive(Debug)]
enum ClockKind {
    Wall,
    Scaled {
        factor: f64,
        base: Mutex<Base>,
        moved: Notify,
    },
}

#[derive(Clone, Copy, Debug)]
struct Base {
    real: Instant,
    told: Timestamp,
}

impl Clock {
    /// Returns the machine's own clock.
    #[must_use]
    pub fn wall() -> Self {
        Self(Arc::new(ClockKind::Wall))
    }

    /// Returns a clock that starts at `start` and runs `factor` times as fast as the machine's; with 0 it stops until
    /// it is moved.
    #[must_use]
    pub fn scaled(start: Timestamp, factor: f64) -> Self {
        let base = Mutex::new(Base {
            real: Instant::now(),
            told: start,
        });
        Self(Arc::new(ClockKind::Scaled {
            factor,
            base,
            moved: Notify::new(),
        }))
    }

    /// Returns the current time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        match &*self.0 {
            ClockKind::Wall => Timestamp::now(),
            ClockKind::Scaled { factor, base, .. } => base
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .now(*factor),
        }
    }

    /// Returns a function that reads this clock.
    pub fn reader(&self) -> impl Fn() -> Timestamp + Send + Sync + use<> {
        let clock = self.clone();
        move || clock.now()
    }

    /// Sets the clock and wakes its sleepers. The machine's own clock is never set.
    pub fn set(&self, to: Timestamp) {
        let ClockKind::Scaled { base, moved, .. } = &*self.0 else {
            return;
        };
        *base.lock().unwrap_or_else(PoisonError::into_inner) = Base {
            real: Instant::now(),
            told: to,
        };
        moved.notify_waiters();
    }

    /// Moves the clock forward.
    pub fn advance(&self, by: Duration) {
        self.set(after(self.now(), by));
    }

    /// Sleeps until the clock shows `deadline` or later, or was set back.
    pub async fn sleep_until(&self, deadline: Timestamp) {
        let mut shown = self.now();
        loop {
            // Registered before the time is read: a `set` in between is not missed.
            let moved = match &*self.0 {
                ClockKind::Wall => None,
                ClockKind::Scaled { moved, .. } => Some(moved.notified()),
            };
            let now = self.now();
            if shown.duration_since(now) > SET_BACK {
                return;
            }
            shown = now;
            let left = deadline.duration_since(now);
            let Ok(left) = Duration::try_from(left) else {
                return;
            };
            if left.is_zero() {
                return;
            }
            match (&*self.0, moved) {
                (ClockKind::Scaled { factor, .. }, Some(moved)) => {
                    let real = if *factor > 0.0 {
                        left.div_f64(*factor)
                    } else {
                        LONGEST_SLEEP
                    };
                    let sleep =
                        tokio::time::sleep(real.clamp(Duration::from_micros(100), LONGEST_SLEEP));
                    tokio::select! { () = sleep => {} () = moved => {} }
                }
                (ClockKind::Wall | ClockKind::Scaled { .. }, _) => {
                    tokio::time::sleep(left.min(LONGEST_SLEEP)).await
                }
            }
        }
    }
}

impl Base {
    fn now(&self, factor: f64) -> Timestamp {
        after(self.told, self.real.elapsed().mul_f64(factor))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stopped_clock_wakes_its_sleepers_when_it_is_moved() {
        let start = Timestamp::from_second(1_000).unwrap();
        let clock = Clock::scaled(start, 0.0);
        let sleeper = tokio::spawn({
            let clock = clock.clone();
            async move {
                clock
                    .sleep_until(after(start, Duration::from_secs(60)))
                    .await
            }
        });
        tokio::task::yield_now().await;
        assert_eq!(clock.now(), start);
        clock.advance(Duration::from_secs(61));
        sleeper.await.unwrap();
        assert_eq!(clock.now(), Timestamp::from_second(1_061).unwrap());
    }

    #[tokio::test]
    async fn a_fast_clock_sleeps_a_day_in_no_time() {
        let start = Timestamp::from_second(1_000).unwrap();
        let clock = Clock::scaled(start, 86_400_000.0);
        let day = after(start, Duration::from_secs(86_400));
        clock.sleep_until(day).await;
        assert!(clock.now() >= day);
    }

    #[tokio::test]
    async fn a_clock_that_is_set_back_wakes_its_sleepers() {
        let start = Timestamp::from_second(1_000_000).unwrap();
        let clock = Clock::scaled(start, 0.0);
        let sleeper = tokio::spawn({
            let clock = clock.clone();
            async move {
                clock
                    .sleep_until(after(start, Duration::from_secs(60)))
                    .await
            }
        });
        tokio::task::yield_now().await;
        clock.set(start - SignedDuration::from_hours(1));
        sleeper.await.unwrap();
    }
}
