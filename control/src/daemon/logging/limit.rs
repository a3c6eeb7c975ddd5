//! How many lines one place in the program has in a window of time. Others can cause lines, by frames that are none, by
//! connections that come and go; the log must not be theirs to fill.

use crate::ipc::server::AUDIT;
use crate::log_budget::LogBudget;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use tracing::callsite::Identifier;
use tracing::{Level, Metadata};

/// The window.
const WINDOW: Duration = Duration::from_secs(10);

/// Lines of one place in a window: more than a person reads.
const LINES_MAX: u32 = 60;

/// Lines of the audit in a window: ten times what an orchestrator orders while a whole node starts.
const AUDIT_LINES_MAX: u32 = 5_000;

/// The budgets of all places; there are as many as the program has log calls.
#[derive(Debug, Default)]
pub(super) struct Limiter(Mutex<HashMap<Identifier, (LogBudget, &'static Metadata<'static>)>>);

/// Lines that were not written, and where they would have come from.
#[derive(Debug)]
pub(super) struct Withheld {
    pub(super) lines: u64,
    pub(super) place: &'static Metadata<'static>,
}

impl Limiter {
    /// Whether a line from this place may be written; then, how many were not since the last.
    pub(super) fn admit(&self, place: &'static Metadata<'static>, now: Instant) -> Option<u64> {
        // Whoever asks for these wants all of them.
        if *place.level() > Level::INFO {
            return Some(0);
        }
        let mut budgets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let lines = if place.target() == AUDIT { AUDIT_LINES_MAX } else { LINES_MAX };
        let budget = || (LogBudget::new(lines, WINDOW), place);
        budgets.entry(place.callsite()).or_insert_with(budget).0.admit(now)
    }

    /// What was withheld in windows that are over, and has not been told by a line since.
    pub(super) fn remainders(&self, now: Instant) -> Vec<Withheld> {
        let mut budgets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let told = budgets.values_mut().map(|(budget, place)| Withheld { lines: budget.remainder(now), place });
        told.filter(|withheld| withheld.lines > 0).collect()
    }
}
