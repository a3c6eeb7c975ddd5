//! The firewall behind its lock: what is to be, what was sent for it, and the sockets.

use super::conntrack::Endings;
use super::desired::{Change, Desired};
use super::elements::{Net, stale, stale_for};
use super::error::FirewallError;
use super::foreign::{Openings, close};
use super::health::{Drops, Heal, Health};
use super::limits::{CHANGES_MAX, COMMIT_TRIES_MAX};
use super::nft::{Expression, Nft, NftError};
use super::reconcile::{Expected, Reconciled};
use super::ruleset::{DropReason, Place};
use super::state::State;
use crate::host::Netns;
use nix::sys::eventfd::EventFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

/// See the module.
#[derive(Debug)]
pub(super) struct Inner {
    instance: String,
    netns: Netns,
    nft: Nft,
    /// Port of `nft`, for the watch to know our own changes by.
    port: Arc<AtomicU32>,
    endings: Arc<Endings>,
    /// Tells the watch that connections are to end.
    wake: Arc<EventFd>,
    state: State,
    expected: Expected,
    /// Whether the rules were asked for at all.
    wanted: bool,
    stopped: bool,
    health: Health,
}

impl Inner {
    /// Opens the sockets in the network namespace of this thread.
    pub(super) fn open(instance: &str, wake: Arc<EventFd>, port: Arc<AtomicU32>) -> Result<Self, FirewallError> {
        let nft = Nft::open()?;
        port.store(nft.port(), Ordering::Release);
        let netns = Netns::current().map_err(|error| FirewallError::Guard(std::io::Error::other(error)))?;
        Ok(Self {
            instance: instance.into(),
            endings: Arc::new(Endings::open(netns.clone())?),
            wake,
            netns,
            nft,
            port,
            state: State::default(),
            expected: Expected::new(instance),
            wanted: false,
            stopped: false,
            health: Health::default(),
        })
    }

    pub(super) fn apply(&mut self, desired: &Desired) -> Result<bool, FirewallError> {
        self.check_running()?;
        let (state, edits) = State::of(desired)?;
        let mut expected = Expected::new(&self.instance);
        expected.edit(&edits);
        self.revive()?;
        let done = expected.reconcile(&mut self.nft)?;
        self.state = state;
        self.expected = expected;
        self.wanted = true;
        self.health.in_place = true;
        self.end_stale(&done.net);
        self.forgive_unseen(&done);
        self.look_at_others()?;
        Ok(done.is_change())
    }

    pub(super) fn change(&mut self, changes: Vec<Change>) -> Result<(), FirewallError> {
        self.check_running()?;
        if changes.len() > CHANGES_MAX {
            return Err(FirewallError::TooManyChanges(changes.len()));
        }
        self.revive()?;
        let (edits, inverses) = self.state.make_all(changes)?;
        let net = edits.net();
        self.expected.edit(&edits);
        match self.send(&net) {
            Ok(()) => {
                self.end_stale(&net);
                // Who comes to an address waits until the connections of who was there are gone.
                if self.endings.concern(&stale_for(&net)) {
                    self.endings.carry_out();
                }
                Ok(())
            }
            Err(error) => {
                self.expected.take_back(&edits);
                self.state.take_back(inverses);
                Err(error)
            }
        }
    }

    fn send(&mut self, net: &Net) -> Result<(), FirewallError> {
        if !self.wanted {
            self.reconcile()?;
            self.wanted = true;
            self.health.in_place = true;
            return self.look_at_others();
        }
        let batch = self.expected.batch(net);
        if batch.is_empty() {
            return Ok(());
        }
        for _ in 0..COMMIT_TRIES_MAX {
            let committed = self.nft.generation().and_then(|generation| self.nft.commit(&batch, Some(generation)));
            match committed {
                Ok(()) => return Ok(()),
                Err(NftError::Superseded) => {}
                // Most likely a set that is not there any more; at worst it is not known what was applied.
                Err(error) => {
                    tracing::debug!(%error, "a change was not taken; all is looked through");
                    self.reconcile()?;
                    return Ok(());
                }
            }
        }
        Err(FirewallError::Contended)
    }

    /// Looks whether all is as it should be and mends it. `since` is when that was doubted first.
    pub(super) fn heal(&mut self, since: Instant, culprit: Option<String>) -> Result<(), FirewallError> {
        if self.stopped || !self.wanted {
            return Ok(());
        }
        self.health.in_place = false;
        let done = self.reconcile()?;
        self.health.in_place = true;
        if done.is_change() {
            self.note_heal(&done, since, culprit);
        }
        Ok(())
    }

    fn note_heal(&mut self, done: &Reconciled, since: Instant, culprit: Option<String>) {
        let heal = Heal { culprit, took: since.elapsed() };
        let by = heal.culprit.as_deref().unwrap_or("somebody");
        tracing::warn!(by, took = ?heal.took, tables = done.built.len(), messages = done.messages, "the firewall was changed and is as before again");
        self.health.heals += 1;
        self.health.last_heal = Some(heal);
    }

    /// Makes the openings that are needed among the chains of others.
    pub(super) fn look_at_others(&mut self) -> Result<(), FirewallError> {
        if self.stopped || !self.wanted {
            return Ok(());
        }
        let openings = Openings::make(&mut self.nft, &self.instance, self.state.prefixes(), &self.netns)?;
        for finding in openings.findings.iter().filter(|finding| !self.health.findings.contains(finding)) {
            let remedy = finding.remedy.as_deref().unwrap_or("");
            tracing::warn!(code = finding.code, remedy, "{}", finding.detail);
        }
        self.health.openings = openings.open;
        self.health.others_forward = openings.others_forward;
        self.health.findings = openings.findings;
        Ok(())
    }

    /// Connections that are to end.
    pub(super) fn endings(&self) -> Arc<Endings> {
        Arc::clone(&self.endings)
    }

    /// The generation of the ruleset.
    pub(super) fn generation(&mut self) -> Result<u32, FirewallError> {
        Ok(self.nft.generation()?)
    }

    pub(super) fn health(&self) -> Health {
        let mut health = self.health.clone();
        health.findings.extend(self.endings.finding());
        health
    }

    pub(super) fn drops(&mut self) -> Result<Drops, FirewallError> {
        let mut drops: Drops = DropReason::ALL.map(|reason| (reason, 0)).into();
        if self.stopped || !self.wanted {
            return Ok(drops);
        }
        for place in Place::ALL {
            for rule in self.nft.rules(place.family(), self.expected.table(), None)? {
                let reason = rule.comment.as_deref().and_then(DropReason::of_comment);
                let counted = rule.expressions.iter().find_map(|expression| match expression {
                    Expression::Counter { packets, .. } => Some(*packets),
                    _ => None,
                });
                if let (Some(reason), Some(packets)) = (reason, counted) {
                    *drops.entry(reason).or_default() += packets;
                }
            }
        }
        Ok(drops)
    }

    /// Removes everything of ours.
    pub(super) fn stop(&mut self) -> Result<(), FirewallError> {
        if self.stopped {
            return Ok(());
        }
        self.revive()?;
        // The openings first: without our chains nothing sets the mark, but nothing vouches for it either.
        close(&mut self.nft, &self.instance)?;
        self.expected.remove(&mut self.nft)?;
        // Translations would go on without the rules that made them.
        self.endings.add(stale(&self.expected.all()));
        self.endings.carry_out();
        self.stopped = true;
        self.health = Health::default();
        Ok(())
    }

    /// Opens the socket anew that the kernel once did not answer. It stays in the namespace of the first.
    fn revive(&mut self) -> Result<(), FirewallError> {
        let enter = |error| FirewallError::Guard(std::io::Error::other(error));
        if self.nft.is_silent() {
            self.nft = self.netns.run_in(Nft::open).map_err(enter)??;
            self.port.store(self.nft.port(), Ordering::Release);
        }
        Ok(())
    }

    fn check_running(&self) -> Result<(), FirewallError> {
        if self.stopped { Err(FirewallError::Stopped) } else { Ok(()) }
    }

    /// Makes the rules what is expected.
    fn reconcile(&mut self) -> Result<Reconciled, FirewallError> {
        self.revive()?;
        let done = self.expected.reconcile(&mut self.nft)?;
        self.forgive_unseen(&done);
        Ok(done)
    }

    /// Has connections go on that were not followed while there were no rules.
    fn forgive_unseen(&self, done: &Reconciled) {
        if !done.built.is_empty() {
            self.endings.forgive(self.state.prefixes());
            let _ = self.wake.write(1);
        }
    }

    /// Has connections ended that a change leaves behind.
    fn end_stale(&self, net: &Net) {
        let stale = stale(net);
        if stale.is_empty() {
            return;
        }
        if self.endings.add(stale) {
            self.endings.carry_out();
        } else {
            // The counter is far from full.
            let _ = self.wake.write(1);
        }
    }
}
