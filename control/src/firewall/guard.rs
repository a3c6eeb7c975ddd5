//! The watch over the ruleset: a thread that hears of every change and brings back what others took away.
//!
//! ```text
//! event ─► ours by its port? ─ yes ─► ignored
//!            │ no
//!            ├► about a table of ours ─► mend, at once, and then at most every PAUSE
//!            ├► about structure of others ─► look for chains that close, at most every PAUSE
//!            └► lost events ─► both
//! nothing for SLOW ─► generation as last seen? ─ no ─► both
//! ```
//!
//! It holds the lock of the firewall only while it mends. In between it ends connections that are to end.

use super::conntrack::Endings;
use super::error::FirewallError;
use super::inner::Inner;
use super::netfilter::{Group, Socket, SocketError};
use super::nft::{Event, EventObject, NftError};
use super::ruleset::table_name;
use crate::log_budget::LogBudget;
use nix::sys::eventfd::EventFd;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Between two repairs, and between two looks at the chains of others. Ten a second are a tenth of a processor at most; a
/// second is what repair may take.
const PAUSE: Duration = Duration::from_millis(100);

/// How long to believe that no event was missed.
const SLOW: Duration = Duration::from_secs(30);

/// How long to wait after a repair that failed: for whoever holds the ruleset to let go.
const AFTER_FAILURE: Duration = Duration::from_millis(250);

/// Warnings about failures, in a window of time.
const WARNINGS_MAX: u32 = 5;
const WARNINGS_WINDOW: Duration = Duration::from_secs(60);

/// The running watch. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Guard {
    stop: Arc<AtomicBool>,
    wake: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl Guard {
    /// Starts the watch in the network namespace of this thread. From its return on no event is missed. `wake` wakes it for
    /// connections that are to end.
    pub(super) fn start(
        instance: &str,
        inner: Arc<Mutex<Inner>>,
        wake: Arc<EventFd>,
        port: Arc<AtomicU32>,
    ) -> Result<Self, FirewallError> {
        let events = Socket::open(Group::Nftables).map_err(NftError::Socket)?;
        let stop = Arc::new(AtomicBool::new(false));
        let endings = inner.lock().unwrap_or_else(PoisonError::into_inner).endings();
        let watch = Watch {
            events,
            inner,
            endings,
            port,
            stop: Arc::clone(&stop),
            wake: Arc::clone(&wake),
            table: table_name(instance),
            doubts: Doubts::default(),
            seen: None,
            warnings: LogBudget::new(WARNINGS_MAX, WARNINGS_WINDOW),
        };
        let thread =
            thread::Builder::new().name("firewall".into()).spawn(move || watch.run()).map_err(FirewallError::Guard)?;
        Ok(Self { stop, wake, thread: Some(thread) })
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // The counter is far from full.
        let _ = self.wake.write(1);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What has to be looked at, and since when.
#[derive(Debug, Default)]
struct Doubts {
    ours: Option<Instant>,
    others: Option<Instant>,
    culprit: Option<String>,
}

struct Watch {
    events: Socket,
    inner: Arc<Mutex<Inner>>,
    endings: Arc<Endings>,
    port: Arc<AtomicU32>,
    stop: Arc<AtomicBool>,
    wake: Arc<EventFd>,
    table: String,
    doubts: Doubts,
    /// The generation after which all was well.
    seen: Option<u32>,
    warnings: LogBudget,
}

impl Watch {
    fn run(mut self) {
        let mut pause_until = Instant::now();
        let mut look_at = Instant::now() + SLOW;
        loop {
            let doubtful = self.doubts.ours.is_some() || self.doubts.others.is_some();
            let until = if doubtful { pause_until } else { look_at };
            if let Err(error) = self.events.wait(self.wake.as_fd(), until.saturating_duration_since(Instant::now())) {
                self.warn(&error);
                thread::sleep(PAUSE);
            }
            // Whatever it counted.
            let _ = self.wake.read();
            self.hear();
            let now = Instant::now();
            if now >= look_at {
                look_at = now + SLOW;
                self.doubt_if_changed(now);
            }
            let doubtful = self.doubts.ours.is_some() || self.doubts.others.is_some();
            if doubtful && now >= pause_until {
                let pause = if self.settle() { PAUSE } else { AFTER_FAILURE };
                pause_until = Instant::now() + pause;
            }
            // Repairs first; then there is time.
            self.endings.carry_out();
            if self.stop.load(Ordering::Acquire) {
                return;
            }
        }
    }

    fn hear(&mut self) {
        let (own, table, now) = (self.port.load(Ordering::Acquire), self.table.as_str(), Instant::now());
        let doubts = &mut self.doubts;
        let heard = self.events.events(|frame| {
            let event = Event::read(frame);
            if event.port != own {
                doubts.add(event.object, table, now);
            }
        });
        match heard {
            Ok(()) => {}
            Err(SocketError::Overrun) => {
                self.doubts.ours.get_or_insert(now);
                self.doubts.others.get_or_insert(now);
            }
            Err(error) => self.warn(&error),
        }
    }

    /// Everything is looked at where somebody changed anything since the last look, whatever was heard of it.
    fn doubt_if_changed(&mut self, now: Instant) {
        let generation = self.lock(Inner::generation);
        if generation.ok() != self.seen || self.seen.is_none() {
            self.doubts.ours.get_or_insert(now);
            self.doubts.others.get_or_insert(now);
        }
    }

    /// Mends what is in doubt. Where that fails, the doubts stay.
    fn settle(&mut self) -> bool {
        let doubts = std::mem::take(&mut self.doubts);
        let settled: Result<_, FirewallError> = self.lock(|inner| {
            let before = inner.generation()?;
            if let Some(since) = doubts.ours {
                inner.heal(since, doubts.culprit.clone())?;
            }
            // A flush takes the openings along.
            inner.look_at_others()?;
            Ok(before)
        });
        match settled {
            // What we changed since then is known to be well, too, but not what others did: the next look will tell.
            Ok(before) => {
                self.seen = Some(before);
                true
            }
            Err(error) => {
                self.warn(&error);
                self.doubts.ours = self.doubts.ours.or(doubts.ours);
                self.doubts.others = self.doubts.others.or(doubts.others);
                self.doubts.culprit = self.doubts.culprit.take().or(doubts.culprit);
                false
            }
        }
    }

    fn lock<T>(&self, work: impl FnOnce(&mut Inner) -> T) -> T {
        work(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn warn(&mut self, error: &dyn std::error::Error) {
        if let Some(withheld) = self.warnings.admit(Instant::now()) {
            tracing::warn!(%error, withheld, "the firewall cannot be looked after; trying again");
        }
    }
}

impl Doubts {
    fn add(&mut self, object: EventObject, ours: &str, now: Instant) {
        match object {
            EventObject::Structure { table, .. } | EventObject::Content { table, .. } if table == ours => {
                self.ours.get_or_insert(now);
            }
            // Another instance changes nothing for us.
            EventObject::Structure { table, .. } if !table.starts_with(&table_name("")) => {
                self.others.get_or_insert(now);
            }
            EventObject::Generation { process, program, .. } if self.ours.is_some() => {
                let program = program.unwrap_or_else(|| "?".into());
                self.culprit = process.map(|process| format!("{program} ({process})"));
            }
            _ => {}
        }
    }
}
