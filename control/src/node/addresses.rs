//! Addresses on request: given by `allocate_ip`, taken back by `release_ip`, and cleaned up behind.
//!
//! The book in memory decides, the store remembers. Each decision is put in line for the disk under the lock of the book,
//! so the disk has them in their order. Until one is there, an address that is given is nobody else's, and one that is
//! taken back is still in use; where the disk refuses, the book goes back to what it was.

use super::device::DeviceMaker;
use super::dispatch::Node;
use super::error::NodeError;
use super::host::Host;
use crate::ipam::{AddressBook, Lease as IpamLease, Place, ReleaseError};
use crate::ipc::wire::{Event, LeaseState};
use crate::state::{Lease, Pending, Transaction};
use std::net::IpAddr;
use std::sync::{MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

/// What the owner of an address begins with that was given on request. Only such addresses are taken back on request.
const ON_REQUEST: &str = "allocate_ip ";

/// What is between the service and whoever asked, where that was told.
const BY: char = '\n';

/// Who has an address that was given on request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Holder<'a> {
    pub(super) service: &'a str,
    pub(super) owner: Option<&'a str>,
}

impl<'a> Holder<'a> {
    /// Reads the owner of a lease; `None` where it was not given on request.
    pub(super) fn read(owner: &'a str) -> Option<Self> {
        let rest = owner.strip_prefix(ON_REQUEST)?;
        let (service, owner) = rest.split_once(BY).map_or((rest, None), |(service, owner)| (service, Some(owner)));
        Some(Self { service, owner })
    }

    fn write(&self) -> String {
        let Self { service, owner } = self;
        owner.map_or_else(|| format!("{ON_REQUEST}{service}"), |owner| format!("{ON_REQUEST}{service}{BY}{owner}"))
    }
}

impl<M: DeviceMaker, H: Host> Node<M, H> {
    /// Gives an address to whoever asks for `service`: from its subnet where it has one, else from the node's. An `owner`
    /// that has one is given the same again.
    pub(super) async fn allocate_ip(&self, service: &str, owner: Option<&str>) -> Result<IpAddr, NodeError> {
        let holder = Holder { service, owner }.write();
        // An owner that asks twice at once asks for one address.
        let _turn = match owner {
            Some(_) => Some(self.workload_orders.turn(&holder).await),
            None => None,
        };
        // The subnet is not to go meanwhile.
        let _stays = self.orders.share(service).await;
        if owner.is_some() {
            let book = self.addresses();
            let held = book.leases().find(|(ip, lease)| lease.owner == holder && !book.is_leaving(*ip));
            if let Some((ip, _)) = held {
                return Ok(ip);
            }
        }
        let place = self.bridge_of(service).map_or(Place::Node, |bridge| Place::Subnet(bridge.subnet));
        self.lease(place, holder).await
    }

    /// Takes back an address that was given on request, from its owner where that was told. One that nobody has is free
    /// already.
    pub(super) async fn release_ip(&self, ip: IpAddr, owner: Option<&str>) -> Result<(), NodeError> {
        let Some(lease) = self.addresses().lease(ip).cloned() else { return Ok(()) };
        match Holder::read(&lease.owner) {
            None => return Err(NodeError::LeaseOfOther { ip, owner: lease.owner }),
            Some(Holder { owner: Some(holder), .. }) if owner != Some(holder) => {
                return Err(NodeError::LeaseOfOwner { ip, owner: holder.to_owned() });
            }
            Some(_) => {}
        }
        match self.release(ip, &lease.owner, lease.generation).await {
            // Somebody else asked for the same.
            Err(NodeError::Release(ReleaseError::NotLeased(_))) => Ok(()),
            released => released,
        }
    }

    /// Leases an address of `place` to `owner`.
    pub(super) async fn lease(&self, place: Place, owner: String) -> Result<IpAddr, NodeError> {
        let (grant, pending) = {
            let mut book = self.addresses();
            let grant = book.allocate(place, owner.clone(), now_ms())?;
            let record = Lease {
                ip: grant.ip,
                owner: owner.clone(),
                generation: grant.generation,
                given_ms: now_ms(),
                released_ms: None,
            };
            match self.kit.store.enqueue(Transaction::new().put(record)) {
                Ok(pending) => (grant, pending),
                Err(error) => {
                    book.cancel(&grant);
                    return Err(error.into());
                }
            }
        };
        if let Err(error) = pending.done().await {
            self.addresses().cancel(&grant);
            return Err(error.into());
        }
        self.tell_lease(grant.ip, &owner, LeaseState::Leased);
        if grant.early {
            tracing::warn!(ip = %grant.ip, "an address is used again before it has rested: there is no other left");
        }
        Ok(grant.ip)
    }

    /// Tells what became of an address that `holder` has or had.
    pub(super) fn tell_lease(&self, ip: IpAddr, holder: &str, state: LeaseState) {
        let read = Holder::read(holder);
        self.kit.events.publish(Event::LeaseChanged {
            ip,
            state,
            service: read.map(|read| read.service.to_owned()),
            owner: read.map_or(Some(holder), |read| read.owner).map(str::to_owned),
        });
    }

    /// Takes an address back from `owner`, if it is still the lease of this generation.
    pub(super) async fn release(&self, ip: IpAddr, owner: &str, generation: u64) -> Result<(), NodeError> {
        let lease = IpamLease { owner: owner.to_owned(), generation };
        self.begin_releases(|_| vec![(ip, lease)], Transaction::new())?.finish(self).await
    }

    /// Begins to take the leases back that `which` selects, in one transaction with what else it says. Fails where one of
    /// them is not as told.
    pub(super) fn begin_releases(
        &self,
        which: impl FnOnce(&AddressBook) -> Vec<(IpAddr, IpamLease)>,
        mut transaction: Transaction,
    ) -> Result<Leaving, NodeError> {
        let now = now_ms();
        let mut book = self.addresses();
        let mut begun = Vec::new();
        let mut outcome = Ok(());
        for (ip, IpamLease { owner, generation }) in which(&book) {
            if let Err(error) = book.begin_release(ip, &owner, Some(generation)) {
                outcome = Err(error.into());
                break;
            }
            begun.push((ip, owner.clone()));
            let given_ms = self.kit.store.find::<Lease>(&ip.to_string()).map_or(0, |lease| lease.given_ms);
            transaction = transaction.put(Lease { ip, owner, generation, given_ms, released_ms: Some(now) });
        }
        let pending = outcome.and_then(|()| self.kit.store.enqueue(transaction).map_err(NodeError::from));
        match pending {
            Ok(pending) => Ok(Leaving { ips: begun, now, pending }),
            Err(error) => {
                begun.into_iter().for_each(|(ip, _)| book.call_off_release(ip));
                Err(error)
            }
        }
    }

    /// Forgets addresses that have rested, on disk and where no pool has them.
    pub(super) async fn tidy_addresses(&self) {
        let now = now_ms();
        let quarantine = u64::try_from(self.kit.tuning.quarantine.as_millis()).unwrap_or(u64::MAX);
        let pending = {
            // Whoever is given one of these is in line behind this.
            let mut book = self.addresses();
            book.tidy(now);
            let rested = |lease: &&Lease| lease.released_ms.is_some_and(|at| now.saturating_sub(at) >= quarantine);
            let ips: Vec<_> = self.kit.store.read(|tables| tables.all().filter(rested).map(|lease| lease.ip).collect());
            let gone = ips.into_iter().filter(|ip| book.lease(*ip).is_none());
            let transaction =
                gone.fold(Transaction::new(), |transaction, ip| transaction.delete::<Lease>(ip.to_string()));
            match transaction.is_empty() {
                true => return,
                false => self.kit.store.enqueue(transaction),
            }
        };
        let forgotten = match pending {
            Ok(pending) => pending.done().await,
            Err(error) => Err(error),
        };
        if let Err(error) = forgotten {
            tracing::debug!(%error, "released addresses stay in the state journal for now");
        }
    }

    pub(super) fn addresses(&self) -> MutexGuard<'_, AddressBook> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Addresses whose release is on its way to disk.
pub(super) struct Leaving {
    /// With their owners.
    ips: Vec<(IpAddr, String)>,
    now: u64,
    pending: Pending,
}

impl Leaving {
    /// Frees them once that is durable; where it cannot be, they stay with their owners.
    pub(super) async fn finish<M: DeviceMaker, H: Host>(self, node: &Node<M, H>) -> Result<(), NodeError> {
        self.stored(node).await?.free(node);
        Ok(())
    }

    /// Waits until that is durable; where it cannot be, they stay with their owners.
    pub(super) async fn stored<M: DeviceMaker, H: Host>(self, node: &Node<M, H>) -> Result<Left, NodeError> {
        if let Err(error) = self.pending.done().await {
            let mut book = node.addresses();
            self.ips.into_iter().for_each(|(ip, _)| book.call_off_release(ip));
            return Err(error.into());
        }
        Ok(Left { ips: self.ips, now: self.now })
    }
}

/// Addresses whose release is on disk. Nobody gets them before they are freed.
#[must_use]
pub(super) struct Left {
    ips: Vec<(IpAddr, String)>,
    now: u64,
}

impl Left {
    pub(super) fn free<M: DeviceMaker, H: Host>(self, node: &Node<M, H>) {
        {
            let mut book = node.addresses();
            self.ips.iter().for_each(|(ip, _)| book.finish_release(*ip, self.now));
        }
        self.ips.iter().for_each(|(ip, owner)| node.tell_lease(*ip, owner, LeaseState::Quarantined));
    }
}

/// Milliseconds of Unix time.
pub(super) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
