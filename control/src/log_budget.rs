//! A limit on log lines that others can cause: so many in a window of time, the rest counted.

use std::time::{Duration, Instant};

/// The lines of one kind.
#[derive(Debug)]
pub(crate) struct LogBudget {
    lines_max: u32,
    window: Duration,
    window_start: Option<Instant>,
    lines: u32,
    withheld: u64,
}

impl LogBudget {
    /// At most `lines_max` lines in each `window`.
    pub(crate) fn new(lines_max: u32, window: Duration) -> Self {
        Self { lines_max, window, window_start: None, lines: 0, withheld: 0 }
    }

    /// Whether a line may be written at `now`; then, how many were not since the last.
    pub(crate) fn admit(&mut self, now: Instant) -> Option<u64> {
        if self.window_start.is_none_or(|start| now.saturating_duration_since(start) >= self.window) {
            self.window_start = Some(now);
            self.lines = 0;
        }
        if self.lines >= self.lines_max {
            self.withheld += 1;
            return None;
        }
        self.lines += 1;
        Some(std::mem::take(&mut self.withheld))
    }

    /// How many lines were withheld in a window that is over; they are told then and not again.
    pub(crate) fn remainder(&mut self, now: Instant) -> u64 {
        let over = self.window_start.is_some_and(|start| now.saturating_duration_since(start) >= self.window);
        if over { std::mem::take(&mut self.withheld) } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_has_its_lines_and_the_next_tells_of_the_rest() {
        let mut budget = LogBudget::new(2, Duration::from_secs(10));
        let start = Instant::now();
        let at = |secs| start + Duration::from_secs(secs);
        assert_eq!([0, 1, 1, 9].map(|secs| budget.admit(at(secs))), [Some(0), Some(0), None, None]);
        assert_eq!([10, 12, 19, 20].map(|secs| budget.admit(at(secs))), [Some(2), Some(0), None, Some(1)]);
    }
}
