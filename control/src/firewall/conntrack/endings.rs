//! Connections that are to end, ended apart from the changes that cause it: looking for them is a walk through all of
//! conntrack's table, some milliseconds, which an attach or a detach need not wait for, and one walk does for many.
//!
//! Only who is to have an address or port whose connections still wait to end has to wait for that, so that no connection
//! of the new one is taken for one of the old.

use super::{Conntrack, Stale};
use crate::firewall::error::FirewallError;
use crate::firewall::health::Finding;
use crate::firewall::limits::ENDINGS_MAX;
use crate::host::Netns;
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// See the module. Shared by who causes endings and who carries them out.
#[derive(Debug)]
pub(in crate::firewall) struct Endings {
    netns: Netns,
    /// Locked for the time of a walk.
    conntrack: Mutex<Conntrack>,
    /// Locked for a moment, also within a walk.
    notes: Mutex<Notes>,
}

#[derive(Debug, Default)]
struct Notes {
    waiting: BTreeSet<Stale>,
    running: BTreeSet<Stale>,
    /// Connections of these were not followed for a while.
    unseen: BTreeSet<IpNet>,
    finding: Option<Finding>,
}

impl Endings {
    /// Opens conntrack in the network namespace of this thread, which is `netns`.
    pub(in crate::firewall) fn open(netns: Netns) -> Result<Self, FirewallError> {
        Ok(Self { netns, conntrack: Mutex::new(Conntrack::open()?), notes: Mutex::default() })
    }

    /// Notes what is to end. Returns whether there is so much that it should be done at once.
    pub(in crate::firewall) fn add(&self, stale: BTreeSet<Stale>) -> bool {
        let mut notes = lock(&self.notes);
        notes.waiting.extend(stale);
        notes.waiting.len() >= ENDINGS_MAX
    }

    /// Notes that connections of `prefixes` were not followed until now, as the rules were not there.
    pub(in crate::firewall) fn forgive(&self, prefixes: &BTreeSet<IpNet>) {
        lock(&self.notes).unseen.extend(prefixes);
    }

    /// Whether any of these waits to end, or is being ended.
    pub(in crate::firewall) fn concern(&self, stale: &BTreeSet<Stale>) -> bool {
        let notes = lock(&self.notes);
        let waits = |one: &Stale| notes.waiting.contains(one) || notes.running.contains(one);
        (!notes.waiting.is_empty() || !notes.running.is_empty()) && stale.iter().any(waits)
    }

    /// Ends what waits, after what is being ended, and forgives what was not seen.
    pub(in crate::firewall) fn carry_out(&self) {
        let mut conntrack = lock(&self.conntrack);
        let (running, unseen) = {
            let mut notes = lock(&self.notes);
            notes.running = std::mem::take(&mut notes.waiting);
            (notes.running.clone(), std::mem::take(&mut notes.unseen))
        };
        if !unseen.is_empty() {
            match self.revive(&mut conntrack).and_then(|()| conntrack.forgive(&unseen)) {
                Ok(forgiven) => tracing::debug!(forgiven, "connections go on that were not seen for a while"),
                Err(error) => tracing::warn!(%error, "connections that were not seen for a while may stand still"),
            }
        }
        if running.is_empty() {
            return;
        }
        let outcome = self.revive(&mut conntrack).and_then(|()| conntrack.end(&running));
        let mut notes = lock(&self.notes);
        notes.running.clear();
        // What is isolated is kept apart without conntrack, and entries of the dead time out: nothing is taken back.
        notes.finding = match outcome {
            Ok(ended) => {
                tracing::debug!(ended, "connections ended");
                None
            }
            Err(error) => {
                tracing::warn!(%error, "connections of what is gone could not be ended");
                Some(Finding {
                    code: "conntrack",
                    detail: format!("connections of containers or ports that are gone could not be ended: {error}"),
                    remedy: Some("conntrack -F".into()),
                })
            }
        };
    }

    /// What went wrong the last time.
    pub(in crate::firewall) fn finding(&self) -> Option<Finding> {
        lock(&self.notes).finding.clone()
    }

    fn revive(&self, conntrack: &mut Conntrack) -> Result<(), FirewallError> {
        if conntrack.is_silent() {
            let enter = |error| FirewallError::Guard(std::io::Error::other(error));
            *conntrack = self.netns.run_in(Conntrack::open).map_err(enter)??;
        }
        Ok(())
    }
}

/// A panic elsewhere does not make the notes wrong.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
