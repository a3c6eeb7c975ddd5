//! Time during which this program ran. On a machine that stops it, or has no processor for it, the clock stands still, so
//! that nobody is blamed for what took no time of anybody's.

use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How often it is looked at whether the program runs.
const TICK: Duration = Duration::from_millis(50);

/// What a tick may be late without the program having been stopped.
const LATE: Duration = Duration::from_millis(150);

/// A clock; somebody has to [`Clock::tick`] it.
#[derive(Debug)]
pub struct Clock {
    start: Instant,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    /// When the last tick was, as the machine counts.
    ticked: Duration,
    /// What is not counted of the time until then.
    lost: Duration,
}

impl Default for Clock {
    fn default() -> Self {
        Self { start: Instant::now(), seen: Mutex::default() }
    }
}

impl Clock {
    /// Time since the clock was made, without that in which the program stood still.
    #[must_use]
    pub fn now(&self) -> Duration {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        self.start.elapsed().min(seen.ticked + TICK + LATE).saturating_sub(seen.lost)
    }

    /// What was not counted.
    #[must_use]
    pub fn lost(&self) -> Duration {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).lost
    }

    /// Waits for the next tick and counts it.
    pub fn tick(&self) {
        thread::sleep(TICK);
        self.count(self.start.elapsed());
    }

    fn count(&self, elapsed: Duration) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let late = elapsed.saturating_sub(seen.ticked + TICK + LATE);
        seen.lost += late;
        seen.ticked = elapsed;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_that_stood_still_is_not_counted() {
        let second = Duration::from_secs(1);
        // An hour ago, as far as the machine is concerned.
        let Some(start) = Instant::now().checked_sub(second * 3_600) else { return };
        let clock = Clock { start, seen: Mutex::default() };
        assert_eq!(clock.now(), TICK + LATE);
        clock.count(second * 3_600);
        assert!(clock.now() < second * 10 && clock.now() >= TICK + LATE);
        assert_eq!(clock.lost(), second * 3_600 - TICK - LATE);
    }
}
