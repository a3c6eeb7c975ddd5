//! All addresses of a node: the pool of the node itself, a pool for each subnet with a bridge, and the registry of those
//! subnets, kept from getting in each other's way.
//!
//! Without a slice the node draws from the whole cluster. Then the subnets of services are kept out of its pool, and a
//! subnet from which the node has drawn already is not given to a service.
//!
//! Leases outlive the pool they came from: when the slice changes or a subnet goes, they stay with their owners, and
//! freed ones go on resting in whatever pool has them next.

use super::hosts;
use super::pool::{Grant, Lease, Pool, PoolError, ReleaseError, check_owner};
use super::subnets::{SubnetError, SubnetRegistry};
use ipnet::IpNet;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

/// Where an address comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// The pool of the node.
    Node,
    /// This subnet.
    Subnet(IpNet),
}

/// A lease without a pool, or a freed address without one.
#[derive(Clone, Debug)]
struct Stray {
    lease: Lease,
    /// It is being released.
    leaving: bool,
    freed_ms: Option<u64>,
}

impl Stray {
    fn freed(at_ms: u64) -> Self {
        Self { lease: Lease { owner: String::new(), generation: 0 }, leaving: false, freed_ms: Some(at_ms) }
    }
}

/// The addresses of a node.
#[derive(Clone, Debug)]
pub struct AddressBook {
    quarantine_ms: u64,
    node: Pool,
    node_ip: Option<IpAddr>,
    subnets: BTreeMap<IpNet, Pool>,
    registry: SubnetRegistry,
    strays: HashMap<IpAddr, Stray>,
}

impl AddressBook {
    /// The addresses of a node in `cluster` with `slice` as its own; freed ones rest for `quarantine_ms`.
    #[must_use]
    pub fn new(cluster: IpNet, slice: Option<IpNet>, quarantine_ms: u64) -> Self {
        let (node, node_ip) = node_pool(cluster, slice, quarantine_ms);
        let registry = SubnetRegistry::new(cluster, reserved(slice, node_ip));
        Self { quarantine_ms, node, node_ip, subnets: BTreeMap::new(), registry, strays: HashMap::new() }
    }

    /// Moves the node to another slice or cluster. Leases stay; repeating it changes nothing.
    ///
    /// # Errors
    /// The subnet of a service that holds the address the node would get; nothing has changed then.
    pub fn move_node(&mut self, cluster: IpNet, slice: Option<IpNet>) -> Result<(), IpNet> {
        let (node, node_ip) = node_pool(cluster, slice, self.quarantine_ms);
        if let Some(taken) = self.subnets.keys().find(|subnet| node_ip.is_some_and(|ip| subnet.contains(&ip))) {
            return Err(*taken);
        }
        self.registry.move_to(cluster, reserved(slice, node_ip));
        if node.prefix() == self.node.prefix() {
            return Ok(());
        }
        let former = std::mem::replace(&mut self.node, node);
        self.node_ip = node_ip;
        for subnet in self.subnets.keys() {
            self.node.exclude(*subnet);
        }
        self.set_free(former);
        self.take_in(Place::Node);
        Ok(())
    }

    /// The address of the node itself.
    #[must_use]
    pub fn node_ip(&self) -> Option<IpAddr> {
        self.node_ip
    }

    /// Assigns a subnet to a service on a node, or names the one it has. [`AddressBook::open`] makes it usable. What is
    /// `elsewhere`, the prefixes of other nodes, is kept clear of while there is room: every node chooses for itself, by
    /// a hash, and two choices may meet. A prefix as wide as the cluster says nothing about who has what in it.
    ///
    /// # Errors
    /// [`SubnetError`].
    pub fn assign(&mut self, service: &str, node: u64, elsewhere: &[IpNet]) -> Result<IpNet, SubnetError> {
        let own = &self.node;
        let unused = |subnet: IpNet| !own.leases().any(|(ip, _)| subnet.contains(&ip));
        let cluster_len = self.registry.cluster().prefix_len();
        let narrow = elsewhere.iter().filter(|prefix| prefix.prefix_len() > cluster_len);
        let clear = |subnet| narrow.clone().all(|prefix| hosts::overlap(*prefix, subnet).is_none());
        match self.registry.assign(service, node, |subnet| unused(subnet) && clear(subnet)) {
            Err(SubnetError::Full(_)) => self.registry.assign(service, node, unused),
            other => other,
        }
    }

    /// Takes over what was assigned before.
    pub fn restore_subnet(&mut self, service: &str, node: u64, subnet: IpNet) {
        self.registry.restore(service, node, subnet);
    }

    /// Gives addresses of `subnet` out from now on, but `gateway`.
    pub fn open(&mut self, subnet: IpNet, gateway: IpAddr) {
        if self.subnets.contains_key(&subnet) {
            return;
        }
        let mut pool = Pool::new(subnet, self.quarantine_ms);
        pool.exclude(gateway.into());
        self.subnets.insert(subnet, pool);
        let freed = self.node.freed().filter(|(ip, _)| subnet.contains(ip));
        self.strays.extend(freed.map(|(ip, at_ms)| (ip, Stray::freed(at_ms))));
        self.node.exclude(subnet);
        self.take_in(Place::Subnet(subnet));
    }

    /// Ends the subnet of a service on a node. Leases in it stay with their owners.
    pub fn close(&mut self, service: &str, node: u64) {
        let Some(subnet) = self.registry.release(service, node) else { return };
        let Some(pool) = self.subnets.remove(&subnet) else { return };
        self.node.include(subnet);
        self.set_free(pool);
        self.take_in(Place::Node);
    }

    /// Gives `owner` an address.
    ///
    /// # Errors
    /// [`PoolError`]; a subnet that is not open is exhausted.
    pub fn allocate(&mut self, place: Place, owner: impl Into<String>, now_ms: u64) -> Result<Grant, PoolError> {
        match place {
            Place::Node => self.node.allocate(owner, now_ms),
            Place::Subnet(subnet) => {
                self.subnets.get_mut(&subnet).ok_or(PoolError::Exhausted(subnet))?.allocate(owner, now_ms)
            }
        }
    }

    /// Gives `owner` this address.
    ///
    /// # Errors
    /// [`PoolError`] where it is not free, or none of `place`.
    pub fn allocate_at(
        &mut self,
        place: Place,
        ip: IpAddr,
        owner: impl Into<String>,
        now_ms: u64,
    ) -> Result<Grant, PoolError> {
        let pool = match place {
            Place::Node => &mut self.node,
            Place::Subnet(subnet) => self.subnets.get_mut(&subnet).ok_or(PoolError::Exhausted(subnet))?,
        };
        pool.allocate_at(ip, owner, now_ms)
    }

    /// Whether an address is given out from `place`.
    #[must_use]
    pub fn is_in(&self, place: Place, ip: IpAddr) -> bool {
        self.place_of(ip) == Some(place)
    }

    /// Undoes a grant of which nobody was told.
    pub fn cancel(&mut self, grant: &Grant) {
        if let Some(pool) = self.pool_mut(grant.ip) {
            pool.cancel(grant);
        }
    }

    /// The lease of an address.
    #[must_use]
    pub fn lease(&self, ip: IpAddr) -> Option<&Lease> {
        match self.pool(ip) {
            Some(pool) => pool.lease(ip),
            None => self.strays.get(&ip).filter(|stray| stray.freed_ms.is_none()).map(|stray| &stray.lease),
        }
    }

    /// All leases, in no order.
    pub fn leases(&self) -> impl Iterator<Item = (IpAddr, &Lease)> {
        let strays = self.strays.iter().filter(|(_, stray)| stray.freed_ms.is_none());
        let pools = self.subnets.values().chain([&self.node]);
        pools.flat_map(Pool::leases).chain(strays.map(|(ip, stray)| (*ip, &stray.lease)))
    }

    /// Begins to take the address back from `owner`: see [`AddressBook::finish_release`]. `generation` is that of the lease
    /// meant; without one the owner is enough. Returns the generation.
    ///
    /// # Errors
    /// [`ReleaseError`]; one that is leaving already is not in use.
    pub fn begin_release(&mut self, ip: IpAddr, owner: &str, generation: Option<u64>) -> Result<u64, ReleaseError> {
        if let Some(pool) = self.pool_mut(ip) {
            return pool.begin_release(ip, owner, generation);
        }
        let stray = self.strays.get_mut(&ip).filter(|stray| stray.freed_ms.is_none() && !stray.leaving);
        let stray = stray.ok_or(ReleaseError::NotLeased(ip))?;
        check_owner(ip, &stray.lease, owner, generation)?;
        stray.leaving = true;
        Ok(stray.lease.generation)
    }

    /// The address is free from now on, and rests.
    pub fn finish_release(&mut self, ip: IpAddr, now_ms: u64) {
        match self.pool_mut(ip) {
            Some(pool) => pool.finish_release(ip, now_ms),
            None => {
                if let Some(stray) = self.strays.get_mut(&ip).filter(|stray| stray.leaving) {
                    (stray.leaving, stray.freed_ms) = (false, Some(now_ms));
                }
            }
        }
    }

    /// Whether a release of the address has begun and not ended.
    #[must_use]
    pub fn is_leaving(&self, ip: IpAddr) -> bool {
        match self.pool(ip) {
            Some(pool) => pool.is_leaving(ip),
            None => self.strays.get(&ip).is_some_and(|stray| stray.leaving),
        }
    }

    /// The address stays with its owner.
    pub fn call_off_release(&mut self, ip: IpAddr) {
        match self.pool_mut(ip) {
            Some(pool) => pool.call_off_release(ip),
            None => {
                if let Some(stray) = self.strays.get_mut(&ip) {
                    stray.leaving = false;
                }
            }
        }
    }

    /// Takes the address back from `owner` in one step; see [`AddressBook::begin_release`].
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

    /// Takes over a lease, or an address that was freed at `freed_ms`, from before this book was made. To be called when
    /// slice and subnets are what they were, freed addresses in the order of their times.
    pub fn restore(&mut self, ip: IpAddr, lease: Lease, freed_ms: Option<u64>) {
        let taken = match (self.pool_mut(ip), freed_ms) {
            (Some(pool), None) => pool.restore(ip, lease.clone()),
            (Some(pool), Some(at_ms)) => {
                pool.restore_freed(ip, lease.generation, at_ms);
                true
            }
            (None, _) => false,
        };
        if !taken {
            self.strays.insert(ip, Stray { lease, leaving: false, freed_ms });
        }
    }

    /// Forgets addresses without a pool that have rested.
    pub fn tidy(&mut self, now_ms: u64) {
        let quarantine_ms = self.quarantine_ms;
        let rests = |at_ms: u64| now_ms.saturating_sub(at_ms) < quarantine_ms;
        self.strays.retain(|_, stray| stray.freed_ms.is_none_or(rests));
    }

    /// Pools for those who look: each with its place.
    pub fn pools(&self) -> impl Iterator<Item = (Place, &Pool)> {
        let subnets = self.subnets.iter().map(|(subnet, pool)| (Place::Subnet(*subnet), pool));
        std::iter::once((Place::Node, &self.node)).chain(subnets)
    }

    fn pool(&self, ip: IpAddr) -> Option<&Pool> {
        match self.subnet_of(ip) {
            Some(subnet) => self.subnets.get(&subnet),
            None => Some(&self.node).filter(|node| node.prefix().contains(&ip)),
        }
    }

    fn pool_mut(&mut self, ip: IpAddr) -> Option<&mut Pool> {
        match self.subnet_of(ip) {
            Some(subnet) => self.subnets.get_mut(&subnet),
            None => Some(&mut self.node).filter(|node| node.prefix().contains(&ip)),
        }
    }

    /// The open subnet an address is in. They do not overlap, so it is the last that begins at or before it.
    fn subnet_of(&self, ip: IpAddr) -> Option<IpNet> {
        let (subnet, _) = self.subnets.range(..=IpNet::from(ip)).next_back()?;
        subnet.contains(&ip).then_some(*subnet)
    }

    /// Makes strays of what `pool` held.
    fn set_free(&mut self, pool: Pool) {
        let stray = |ip, lease: &Lease| Stray { lease: lease.clone(), leaving: pool.is_leaving(ip), freed_ms: None };
        let leases = pool.leases().map(|(ip, lease)| (ip, stray(ip, lease)));
        self.strays.extend(leases);
        self.strays.extend(pool.freed().map(|(ip, at_ms)| (ip, Stray::freed(at_ms))));
    }

    /// Takes the strays in that belong to the pool of `place`.
    fn take_in(&mut self, place: Place) {
        let mut found: Vec<_> = self.strays.keys().copied().filter(|ip| self.place_of(*ip) == Some(place)).collect();
        found.sort_by_key(|ip| self.strays.get(ip).and_then(|stray| stray.freed_ms));
        for ip in found {
            if let Some(Stray { lease, leaving, freed_ms }) = self.strays.remove(&ip) {
                let (owner, generation) = (lease.owner.clone(), lease.generation);
                self.restore(ip, lease, freed_ms);
                if leaving {
                    // It was just taken in as this lease.
                    let _ = self.begin_release(ip, &owner, Some(generation));
                }
            }
        }
    }

    fn place_of(&self, ip: IpAddr) -> Option<Place> {
        let node = || self.node.prefix().contains(&ip).then_some(Place::Node);
        self.subnet_of(ip).map(Place::Subnet).or_else(node)
    }
}

/// The pool of a node, without its own address, which is behind the base.
fn node_pool(cluster: IpNet, slice: Option<IpNet>, quarantine_ms: u64) -> (Pool, Option<IpAddr>) {
    let own = slice.unwrap_or(cluster).trunc();
    let mut pool = Pool::new(own, quarantine_ms);
    let node_ip = super::hosts::first_behind_base(own);
    pool.exclude(own.network().into());
    if let Some(ip) = node_ip {
        pool.exclude(ip.into());
    }
    (pool, node_ip)
}

/// What service subnets must not overlap.
fn reserved(slice: Option<IpNet>, node_ip: Option<IpAddr>) -> Vec<IpNet> {
    slice.into_iter().chain(node_ip.map(IpNet::from)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUARANTINE: u64 = 1000;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn take(book: &mut AddressBook, place: Place) -> String {
        book.allocate(place, "me", 0).unwrap().ip.to_string()
    }

    /// Sets a service up as the node does.
    fn set_up(book: &mut AddressBook, service: &str) -> IpNet {
        let subnet = book.assign(service, 0, &[]).unwrap();
        book.open(subnet, super::super::first_behind_base(subnet).unwrap());
        subnet
    }

    #[test]
    fn the_node_has_its_slice_and_services_their_subnets() {
        for (cluster, slice, own, behind) in [
            ("10.200.0.0/16", "10.200.5.0/28", "10.200.5.2", "10.200.187.130"),
            ("fd00:77::/48", "fd00:77:0:5::/64", "fd00:77:0:5::2", "fd00:77:0:c9a3:beef::"),
        ] {
            let mut book = AddressBook::new(net(cluster), Some(net(slice)), QUARANTINE);
            assert_eq!(take(&mut book, Place::Node), own);
            let subnet = set_up(&mut book, "web");
            let got = take(&mut book, Place::Subnet(subnet));
            assert_eq!(got, super::super::hosts::address(subnet, 2).to_string());
            if cluster.contains('.') {
                assert_eq!(got, behind);
            }
            assert!(book.lease(ip(own)).is_some() && book.lease(ip(&got)).is_some());
        }
    }

    #[test]
    fn the_slice_is_kept_free_of_services_and_the_other_way_round() {
        // The slot of (web, 0) lies in this slice, not around its first address.
        let mut book = AddressBook::new(net("10.200.0.0/16"), Some(net("10.200.128.0/18")), QUARANTINE);
        let subnet = set_up(&mut book, "web");
        assert_eq!(subnet, net("10.200.192.0/26"));
        // Without a slice the node draws from the whole cluster: around the subnets of services.
        let mut book = AddressBook::new(net("10.200.0.0/24"), None, QUARANTINE);
        let subnets: Vec<_> = ["a", "b"].map(|service| set_up(&mut book, service)).into();
        let mut drawn = Vec::new();
        while let Ok(grant) = book.allocate(Place::Node, "me", 0) {
            assert!(!subnets.iter().any(|subnet| subnet.contains(&grant.ip)), "{}", grant.ip);
            drawn.push(grant.ip);
        }
        assert_eq!(drawn.len(), 254 - 1 - 128 + usize::from(subnets.contains(&net("10.200.0.192/26"))));
        assert!(book.assign("c", 0, &[]).is_err(), "the node has drawn from the other two");
    }

    #[test]
    fn a_service_keeps_clear_of_other_nodes_while_there_is_room() {
        let mut book = AddressBook::new(net("10.200.0.0/16"), Some(net("10.200.5.0/28")), QUARANTINE);
        let published = book.assign("web", 0, &[]).unwrap();
        book.close("web", 0);
        let elsewhere = [published, net("10.200.0.0/16"), net("fd00::/64")];
        let moved = book.assign("web", 0, &elsewhere).unwrap();
        assert_ne!(moved, published);
        // What is assigned stays, whoever comes to it later.
        assert_eq!(book.assign("web", 0, &[moved]), Ok(moved));
        let halves = [net("10.200.0.0/17"), net("10.200.128.0/17")];
        assert!(book.assign("db", 0, &halves).is_ok(), "a full cluster is shared");
    }

    #[test]
    fn leases_survive_a_move_of_the_node_and_are_not_given_again() {
        let cluster = net("10.200.0.0/16");
        let mut book = AddressBook::new(cluster, Some(net("10.200.5.0/28")), QUARANTINE);
        let first = book.allocate(Place::Node, "a", 0).unwrap();
        let second = book.allocate(Place::Node, "b", 0).unwrap();
        // What a restarted orchestrator sends again.
        book.move_node(cluster, Some(net("10.200.5.0/28"))).unwrap();
        assert_eq!(take(&mut book, Place::Node), "10.200.5.4");
        book.move_node(cluster, Some(net("10.200.6.0/28"))).unwrap();
        assert_eq!(take(&mut book, Place::Node), "10.200.6.2");
        assert_eq!(book.lease(first.ip).unwrap().owner, "a");
        book.release(first.ip, "a", None, 10).unwrap();
        assert!(book.lease(first.ip).is_none());
        assert_eq!(book.release(first.ip, "a", None, 10), Err(ReleaseError::NotLeased(first.ip)));
        book.move_node(cluster, Some(net("10.200.5.0/24"))).unwrap();
        assert_eq!(book.lease(second.ip).unwrap().owner, "b");
        assert_eq!(take(&mut book, Place::Node), "10.200.5.5");
        // What was freed as a stray rests in the pool that has it now.
        let early: Vec<_> =
            std::iter::from_fn(|| book.allocate(Place::Node, "c", 20).ok()).filter(|g| g.early).collect();
        assert_eq!(early.iter().map(|grant| grant.ip).collect::<Vec<_>>(), [first.ip]);
        book.move_node(cluster, Some(net("10.200.7.0/28"))).unwrap();
        book.release(first.ip, "c", None, 30).unwrap();
        book.tidy(30 + QUARANTINE);
        assert!(!book.strays.contains_key(&first.ip) && book.strays.contains_key(&second.ip));
    }

    #[test]
    fn a_release_in_progress_survives_a_move_and_nobody_else_can_begin_one() {
        let cluster = net("10.200.0.0/16");
        let slices = ["10.200.6.0/28", "10.200.5.0/24", "10.200.5.0/28"].map(|slice| Some(net(slice)));
        let mut book = AddressBook::new(cluster, slices[2], QUARANTINE);
        let grants = ["a", "b"].map(|owner| book.allocate(Place::Node, owner, 0).unwrap());
        for (grant, owner) in grants.iter().zip(["a", "b"]) {
            assert_eq!(book.begin_release(grant.ip, owner, Some(grant.generation)), Ok(grant.generation));
        }
        for slice in slices {
            book.move_node(cluster, slice).unwrap();
            for (grant, owner) in grants.iter().zip(["a", "b"]) {
                assert_eq!(book.begin_release(grant.ip, owner, None), Err(ReleaseError::NotLeased(grant.ip)));
                assert_eq!(book.lease(grant.ip).unwrap().owner, owner, "in use until the end");
            }
        }
        book.finish_release(grants[0].ip, 5);
        book.call_off_release(grants[1].ip);
        assert!(book.lease(grants[0].ip).is_none());
        assert!(book.begin_release(grants[1].ip, "b", None).is_ok());
    }

    #[test]
    fn a_service_that_comes_back_has_its_subnet_and_no_address_before_its_time() {
        for slice in [None, Some(net("10.200.5.0/28"))] {
            let mut book = AddressBook::new(net("10.200.0.0/16"), slice, QUARANTINE);
            let subnet = set_up(&mut book, "web");
            let grant = book.allocate(Place::Subnet(subnet), "x", 0).unwrap();
            book.release(grant.ip, "x", Some(grant.generation), 5).unwrap();
            book.close("web", 0);
            assert!(book.allocate(Place::Subnet(subnet), "x", 6).is_err());
            assert_eq!(set_up(&mut book, "web"), subnet);
            assert_eq!(book.allocate(Place::Subnet(subnet), "x", 7).unwrap().ip, ip("10.200.187.131"));
            let all: Vec<_> =
                std::iter::from_fn(|| book.allocate(Place::Subnet(subnet), "x", 7).ok()).filter(|g| g.early).collect();
            assert_eq!(all.iter().map(|grant| grant.ip).collect::<Vec<_>>(), [grant.ip], "{slice:?}");
        }
    }

    #[test]
    fn a_node_does_not_move_onto_a_service() {
        let mut book = AddressBook::new(net("10.200.0.0/16"), None, QUARANTINE);
        let subnet = set_up(&mut book, "web");
        assert_eq!(book.move_node(net("10.200.0.0/16"), Some(net("10.200.187.128/28"))), Err(subnet));
        assert_eq!(book.node_ip(), Some(ip("10.200.0.1")));
        // A slice around it goes around it.
        book.move_node(net("10.200.0.0/16"), Some(net("10.200.187.0/24"))).unwrap();
        let drawn: Vec<_> = std::iter::from_fn(|| book.allocate(Place::Node, "x", 0).ok()).collect();
        assert_eq!(drawn.len(), 254 - 1 - 64);
        assert!(drawn.iter().all(|grant| !subnet.contains(&grant.ip)));
    }

    #[test]
    fn what_was_before_a_restart_is_taken_over() {
        let cluster = net("10.200.0.0/16");
        let mut book = AddressBook::new(cluster, Some(net("10.200.5.0/28")), QUARANTINE);
        book.restore_subnet("web", 0, net("10.200.187.128/26"));
        book.open(net("10.200.187.128/26"), ip("10.200.187.129"));
        let lease = |generation| Lease { owner: "a".into(), generation };
        book.restore(ip("10.200.5.2"), lease(7), None);
        book.restore(ip("10.200.187.130"), lease(8), None);
        book.restore(ip("172.16.0.1"), lease(9), None);
        book.restore(ip("10.200.5.3"), lease(5), Some(100));
        assert_eq!(book.assign("web", 0, &[]), Ok(net("10.200.187.128/26")));
        assert_eq!(take(&mut book, Place::Node), "10.200.5.4");
        assert_eq!(take(&mut book, Place::Subnet(net("10.200.187.128/26"))), "10.200.187.131");
        assert_eq!(book.leases().count(), 5);
        assert_eq!(
            book.release(ip("10.200.5.2"), "a", Some(6), 0),
            Err(ReleaseError::NotYours { ip: ip("10.200.5.2"), owner: "a".into() })
        );
        book.release(ip("172.16.0.1"), "a", Some(9), 0).unwrap();
        let late = book.allocate(Place::Node, "b", 0).unwrap();
        assert!(late.generation > 7, "later than any before");
    }
}
