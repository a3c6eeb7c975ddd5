//! What a running device tells of itself: heard on a thread of its own, since the engine's queue is a blocking one.
//!
//! Facts about peers go to the log, so many lines a minute: a peer, or whoever reaches the port, could write the log full
//! otherwise. Datagrams that are not WireGuard are for NAT traversal; without it they are counted and dropped. The end of
//! the events is the end of the device.

use crate::log_budget::LogBudget;
use ginnel_engine::event::Event;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Receiver;
use std::thread;
use std::time::{Duration, Instant};

/// Lines of each kind of event in a minute. Ten show what goes on; a node of a thousand peers completes as many handshakes
/// in two minutes.
const LINES_A_MINUTE: u32 = 10;

/// Hears `events` to their end, then calls `on_end`. Counts the datagrams that are not WireGuard in `diverted`, and shows
/// each event to `hear` first.
///
/// # Errors
/// Where the system has no thread left.
pub(super) fn listen(
    events: Receiver<Event>,
    diverted: Arc<AtomicU64>,
    hear: impl Fn(&Event) + Send + 'static,
    on_end: impl FnOnce() + Send + 'static,
) -> io::Result<()> {
    let mut listener =
        Listener { diverted, completed: budget(), moved: budget(), abandoned: budget(), strange: budget() };
    let work = move || {
        for event in events {
            hear(&event);
            if !listener.hear(event, Instant::now()) {
                break;
            }
        }
        on_end();
    };
    thread::Builder::new().name("overlay events".to_owned()).spawn(work).map(drop)
}

struct Listener {
    diverted: Arc<AtomicU64>,
    completed: LogBudget,
    moved: LogBudget,
    abandoned: LogBudget,
    strange: LogBudget,
}

fn budget() -> LogBudget {
    LogBudget::new(LINES_A_MINUTE, Duration::from_secs(60))
}

impl Listener {
    /// Returns whether there can be more.
    fn hear(&mut self, event: Event, now: Instant) -> bool {
        match event {
            Event::HandshakeCompleted { peer } => {
                if let Some(withheld) = self.completed.admit(now) {
                    tracing::debug!(%peer, withheld, "a handshake completed");
                }
            }
            Event::EndpointChanged { peer, endpoint } => {
                if let Some(withheld) = self.moved.admit(now) {
                    tracing::info!(%peer, %endpoint, withheld, "a peer is heard from another address");
                }
            }
            Event::HandshakeAbandoned { peer } => {
                if let Some(withheld) = self.abandoned.admit(now) {
                    tracing::info!(%peer, withheld, "a peer does not answer");
                }
            }
            Event::Diverted { from, datagram } => {
                self.diverted.fetch_add(1, Ordering::Relaxed);
                if let Some(withheld) = self.strange.admit(now) {
                    tracing::debug!(%from, bytes = datagram.len(), withheld, "dropped a datagram that is not WireGuard");
                }
            }
            Event::PortClosed { errno } => {
                tracing::debug!(errno, "a port of the device closed");
                return false;
            }
        }
        true
    }
}
