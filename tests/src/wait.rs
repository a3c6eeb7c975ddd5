//! Waiting for conditions. Deadlines are so generous that only what never comes misses them, however busy the machine.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// For anything that takes seconds at most on an idle machine. Longer than a handshake that has to be repeated a few
/// times (every 5 s, WireGuard paper, section 6.1).
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `condition` holds.
///
/// # Panics
/// Where it does not within [`PATIENCE`]; the message is `what`.
#[track_caller]
pub fn until(what: &str, condition: impl FnMut() -> bool) {
    until_within(PATIENCE, what, condition);
}

/// As [`until`], within `time_max`.
///
/// # Panics
/// Where it does not hold in time.
#[track_caller]
pub fn until_within(time_max: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < time_max, "not within {} s: {what}", time_max.as_secs());
        thread::sleep(Duration::from_millis(10));
    }
}

/// Tells threads to stop when it is dropped, so also when a test fails.
pub struct StopOnDrop<'a>(pub &'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
