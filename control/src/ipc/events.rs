//! Events on their way to whoever subscribed.
//!
//! ```text
//! publish ──► ring of the last events ◄── one position per subscriber
//! ```
//!
//! The ring is the queue of every subscriber: who falls further behind than it is long finds the oldest gone and is told
//! how many of the kinds asked for. Publishing takes a lock for a few instructions and never waits for anybody, so it may
//! be done from any thread.
//!
//! A cursor names the ring, which is drawn anew with each, and a position in it.

use super::wire::{Event, EventKind, EventRecord, ListQuery, Subscribe, Subscribed, page};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::watch;

/// Events that are remembered unless told otherwise: more than a node produces while a subscriber starts anew, in about a
/// megabyte.
pub const EVENTS_KEPT: usize = 4_096;

const KINDS: usize = EventKind::ALL.len();

/// Where events are published and subscribed to. Clones share it.
#[derive(Clone, Debug)]
pub struct EventHub(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    ring: Mutex<Ring>,
    /// Behind the last event; tells subscribers that there is something.
    end: watch::Sender<u64>,
}

#[derive(Debug)]
struct Ring {
    kept_max: usize,
    records: VecDeque<(u64, Event)>,
    /// Number of the oldest record.
    start: u64,
    /// Events forgotten so far, by kind.
    forgotten: [u64; KINDS],
}

impl Default for EventHub {
    fn default() -> Self {
        Self::new(EVENTS_KEPT)
    }
}

impl EventHub {
    /// A hub that remembers `kept_max` events.
    #[must_use]
    pub fn new(kept_max: usize) -> Self {
        let ring = Ring { kept_max: kept_max.max(1), records: VecDeque::new(), start: 1, forgotten: [0; KINDS] };
        Self(Arc::new(Inner {
            name: format!("{:08x}", rand::random::<u32>()),
            ring: Mutex::new(ring),
            end: watch::Sender::new(1),
        }))
    }

    /// Tells `event` to whoever wants to know. Waits for nobody.
    pub fn publish(&self, event: Event) {
        let Some(_) = event.kind() else { return };
        let end = {
            let mut ring = self.0.ring();
            if ring.records.len() == ring.kept_max {
                ring.forget_oldest();
            }
            ring.records.push_back((now_ms(), event));
            ring.end()
        };
        // Of two publishers the later may come here first.
        self.0.end.send_if_modified(|told| std::mem::replace(told, end.max(*told)) < end);
    }

    /// Subscribes to events behind `after`, or from here on.
    #[must_use]
    pub fn subscribe(&self, wanted: &Subscribe) -> (Subscription, Subscribed) {
        let mut wants = [wanted.kinds.is_empty(); KINDS];
        for kind in &wanted.kinds {
            wants[number(*kind)] = true;
        }
        let told = self.0.end.subscribe();
        let ring = self.0.ring();
        let known = wanted.after.as_deref().map(|cursor| self.0.position(cursor).filter(|at| *at <= ring.end()));
        let (position, complete, lost) = match known {
            None => (ring.end(), true, 0),
            // Of another ring: what happened in between is not known to this one.
            Some(None) => (ring.start, false, 0),
            Some(Some(at)) if at < ring.start => (ring.start, false, ring.start - at),
            Some(Some(at)) => (at, true, 0),
        };
        let subscribed = Subscribed { cursor: self.0.cursor(position - 1), complete, lost };
        let passed = ring.counts_before(position);
        drop(ring);
        (Subscription { hub: self.0.clone(), told, wants, position, passed }, subscribed)
    }

    /// A page of what is remembered.
    #[must_use]
    pub fn page(&self, query: &ListQuery) -> (Vec<EventRecord>, Option<String>) {
        let ring = self.0.ring();
        let after = query.after.as_deref().and_then(|cursor| self.0.position(cursor)).unwrap_or(0);
        let first = after.max(ring.start);
        let records = (first..ring.end()).filter_map(|at| ring.record(at).map(|record| self.0.dated(at, record)));
        page(records, &ListQuery { after: None, ..query.clone() })
    }
}

impl Inner {
    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cursor(&self, at: u64) -> String {
        format!("{}-{at}", self.name)
    }

    /// Number of the event behind a cursor, if it is one of this ring.
    fn position(&self, cursor: &str) -> Option<u64> {
        let (name, at) = cursor.split_once('-')?;
        (name == self.name).then(|| at.parse::<u64>().ok()?.checked_add(1)).flatten()
    }

    fn dated(&self, at: u64, (at_unix_ms, event): &(u64, Event)) -> EventRecord {
        EventRecord { event: event.clone(), cursor: Some(self.cursor(at)), at_unix_ms: Some(*at_unix_ms) }
    }
}

impl Ring {
    fn end(&self) -> u64 {
        self.start + self.records.len() as u64
    }

    fn record(&self, at: u64) -> Option<&(u64, Event)> {
        self.records.get(usize::try_from(at.checked_sub(self.start)?).ok()?)
    }

    fn forget_oldest(&mut self) {
        if let Some((_, event)) = self.records.pop_front() {
            self.start += 1;
            if let Some(kind) = event.kind() {
                self.forgotten[number(kind)] += 1;
            }
        }
    }

    /// Events ever published before `at`, by kind.
    fn counts_before(&self, at: u64) -> [u64; KINDS] {
        let mut counts = self.forgotten;
        for kind in (self.start..at).filter_map(|at| self.record(at)?.1.kind()) {
            counts[number(kind)] += 1;
        }
        counts
    }
}

/// One reader of a hub.
#[derive(Debug)]
pub struct Subscription {
    hub: Arc<Inner>,
    told: watch::Receiver<u64>,
    wants: [bool; KINDS],
    /// Number of the next event to look at.
    position: u64,
    /// Events looked at or lost before that, by kind.
    passed: [u64; KINDS],
}

impl Subscription {
    /// Waits for the next event. Dropping the future loses nothing.
    pub async fn next(&mut self) -> EventRecord {
        loop {
            self.told.mark_unchanged();
            if let Some(record) = self.poll() {
                return record;
            }
            if self.told.changed().await.is_err() {
                // The sender lives as long as the hub, which this holds.
                std::future::pending::<()>().await;
            }
        }
    }

    /// The next event, if there is one.
    pub fn poll(&mut self) -> Option<EventRecord> {
        let hub = self.hub.clone();
        let ring = hub.ring();
        if self.position < ring.start {
            let lost = (0..KINDS).filter(|kind| self.wants[*kind]).map(|kind| ring.forgotten[kind] - self.passed[kind]);
            let count = lost.sum();
            self.position = ring.start;
            self.passed = ring.forgotten;
            if count > 0 {
                let event = Event::EventsLost { count };
                return Some(EventRecord {
                    event,
                    cursor: Some(hub.cursor(self.position - 1)),
                    at_unix_ms: Some(now_ms()),
                });
            }
        }
        while let Some(record) = ring.record(self.position) {
            let at = self.position;
            self.position += 1;
            let Some(kind) = record.1.kind() else { continue };
            self.passed[number(kind)] += 1;
            if self.wants[number(kind)] {
                return Some(hub.dated(at, record));
            }
        }
        None
    }
}

fn number(kind: EventKind) -> usize {
    kind as usize
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[path = "events_tests.rs"]
mod tests;
