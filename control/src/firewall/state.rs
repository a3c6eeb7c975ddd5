//! What is to be, kept consistent: every change is checked against all the rest, then told as changes of elements.
//!
//! Each change returns its inverse, so a series of changes that fails in the middle can be taken back.

use super::desired::{Change, Container, ContainerLink, Desired, Listen, NetworkId, Role, Service};
use super::elements::{self, Edits};
use super::error::FirewallError;
use super::limits::{
    CONTAINER_ADDRESSES_MAX, CONTAINER_ID_BYTES_MAX, CONTAINER_LINKS_MAX, CONTAINERS_MAX, INTERFACES_MAX,
    MEMBER_RANGES_MAX, MEMBERS_MAX, PREFIXES_MAX, PUBLICATIONS_MAX, SERVICES_MAX,
};
use crate::host::check_name;
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct State {
    desired: Desired,
    /// Addresses of containers and single members.
    addresses: HashSet<IpAddr>,
    /// Ranges of members, apart from one another: by first address, for neighbours to be found.
    ranges: BTreeMap<IpAddr, IpNet>,
    /// Host sides of the containers' links.
    veths: HashSet<String>,
    /// Containers at each bridge.
    at_bridge: HashMap<String, usize>,
}

impl State {
    /// A state that is `desired`, and the elements for it.
    pub(super) fn of(desired: &Desired) -> Result<(Self, Edits), FirewallError> {
        let mut state = Self::default();
        let mut edits = Edits::default();
        let prefixes = desired.prefixes.iter().map(|prefix| Change::AddPrefix(*prefix));
        let interfaces = desired.interfaces.iter().map(|(name, role)| Change::AddInterface(name.clone(), *role));
        let containers =
            desired.containers.iter().map(|(id, container)| Change::AddContainer(id.clone(), container.clone()));
        let members = desired.members.iter().map(|(prefix, network)| Change::AddMember(*prefix, *network));
        let publications = desired.publications.iter().map(|(listen, target)| Change::Publish(*listen, *target));
        let services = desired.services.iter().map(|service| Change::AddService(*service));
        let all = prefixes.chain(interfaces).chain(containers).chain(members).chain(publications).chain(services);
        for change in all {
            state.make(change, &mut edits)?;
        }
        Ok((state, edits))
    }

    /// All of it.
    #[cfg(test)]
    pub(super) fn desired(&self) -> &Desired {
        &self.desired
    }

    /// Prefixes of the overlay.
    pub(super) fn prefixes(&self) -> &BTreeSet<IpNet> {
        &self.desired.prefixes
    }

    /// Makes all of `changes`, or none.
    pub(super) fn make_all(
        &mut self,
        changes: impl IntoIterator<Item = Change>,
    ) -> Result<(Edits, Vec<Change>), FirewallError> {
        let mut edits = Edits::default();
        let mut inverses = Vec::new();
        for change in changes {
            match self.make(change, &mut edits) {
                Ok(inverse) => inverses.extend(inverse),
                Err(error) => {
                    self.take_back(inverses);
                    return Err(error);
                }
            }
        }
        Ok((edits, inverses))
    }

    /// Undoes what returned `inverses`.
    pub(super) fn take_back(&mut self, inverses: Vec<Change>) {
        for inverse in inverses.into_iter().rev() {
            let undone = self.make(inverse, &mut Edits::default());
            debug_assert!(undone.is_ok(), "{undone:?}");
        }
    }

    /// Makes one change and returns what takes it back, in the order of doing; none where it changed nothing.
    fn make(&mut self, change: Change, edits: &mut Edits) -> Result<Vec<Change>, FirewallError> {
        match change {
            Change::AddPrefix(prefix) => self.add_prefix(prefix, edits),
            Change::RemovePrefix(prefix) => Ok(self.remove_prefix(prefix, edits)),
            Change::AddInterface(name, role) => self.add_interface(name, role, edits),
            Change::RemoveInterface(name) => self.remove_interface(&name, edits),
            Change::AddContainer(id, container) => self.add_container(id, container, edits),
            Change::RemoveContainer(id) => Ok(self.remove_container(&id, edits)),
            Change::AddMember(prefix, network) => self.add_member(prefix, network, edits),
            Change::RemoveMember(prefix) => Ok(self.remove_member(prefix, edits)),
            Change::Publish(listen, target) => self.publish(listen, target, edits),
            Change::Unpublish(listen) => Ok(self.unpublish(listen, edits)),
            Change::AddService(service) => self.add_service(service, edits),
            Change::RemoveService(service) => Ok(self.remove_service(service, edits)),
        }
    }

    fn add_prefix(&mut self, prefix: IpNet, edits: &mut Edits) -> Result<Vec<Change>, FirewallError> {
        let prefix = prefix.trunc();
        if self.desired.prefixes.contains(&prefix) {
            return Ok(Vec::new());
        }
        check_room(self.desired.prefixes.len(), PREFIXES_MAX, "prefixes")?;
        check_prefix(prefix)?;
        let overlaps = |other: &&IpNet| other.contains(&prefix) || prefix.contains(*other);
        if let Some(other) = self.desired.prefixes.iter().find(overlaps) {
            return Err(FirewallError::Overlap(prefix, *other));
        }
        self.desired.prefixes.insert(prefix);
        edits.add(elements::prefix(prefix));
        Ok(vec![Change::RemovePrefix(prefix)])
    }

    fn remove_prefix(&mut self, prefix: IpNet, edits: &mut Edits) -> Vec<Change> {
        let prefix = prefix.trunc();
        if !self.desired.prefixes.remove(&prefix) {
            return Vec::new();
        }
        edits.remove(elements::prefix(prefix));
        vec![Change::AddPrefix(prefix)]
    }

    fn add_interface(&mut self, name: String, role: Role, edits: &mut Edits) -> Result<Vec<Change>, FirewallError> {
        match self.desired.interfaces.get(&name) {
            Some(held) if *held == role => return Ok(Vec::new()),
            Some(_) => return Err(FirewallError::InterfaceTaken(name)),
            None => {}
        }
        check_name(&name).map_err(FirewallError::Interface)?;
        // The loopback interface is everybody's.
        if self.veths.contains(&name) || name == "lo" {
            return Err(FirewallError::InterfaceTaken(name));
        }
        check_room(self.desired.interfaces.len(), INTERFACES_MAX, "interfaces")?;
        edits.add(elements::interface(&name, role));
        self.desired.interfaces.insert(name.clone(), role);
        Ok(vec![Change::RemoveInterface(name)])
    }

    fn remove_interface(&mut self, name: &str, edits: &mut Edits) -> Result<Vec<Change>, FirewallError> {
        if self.at_bridge.contains_key(name) {
            return Err(FirewallError::BridgeInUse(name.into()));
        }
        let Some(role) = self.desired.interfaces.remove(name) else { return Ok(Vec::new()) };
        edits.remove(elements::interface(name, role));
        Ok(vec![Change::AddInterface(name.into(), role)])
    }

    fn add_container(
        &mut self,
        id: String,
        container: Container,
        edits: &mut Edits,
    ) -> Result<Vec<Change>, FirewallError> {
        if self.desired.containers.get(&id) == Some(&container) {
            return Ok(Vec::new());
        }
        if id.is_empty() || id.len() > CONTAINER_ID_BYTES_MAX {
            return Err(FirewallError::ContainerId(id));
        }
        let mut inverses = self.remove_container(&id, edits);
        if let Err(error) = self.check_container(&id, &container) {
            // The edits are worth nothing after an error.
            self.take_back(inverses);
            return Err(error);
        }
        for link in &container.links {
            self.veths.insert(link.veth().into());
            if let Some(bridge) = link.bridge() {
                *self.at_bridge.entry(bridge.into()).or_default() += 1;
            }
        }
        self.addresses.extend(&container.addresses);
        edits.add(elements::container(&container));
        self.desired.containers.insert(id.clone(), container);
        inverses.push(Change::RemoveContainer(id));
        Ok(inverses)
    }

    fn check_container(&self, id: &str, container: &Container) -> Result<(), FirewallError> {
        check_room(self.desired.containers.len(), CONTAINERS_MAX, "containers")?;
        let addresses: BTreeSet<_> = container.addresses.iter().collect();
        let veths: BTreeSet<_> = container.links.iter().map(ContainerLink::veth).collect();
        let each_once = addresses.len() == container.addresses.len() && veths.len() == container.links.len();
        let some = (1..=CONTAINER_ADDRESSES_MAX).contains(&addresses.len())
            && (1..=CONTAINER_LINKS_MAX).contains(&veths.len());
        if !each_once || !some {
            return Err(FirewallError::Container(id.into()));
        }
        for link in &container.links {
            check_name(link.veth()).map_err(FirewallError::Interface)?;
            let taken = self.veths.contains(link.veth()) || self.desired.interfaces.contains_key(link.veth());
            if taken || link.veth() == "lo" {
                return Err(FirewallError::InterfaceTaken(link.veth().into()));
            }
            let is_bridge = |name: &str| self.desired.interfaces.get(name) == Some(&Role::Bridge);
            if let Some(bridge) = link.bridge().filter(|bridge| !is_bridge(bridge)) {
                return Err(FirewallError::NoBridge(bridge.into()));
            }
        }
        container.addresses.iter().try_for_each(|address| self.check_address(*address))
    }

    fn check_address(&self, address: IpAddr) -> Result<(), FirewallError> {
        let in_range = |range: &IpNet| range.contains(&address);
        if self.addresses.contains(&address) || self.range_before(address).is_some_and(in_range) {
            return Err(FirewallError::AddressTaken(address));
        }
        Ok(())
    }

    fn range_before(&self, address: IpAddr) -> Option<&IpNet> {
        self.ranges.range(..=address).next_back().map(|(_, range)| range)
    }

    fn remove_container(&mut self, id: &str, edits: &mut Edits) -> Vec<Change> {
        let Some(container) = self.desired.containers.remove(id) else { return Vec::new() };
        for link in &container.links {
            self.veths.remove(link.veth());
            if let Some(bridge) = link.bridge() {
                release(&mut self.at_bridge, bridge);
            }
        }
        for address in &container.addresses {
            self.addresses.remove(address);
        }
        edits.remove(elements::container(&container));
        vec![Change::AddContainer(id.into(), container)]
    }

    fn add_member(
        &mut self,
        prefix: IpNet,
        network: NetworkId,
        edits: &mut Edits,
    ) -> Result<Vec<Change>, FirewallError> {
        let prefix = prefix.trunc();
        let held = self.desired.members.get(&prefix).copied();
        if held == Some(network) {
            return Ok(Vec::new());
        }
        let mut inverses = Vec::new();
        if held.is_none() {
            check_room(self.desired.members.len(), MEMBERS_MAX, "members of networks")?;
            check_prefix(prefix)?;
            self.check_member(prefix)?;
        } else {
            inverses = self.remove_member(prefix, edits);
        }
        match single(prefix) {
            Some(address) => drop(self.addresses.insert(address)),
            None => drop(self.ranges.insert(prefix.network(), prefix)),
        }
        edits.add(elements::member(prefix, network));
        self.desired.members.insert(prefix, network);
        inverses.push(Change::RemoveMember(prefix));
        Ok(inverses)
    }

    fn check_member(&self, prefix: IpNet) -> Result<(), FirewallError> {
        if let Some(address) = single(prefix) {
            return self.check_address(address);
        }
        check_room(self.ranges.len(), MEMBER_RANGES_MAX, "ranges of members")?;
        let before = self.range_before(prefix.broadcast());
        if let Some(other) = before.filter(|other| other.contains(&prefix) || prefix.contains(*other)) {
            return Err(FirewallError::Overlap(prefix, *other));
        }
        // Rare enough, and seldom enough, to be looked for one by one.
        match self.addresses.iter().find(|address| prefix.contains(*address)) {
            Some(address) => Err(FirewallError::AddressTaken(*address)),
            None => Ok(()),
        }
    }

    fn remove_member(&mut self, prefix: IpNet, edits: &mut Edits) -> Vec<Change> {
        let prefix = prefix.trunc();
        let Some(network) = self.desired.members.remove(&prefix) else { return Vec::new() };
        match single(prefix) {
            Some(address) => drop(self.addresses.remove(&address)),
            None => drop(self.ranges.remove(&prefix.network())),
        }
        edits.remove(elements::member(prefix, network));
        vec![Change::AddMember(prefix, network)]
    }

    fn publish(&mut self, listen: Listen, target: SocketAddr, edits: &mut Edits) -> Result<Vec<Change>, FirewallError> {
        let names = || (listen.socket.to_string(), target.to_string());
        if let Some(held) = self.desired.publications.get(&listen) {
            let (port, _) = names();
            return if *held == target {
                Ok(Vec::new())
            } else {
                Err(FirewallError::PortTaken(port, held.to_string()))
            };
        }
        check_room(self.desired.publications.len(), PUBLICATIONS_MAX, "published ports")?;
        let same_family = listen.socket.is_ipv4() == target.is_ipv4();
        let ports = listen.socket.port() != 0 && target.port() != 0;
        let addressed = !target.ip().is_unspecified() && !target.ip().is_loopback() && !target.ip().is_multicast();
        if !same_family || !ports || !addressed || listen.socket.ip().is_multicast() {
            let (port, target) = names();
            return Err(FirewallError::Publication(port, target));
        }
        edits.add(elements::publication(listen, target));
        self.desired.publications.insert(listen, target);
        Ok(vec![Change::Unpublish(listen)])
    }

    fn unpublish(&mut self, listen: Listen, edits: &mut Edits) -> Vec<Change> {
        let Some(target) = self.desired.publications.remove(&listen) else { return Vec::new() };
        edits.remove(elements::publication(listen, target));
        vec![Change::Publish(listen, target)]
    }

    fn add_service(&mut self, service: Service, edits: &mut Edits) -> Result<Vec<Change>, FirewallError> {
        if self.desired.services.contains(&service) {
            return Ok(Vec::new());
        }
        check_room(self.desired.services.len(), SERVICES_MAX, "services of the host")?;
        if service.port == 0 {
            return Err(FirewallError::ServicePort);
        }
        edits.add(elements::service(service));
        self.desired.services.insert(service);
        Ok(vec![Change::RemoveService(service)])
    }

    fn remove_service(&mut self, service: Service, edits: &mut Edits) -> Vec<Change> {
        if !self.desired.services.remove(&service) {
            return Vec::new();
        }
        edits.remove(elements::service(service));
        vec![Change::AddService(service)]
    }
}

impl ContainerLink {
    /// The host's side.
    pub(super) fn veth(&self) -> &str {
        match self {
            Self::Port { veth, .. } | Self::Routed { veth } => veth,
        }
    }

    /// The bridge, if it is at one.
    pub(super) fn bridge(&self) -> Option<&str> {
        match self {
            Self::Port { bridge, .. } => Some(bridge),
            Self::Routed { .. } => None,
        }
    }
}

/// The address that is all of the prefix, if it is but one.
pub(super) fn single(prefix: IpNet) -> Option<IpAddr> {
    (prefix.prefix_len() == prefix.max_prefix_len()).then_some(prefix.addr())
}

/// An overlay is part of the address space, not the beginning of it.
fn check_prefix(prefix: IpNet) -> Result<(), FirewallError> {
    let unspecified: IpAddr = if prefix.addr().is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    if prefix.contains(&unspecified) { Err(FirewallError::Prefix(prefix)) } else { Ok(()) }
}

fn check_room(held: usize, max: usize, what: &'static str) -> Result<(), FirewallError> {
    if held < max { Ok(()) } else { Err(FirewallError::TooMany { what, max }) }
}

/// Counts one use less, and tells whether that was the last.
fn release<Q, K>(uses: &mut HashMap<K, usize>, key: &Q) -> bool
where
    K: std::hash::Hash + Eq + std::borrow::Borrow<Q>,
    Q: std::hash::Hash + Eq + ?Sized,
{
    let Some(count) = uses.get_mut(key) else { return false };
    *count -= 1;
    let last = *count == 0;
    if last {
        uses.remove(key);
    }
    last
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
