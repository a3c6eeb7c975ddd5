//! The addresses of one prefix: which are in use, by whom, and which were until a moment ago.
//!
//! An address is in one of these states:
//!
//! ```text
//! fresh ──allocate──► leased ──release──► freed ──allocate, oldest first──► leased
//!   ▲                    │cancel            │ many wait and it has rested
//!   └────────────────────┴──────────────────┘                      excluded: never given
//! ```
//!
//! A release has two steps, between which the address is **leaving**: still in use, and nobody else can release it. So
//! the release can be brought to disk before anybody gets the address, and can be called off.
//!
//! Fresh ones are given first, the lowest before all others; then the one that was freed longest ago. So an address rests
//! as long as the pool allows. Where nothing else is left, one that has not rested for the quarantine is given **early**,
//! and the grant says so: to refuse would fail a start that the replaced daemon carries out, in pools as small as 13
//! addresses.

use super::hosts::{address, last, offset, overlap, usable};
use super::spans::Spans;
use ipnet::IpNet;
use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

/// How long a freed address rests: what ARP caches, conntrack entries of closed connections and cached names outlive
/// their subject by.
pub const QUARANTINE_MS: u64 = 60_000;

/// Freed addresses that are remembered in their order. A /16 that was used up has as many; beyond that, those that have
/// rested become fresh again and the order is lost, the rest is not.
const FREED_MAX: usize = 1 << 16;

/// An address that is in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Whose it is.
    pub owner: String,
    /// Which lease of the address it is; unique in its pool, and greater than that of any earlier.
    pub generation: u64,
}

/// An address that was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The address.
    pub ip: IpAddr,
    /// Which lease it is.
    pub generation: u64,
    /// It had not rested for the quarantine, and nothing else was left.
    pub early: bool,
    /// When it was freed before, if it was.
    freed_ms: Option<u64>,
}

/// Why an address was not given.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    /// All are in use.
    #[error("subnet {0} exhausted: every address is in use")]
    Exhausted(IpNet),
    /// The address is none of this pool, or is kept back.
    #[error("{ip} is no address for a workload in {prefix}")]
    Unusable {
        /// The address.
        ip: IpAddr,
        /// The prefix.
        prefix: IpNet,
    },
    /// Somebody has it.
    #[error("{ip} is in use by {owner}")]
    InUse {
        /// The address.
        ip: IpAddr,
        /// Whose it is.
        owner: String,
    },
    /// It was in use a moment ago.
    #[error("{ip} was in use until {secs} s ago and rests: choose another or wait")]
    Resting {
        /// The address.
        ip: IpAddr,
        /// Since when.
        secs: u64,
    },
}

/// Why an address was not freed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReleaseError {
    /// Nobody has it.
    #[error("{0} is not in use")]
    NotLeased(IpAddr),
    /// Somebody else has it.
    #[error("{ip} is in use by {owner}, who has to give it back")]
    NotYours {
        /// The address.
        ip: IpAddr,
        /// Whose it is.
        owner: String,
    },
}

#[derive(Clone, Debug)]
enum Slot {
    Leased(Lease),
    /// Being released.
    Leaving(Lease),
    /// `turn` names its entry in the queue.
    Freed {
        turn: u64,
        at_ms: u64,
    },
}

/// Whether `owner` may release the lease of this generation.
pub(super) fn check_owner(ip: IpAddr, lease: &Lease, owner: &str, generation: Option<u64>) -> Result<(), ReleaseError> {
    match lease.owner == owner && generation.is_none_or(|generation| generation == lease.generation) {
        true => Ok(()),
        false => Err(ReleaseError::NotYours { ip, owner: lease.owner.clone() }),
    }
}

/// Addresses of a prefix. Time is given in milliseconds; should it go back, what was freed rests the longer.
#[derive(Clone, Debug)]
pub struct Pool {
    prefix: IpNet,
    quarantine_ms: u64,
    fresh: Spans,
    excluded: Spans,
    slots: HashMap<u128, Slot>,
    leased: usize,
    /// Freed addresses, the oldest first. Entries whose address was taken meanwhile are dead: their turn is not that of
    /// the slot.
    freed: VecDeque<(u64, u128)>,
    next_turn: u64,
    last_generation: u64,
}

impl Pool {
    /// A pool of all host addresses of `prefix`, in which freed ones rest for `quarantine_ms`.
    #[must_use]
    pub fn new(prefix: IpNet, quarantine_ms: u64) -> Self {
        let prefix = prefix.trunc();
        let mut fresh = Spans::default();
        fresh.insert(usable(prefix));
        let mut excluded = Spans::default();
        if *usable(prefix).start() > 0 {
            excluded.insert(0..=0);
        }
        if *usable(prefix).end() < last(prefix) {
            excluded.insert(last(prefix)..=last(prefix));
        }
        Self {
            prefix,
            quarantine_ms,
            fresh,
            excluded,
            slots: HashMap::new(),
            leased: 0,
            freed: VecDeque::new(),
            next_turn: 0,
            last_generation: 0,
        }
    }

    /// Its prefix.
    #[must_use]
    pub fn prefix(&self) -> IpNet {
        self.prefix
    }

    /// Addresses in use.
    #[must_use]
    pub fn leased(&self) -> usize {
        self.leased
    }

    /// Addresses that could be given, resting ones included; `u128::MAX` also for one more.
    #[must_use]
    pub fn available(&self) -> u128 {
        self.fresh.count().saturating_add((self.slots.len() - self.leased) as u128)
    }

    /// The lease of an address.
    #[must_use]
    pub fn lease(&self, ip: IpAddr) -> Option<&Lease> {
        match self.slots.get(&offset(self.prefix, ip)?)? {
            Slot::Leased(lease) | Slot::Leaving(lease) => Some(lease),
            Slot::Freed { .. } => None,
        }
    }

    /// All leases, in no order.
    pub fn leases(&self) -> impl Iterator<Item = (IpAddr, &Lease)> {
        self.slots.iter().filter_map(|(number, slot)| match slot {
            Slot::Leased(lease) | Slot::Leaving(lease) => Some((address(self.prefix, *number), lease)),
            Slot::Freed { .. } => None,
        })
    }

    /// Freed addresses that are remembered, and when they were freed, in no order.
    pub fn freed(&self) -> impl Iterator<Item = (IpAddr, u64)> {
        self.slots.iter().filter_map(|(number, slot)| match slot {
            Slot::Freed { at_ms, .. } => Some((address(self.prefix, *number), *at_ms)),
            Slot::Leased(_) | Slot::Leaving(_) => None,
        })
    }

    /// Gives `owner` an address.
    ///
    /// # Errors
    /// [`PoolError::Exhausted`].
    pub fn allocate(&mut self, owner: impl Into<String>, now_ms: u64) -> Result<Grant, PoolError> {
        if let Some(number) = self.fresh.pop_first() {
            return Ok(self.give(number, owner.into(), now_ms, None));
        }
        while let Some((turn, number)) = self.freed.pop_front() {
            if let Some(at_ms) = self.freed_at(number, turn) {
                return Ok(self.give(number, owner.into(), now_ms, Some(at_ms)));
            }
        }
        Err(PoolError::Exhausted(self.prefix))
    }

    /// Gives `owner` this very address.
    ///
    /// # Errors
    /// [`PoolError`], saying why it cannot be had.
    pub fn allocate_at(&mut self, ip: IpAddr, owner: impl Into<String>, now_ms: u64) -> Result<Grant, PoolError> {
        let number = self.number(ip)?;
        match self.slots.get(&number) {
            None => {
                self.fresh.remove(number..=number);
                Ok(self.give(number, owner.into(), now_ms, None))
            }
            Some(Slot::Leased(lease) | Slot::Leaving(lease)) => {
                Err(PoolError::InUse { ip, owner: lease.owner.clone() })
            }
            Some(Slot::Freed { at_ms, .. }) => {
                let (at_ms, rested_ms) = (*at_ms, now_ms.saturating_sub(*at_ms));
                if rested_ms < self.quarantine_ms {
                    return Err(PoolError::Resting { ip, secs: rested_ms / 1000 });
                }
                Ok(self.give(number, owner.into(), now_ms, Some(at_ms)))
            }
        }
    }

    /// Undoes a grant of which nobody was told: the address is what it was.
    pub fn cancel(&mut self, grant: &Grant) {
        let Some(number) = offset(self.prefix, grant.ip) else { return };
        let Some(Slot::Leased(lease)) = self.slots.get(&number) else { return };
        if lease.generation != grant.generation {
            return;
        }
        self.leased -= 1;
        self.slots.remove(&number);
        if self.excluded.contains(number..=number) {
            return;
        }
        match grant.freed_ms {
            None => self.fresh.insert(number..=number),
            Some(at_ms) => {
                let turn = self.turn();
                self.slots.insert(number, Slot::Freed { turn, at_ms });
                self.freed.push_front((turn, number));
            }
        }
    }

    /// Begins to take the address back from `owner`: see [`Pool::finish_release`], [`Pool::call_off_release`].
    /// `generation` is that of the lease meant; without one the owner is enough. Returns the generation.
    ///
    /// # Errors
    /// [`ReleaseError`]; one that is leaving is not in use.
    pub fn begin_release(&mut self, ip: IpAddr, owner: &str, generation: Option<u64>) -> Result<u64, ReleaseError> {
        let number = offset(self.prefix, ip).ok_or(ReleaseError::NotLeased(ip))?;
        let slot = self.slots.get_mut(&number).ok_or(ReleaseError::NotLeased(ip))?;
        let Slot::Leased(lease) = slot else { return Err(ReleaseError::NotLeased(ip)) };
        check_owner(ip, lease, owner, generation)?;
        let lease = lease.clone();
        let generation = lease.generation;
        *slot = Slot::Leaving(lease);
        Ok(generation)
    }

    /// The address is free from now on.
    pub fn finish_release(&mut self, ip: IpAddr, now_ms: u64) {
        if let Some(number) = offset(self.prefix, ip)
            && matches!(self.slots.get(&number), Some(Slot::Leaving(_)))
        {
            self.slots.remove(&number);
            self.leased -= 1;
            self.rest(number, now_ms);
            self.forget_rested(now_ms);
        }
    }

    /// Whether a release of the address has begun and not ended.
    #[must_use]
    pub fn is_leaving(&self, ip: IpAddr) -> bool {
        let slot = offset(self.prefix, ip).and_then(|number| self.slots.get(&number));
        matches!(slot, Some(Slot::Leaving(_)))
    }

    /// The address stays with its owner.
    pub fn call_off_release(&mut self, ip: IpAddr) {
        if let Some(slot) = offset(self.prefix, ip).and_then(|number| self.slots.get_mut(&number))
            && let Slot::Leaving(lease) = slot
        {
            *slot = Slot::Leased(lease.clone());
        }
    }

    /// Takes the address back from `owner` in one step; see [`Pool::begin_release`].
    ///
    /// # Errors
    /// [`ReleaseError`].
    pub fn release(
        &mut self,
        ip: IpAddr,
        owner: &str,
        generation: Option<u64>,
        now_ms: u64,
    ) -> Result<(), ReleaseError> {
        self.begin_release(ip, owner, generation)?;
        self.finish_release(ip, now_ms);
        Ok(())
    }

    /// Takes over a lease from before this pool was made. An address that cannot be in the pool, or is leased in it
    /// already, is not taken: `false`.
    pub fn restore(&mut self, ip: IpAddr, lease: Lease) -> bool {
        let Some(number) = offset(self.prefix, ip) else { return false };
        if matches!(self.slots.get(&number), Some(Slot::Leased(_) | Slot::Leaving(_))) {
            return false;
        }
        self.fresh.remove(number..=number);
        self.last_generation = self.last_generation.max(lease.generation);
        self.slots.insert(number, Slot::Leased(lease));
        self.leased += 1;
        true
    }

    /// Takes over an address that was freed at `at_ms`. To be called in the order of these times. One that is leased
    /// stays so.
    pub fn restore_freed(&mut self, ip: IpAddr, generation: u64, at_ms: u64) {
        self.last_generation = self.last_generation.max(generation);
        if let Ok(number) = self.number(ip)
            && !matches!(self.slots.get(&number), Some(Slot::Leased(_) | Slot::Leaving(_)))
        {
            self.fresh.remove(number..=number);
            self.rest(number, at_ms);
        }
    }

    /// Keeps the addresses of `subnet` back. Those in use stay so until they are released.
    pub fn exclude(&mut self, subnet: IpNet) {
        let Some(range) = overlap(self.prefix, subnet) else { return };
        self.slots.retain(|number, slot| !range.contains(number) || !matches!(slot, Slot::Freed { .. }));
        self.fresh.remove(range.clone());
        self.excluded.insert(range);
    }

    /// Ends that. Base and broadcast address stay back.
    pub fn include(&mut self, subnet: IpNet) {
        let Some(range) = overlap(self.prefix, subnet) else { return };
        let (first, last) = usable(self.prefix).into_inner();
        let (first, last) = (first.max(*range.start()), last.min(*range.end()));
        if first > last {
            return;
        }
        self.excluded.remove(first..=last);
        self.fresh.insert(first..=last);
        for number in self.slots.keys() {
            self.fresh.remove(*number..=*number);
        }
    }

    #[cfg(test)]
    pub(super) fn queue_len(&self) -> usize {
        self.freed.len()
    }

    /// The number of an address that may be given.
    fn number(&self, ip: IpAddr) -> Result<u128, PoolError> {
        offset(self.prefix, ip)
            .filter(|number| !self.excluded.contains(*number..=*number))
            .ok_or(PoolError::Unusable { ip, prefix: self.prefix })
    }

    fn give(&mut self, number: u128, owner: String, now_ms: u64, freed_ms: Option<u64>) -> Grant {
        // The clock makes it greater than those before a restart whose leases are long forgotten.
        self.last_generation = now_ms.max(self.last_generation + 1);
        let generation = self.last_generation;
        self.slots.insert(number, Slot::Leased(Lease { owner, generation }));
        self.leased += 1;
        let early = freed_ms.is_some_and(|at_ms| now_ms.saturating_sub(at_ms) < self.quarantine_ms);
        Grant { ip: address(self.prefix, number), generation, early, freed_ms }
    }

    fn rest(&mut self, number: u128, at_ms: u64) {
        if self.excluded.contains(number..=number) {
            return;
        }
        let turn = self.turn();
        self.slots.insert(number, Slot::Freed { turn, at_ms });
        self.freed.push_back((turn, number));
        // Entries die when addresses are taken by name; a queue of mostly dead ones is cleaned.
        if self.freed.len() > 64 + 2 * (self.slots.len() - self.leased) {
            let slots = &self.slots;
            self.freed.retain(
                |(turn, number)| matches!(slots.get(number), Some(Slot::Freed { turn: held, .. }) if held == turn),
            );
        }
    }

    fn forget_rested(&mut self, now_ms: u64) {
        while self.freed.len() > FREED_MAX
            && let Some(&(turn, number)) = self.freed.front()
        {
            match self.freed_at(number, turn) {
                Some(at_ms) if now_ms.saturating_sub(at_ms) < self.quarantine_ms => return,
                Some(_) => {
                    self.slots.remove(&number);
                    self.fresh.insert(number..=number);
                }
                None => {}
            }
            self.freed.pop_front();
        }
    }

    /// When the address was freed, if the entry of this turn is the living one.
    fn freed_at(&self, number: u128, turn: u64) -> Option<u64> {
        match self.slots.get(&number) {
            Some(Slot::Freed { turn: held, at_ms }) if *held == turn => Some(*at_ms),
            _ => None,
        }
    }

    fn turn(&mut self) -> u64 {
        self.next_turn += 1;
        self.next_turn
    }
}
