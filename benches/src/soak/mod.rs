//! Two whole daemons that are treated badly for as long as one likes, and what has to hold meanwhile. `bin/soak` is the
//! program.
//!
//! ```text
//! scene    two nodes with services and containers that stay, lanes of traffic between them
//! churn    containers and services that come and go, names, addresses
//! trouble  one thing after the other that goes wrong; after each, all lanes have to move again in time
//! noise    junk datagrams, malformed frames
//! audit    once a minute all but the traffic pauses, and what is there has to be exactly what the scene needs
//! ```
//!
//! Whoever finds an invariant broken says so in words ([`Broken`]); the first to do so ends the run.

pub mod audit;
pub mod churn;
pub mod clock;
pub mod lane;
pub mod node;
pub mod noise;
pub mod play;
pub mod scene;
pub mod trouble;

use clock::Clock;
use ginnel_control::firewall::FirewallError;
use ginnel_control::host::HostError;
use ginnel_control::lab::traffic::TrafficError;
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread;
use std::time::Duration;

/// What is remembered of what was done.
const NOTES_MAX: usize = 40;

/// An invariant that does not hold, in words.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Broken(pub String);

impl From<HostError> for Broken {
    fn from(error: HostError) -> Self {
        Self(error.to_string())
    }
}

impl From<FirewallError> for Broken {
    fn from(error: FirewallError) -> Self {
        Self(error.to_string())
    }
}

impl From<TrafficError> for Broken {
    fn from(error: TrafficError) -> Self {
        Self(error.to_string())
    }
}

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Deed {
    /// Workloads attached.
    Attach,
    /// Containers that ended without being detached.
    Death,
    /// Names looked up.
    Lookup,
    /// Daemons killed.
    Kill,
    /// Daemons ended in order.
    End,
    /// Rulesets thrown away by others.
    Flush,
    /// Links taken down and up.
    Flap,
    /// Addresses of nodes changed.
    Roam,
    /// Handshakes seen.
    Handshake,
    /// Handshakes that nobody forced: sessions that were renewed in their time.
    Rekey,
    /// Junk sent, datagrams and frames.
    Junk,
    /// Bytes that were checked.
    Bytes,
}

/// What all parts of a run share.
#[derive(Debug, Default)]
pub struct Run {
    /// Time as far as anybody can be blamed for it.
    pub clock: Clock,
    deeds: Mutex<BTreeMap<Deed, u64>>,
    recoveries: Mutex<BTreeMap<&'static str, Vec<Duration>>>,
    notes: Mutex<VecDeque<String>>,
    /// Held by whoever changes something, and by whoever wants nothing to change.
    gate: RwLock<()>,
    /// No more changes are to be begun.
    closing: AtomicBool,
    /// Traffic is to end, too.
    over: AtomicBool,
    broken: Mutex<Option<Broken>>,
    /// When sessions were last torn by force, in microseconds of the clock.
    torn: AtomicU64,
}

impl Run {
    /// Keeps changes from being made until it is dropped; `None` once there are to be no more.
    pub fn change(&self) -> Option<RwLockReadGuard<'_, ()>> {
        let guard = self.gate.read().unwrap_or_else(PoisonError::into_inner);
        (!self.is_closing()).then_some(guard)
    }

    /// Waits until nobody changes anything, and keeps it so.
    pub fn pause(&self) -> RwLockWriteGuard<'_, ()> {
        self.gate.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// No more changes from now on.
    pub fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }

    /// Whether there are to be no more changes.
    pub fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed) || self.is_over()
    }

    /// Everything is to end.
    pub fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    /// Whether everything is to end.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// Reports what `work` finds broken, if it does.
    pub fn watch(&self, work: impl FnOnce() -> Result<(), Broken>) {
        if let Err(broken) = work() {
            let mut first = lock(&self.broken);
            if first.is_none() {
                println!("{:.1} s: {broken}", self.clock.now().as_secs_f64());
            }
            first.get_or_insert(broken);
            self.end();
        }
    }

    /// Whether anything was found broken.
    pub fn is_broken(&self) -> bool {
        lock(&self.broken).is_some()
    }

    /// What was found broken first.
    pub fn verdict(&self) -> Result<(), Broken> {
        lock(&self.broken).clone().map_or(Ok(()), Err)
    }

    /// Sleeps; shorter where no more changes are to be begun.
    pub fn rest(&self, time: Duration) {
        let end = self.clock.now() + time;
        while !self.is_closing() && self.clock.now() < end {
            thread::sleep(time.min(Duration::from_millis(20)));
        }
    }

    /// Waits until `there` says yes. What it says otherwise is the reason why it is broken where it takes too long.
    pub fn within(
        &self,
        time: Duration,
        what: &str,
        mut there: impl FnMut() -> Result<Option<String>, Broken>,
    ) -> Result<(), Broken> {
        let start = self.clock.now();
        while let Some(missing) = there()? {
            if self.clock.now() > start + time || self.is_broken() {
                return Err(Broken(format!("{what}, not within {} s: {missing}", time.as_secs_f32())));
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Counts what was done.
    pub fn did(&self, deed: Deed, times: u64) {
        *lock(&self.deeds).entry(deed).or_default() += times;
    }

    /// How often it was done.
    pub fn done(&self, deed: Deed) -> u64 {
        lock(&self.deeds).get(&deed).copied().unwrap_or_default()
    }

    /// Notes how long all lanes took to move again.
    pub fn recovered(&self, from: &'static str, took: Duration) {
        lock(&self.recoveries).entry(from).or_default().push(took);
    }

    /// How long that took, of each kind.
    pub fn recoveries(&self) -> BTreeMap<&'static str, Vec<Duration>> {
        lock(&self.recoveries).clone()
    }

    /// Notes something for whoever has to find out why it broke.
    pub fn note(&self, what: impl std::fmt::Display) {
        let mut notes = lock(&self.notes);
        notes.push_back(format!("{:8.2} s {what}", self.clock.now().as_secs_f64()));
        if notes.len() > NOTES_MAX {
            notes.pop_front();
        }
    }

    /// The last that was noted.
    pub fn notes(&self) -> Vec<String> {
        lock(&self.notes).iter().cloned().collect()
    }

    /// Sessions are gone for a reason of ours.
    pub fn tear(&self) {
        self.torn.store(micros(self.clock.now()), Ordering::Relaxed);
    }

    /// When they last were.
    pub fn torn(&self) -> Duration {
        Duration::from_micros(self.torn.load(Ordering::Relaxed))
    }
}

/// A panic elsewhere does not make what is guarded wrong.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
