//! The engine's time: the monotonic clock, from the start of the device on.

use ginnel_engine::tick::Tick;
use std::time::{Duration, Instant, SystemTime};

/// A clock shared by the workers of a device and those who read their ticks.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    /// A clock that starts now, one second in: the engine takes tick 0 for "never".
    #[must_use]
    pub fn start() -> Self {
        let now = Instant::now();
        Self(now.checked_sub(Duration::from_secs(1)).unwrap_or(now))
    }

    /// The current tick.
    #[must_use]
    pub fn tick(&self) -> Tick {
        Tick(u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    /// The wall-clock time of a tick that has passed.
    #[must_use]
    pub fn wall(&self, tick: Tick) -> SystemTime {
        let now = SystemTime::now();
        now.checked_sub(self.tick().since(tick)).unwrap_or(SystemTime::UNIX_EPOCH)
    }

    /// The time of day at tick 0, as far as the system knows now: nanoseconds since the Unix epoch.
    #[must_use]
    pub fn origin(&self) -> u64 {
        let origin = self.wall(Tick(0)).duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        u64::try_from(origin.as_nanos()).unwrap_or(u64::MAX)
    }
}
