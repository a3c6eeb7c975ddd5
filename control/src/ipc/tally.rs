//! What was asked of the server and how it went: a count per operation and outcome, and how long the answers took. For
//! whoever shows it; nothing is decided by it.

use super::wire::{ErrorCode, Response};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Upper ends of the classes of time, in seconds. Reading takes tens of microseconds, an attach some milliseconds, and a
/// request that is answered at all at most the 60 s it may take.
pub const CLASSES: [f64; 14] =
    [0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

/// What became of the requests for one operation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OpTally {
    /// How many ended how: `ok`, or the code of the refusal.
    pub outcomes: BTreeMap<&'static str, u64>,
    /// How many took no longer than the class with the same number in [`CLASSES`] and longer than the one before.
    pub classes: [u64; CLASSES.len()],
    /// All of them together, in seconds.
    pub secs: f64,
}

impl OpTally {
    /// How many there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.outcomes.values().sum()
    }
}

/// The counts of a server. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Tally(Arc<Mutex<BTreeMap<&'static str, OpTally>>>);

impl Tally {
    /// Takes in one answer.
    pub fn record(&self, op: &'static str, response: &Response, took: Duration) {
        let outcome = match response {
            Response::Err(fault) => fault.code.unwrap_or(ErrorCode::Unknown).name(),
            _ => "ok",
        };
        let secs = took.as_secs_f64();
        let mut ops = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let tally = ops.entry(op).or_default();
        *tally.outcomes.entry(outcome).or_default() += 1;
        if let Some(class) = CLASSES.iter().position(|end| secs <= *end) {
            tally.classes[class] += 1;
        }
        tally.secs += secs;
    }

    /// The counts as they stand, by name of the operation.
    #[must_use]
    pub fn read(&self) -> BTreeMap<&'static str, OpTally> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipc::wire::Fault;

    #[test]
    fn answers_are_counted_by_operation_outcome_and_time() {
        let tally = Tally::default();
        let busy = Response::Err(Fault::new(ErrorCode::Busy, "b"));
        tally.record("status", &Response::Ok, Duration::from_micros(100));
        tally.clone().record("status", &Response::Ok, Duration::from_micros(101));
        tally.record("status", &busy, Duration::from_secs(31));
        tally.record("shutdown", &Response::Ok, Duration::ZERO);
        let read = tally.read();
        assert_eq!(read.keys().copied().collect::<Vec<_>>(), ["shutdown", "status"]);
        let status = &read["status"];
        assert_eq!(status.outcomes.iter().map(|(k, v)| (*k, *v)).collect::<Vec<_>>(), [("busy", 1), ("ok", 2)]);
        assert_eq!((status.classes[0], status.classes[1], status.classes.iter().sum::<u64>()), (1, 1, 2));
        assert_eq!(status.count(), 3);
        assert!((status.secs - 31.000_201).abs() < 1e-9);
    }
}
