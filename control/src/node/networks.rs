//! Isolation networks: who is in one, here and on other nodes.
//!
//! Members here follow from the attachments. Those on other nodes are told by the orchestrator, are on disk, and become
//! members of the firewall's sets. An address that is attached here is never taken for one elsewhere, so every node may be
//! told the same list.

use super::device::DeviceMaker;
use super::dispatch::Node;
use super::error::NodeError;
use super::fence::{fence_failed, has_rules};
use super::host::Host;
use crate::firewall::{Change, NetworkId};
use crate::ipc::wire::{NetworkItem, OverlayMode};
use crate::state::{Attachment, Kind, Network, Service, Tables, Transaction};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

/// Bytes of a network's name: those of the longest domain name.
const NAME_BYTES_MAX: usize = 253;

/// Networks with members elsewhere; they are looked through when a workload is attached.
const NETWORKS_MAX: usize = 4_096;

/// Numbers of isolation networks. They mean something to the firewall of this process only.
#[derive(Debug, Default)]
pub(super) struct Networks(Mutex<Numbers>);

#[derive(Debug, Default)]
struct Numbers {
    by_name: HashMap<String, NetworkId>,
    last: u32,
}

impl Networks {
    /// The number of `name`, a new one if it has none. They do not run out: a name has to come anew 2³² times.
    pub(super) fn number(&self, name: &str) -> Option<NetworkId> {
        let mut numbers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = numbers.by_name.get(name) {
            return Some(*known);
        }
        numbers.last = numbers.last.wrapping_add(1).max(1);
        let number = NetworkId::new(numbers.last)?;
        numbers.by_name.insert(name.to_owned(), number);
        Some(number)
    }

    /// The number of the network a workload is fenced into, if it is.
    pub(super) fn of(&self, tables: &Tables, attachment: &Attachment) -> Option<NetworkId> {
        self.number(&name_of(tables, attachment)?)
    }

    /// Forgets the names that `used` does not know.
    fn retain(&self, used: impl Fn(&str) -> bool) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).by_name.retain(|name, _| used(name));
    }
}

impl<M: DeviceMaker, H: Host> Node<M, H> {
    /// Makes `members` those of a network that are on other nodes.
    ///
    /// # Errors
    /// [`NodeError`]; the members are as before then.
    pub(super) async fn set_network_members(&self, network: &str, members: Vec<IpAddr>) -> Result<(), NodeError> {
        check_name("network", network)?;
        let members: BTreeSet<_> = members.into_iter().collect();
        let _order = self.networks_order.lock().await;
        let former = self.kit.store.find::<Network>(network);
        let taken = self.kit.store.read(|tables| {
            let others = tables.all::<Network>().filter(|other| other.network != network);
            let taken = |other: &Network| Some((*other.members.intersection(&members).next()?, other.network.clone()));
            others.filter_map(taken).next()
        });
        if let Some((address, other)) = taken {
            let reason = format!("{address} is in network {other}: take it from there first");
            return Err(NodeError::Field { field: "members", reason });
        }
        if former.is_none() && self.kit.store.read(|tables| tables.count(Kind::Network)) >= NETWORKS_MAX {
            return Err(NodeError::TooMany { what: "networks with members elsewhere", max: NETWORKS_MAX });
        }
        self.change_members(network, former, members).await
    }

    /// Forgets the members elsewhere of the networks that `keeps` says no to. Returns those networks.
    pub(super) async fn retain_networks(&self, keeps: impl Fn(&str) -> bool) -> Result<Vec<String>, NodeError> {
        let _order = self.networks_order.lock().await;
        let mut gone = Vec::new();
        for known in self.kit.store.all::<Network>().into_iter().filter(|known| !keeps(&known.network)) {
            let network = known.network.clone();
            self.change_members(&network, Some(known), BTreeSet::new()).await?;
            gone.push(network);
        }
        Ok(gone)
    }

    async fn change_members(
        &self,
        network: &str,
        former: Option<Network>,
        members: BTreeSet<IpAddr>,
    ) -> Result<(), NodeError> {
        let before = former.as_ref().map(|former| former.members.clone()).unwrap_or_default();
        if members == before {
            return Ok(());
        }
        let store = |members: BTreeSet<IpAddr>| match members.is_empty() {
            true => Transaction::new().delete::<Network>(network),
            false => Transaction::new().put(Network { network: network.to_owned(), members }),
        };
        self.kit.commit(store(members.clone())).await?;
        let fenced = {
            let _order = self.fence_order.lock().await;
            let here = self.kit.store.read(addresses_here);
            let moved = |from: &BTreeSet<IpAddr>, to: &BTreeSet<IpAddr>| -> Vec<IpAddr> {
                from.difference(to).filter(|ip| !here.contains(ip)).copied().collect()
            };
            let gone = moved(&before, &members).into_iter().map(|ip| Change::RemoveMember(ip.into()));
            let mut changes: Vec<_> = gone.collect();
            if let Some(number) = self.networks.number(network) {
                let new = moved(&members, &before).into_iter().map(|ip| Change::AddMember(ip.into(), number));
                changes.extend(new);
            }
            // Where there is no overlay there are no rules; the next one has them.
            match !changes.is_empty() && self.kit.store.read(has_rules) {
                true => self.kit.host.fence(changes).await.map_err(fence_failed),
                false => Ok(()),
            }
        };
        if fenced.is_err() {
            self.kit.take_back(store(before)).await;
            // Whoever worked out the rules meanwhile reckoned with the new ones.
            self.fence_all_or_complain().await;
        }
        self.forget_unused_networks();
        fenced
    }

    /// Members on other nodes as the firewall is to know them.
    pub(super) fn members_elsewhere(&self, tables: &Tables) -> Vec<(IpNet, NetworkId)> {
        let here = addresses_here(tables);
        let mut members = Vec::new();
        for known in tables.all::<Network>() {
            let Some(number) = self.networks.number(&known.network) else { continue };
            members.extend(known.members.difference(&here).map(|ip| (IpNet::from(*ip), number)));
        }
        members
    }

    /// What makes the addresses of a workload that is gone those of members elsewhere, where they are.
    pub(super) fn readmission(&self, tables: &Tables, gone: &Attachment) -> Vec<Change> {
        let number = |name: &str| self.networks.number(name);
        elsewhere_of(tables, gone).filter_map(|(ip, name)| Some(Change::AddMember(ip.into(), number(name)?))).collect()
    }

    /// Numbers of networks that nobody is in can go.
    pub(super) fn forget_unused_networks(&self) {
        let used: HashSet<_> = self.kit.store.read(|tables| {
            let here = tables.all::<Attachment>().filter_map(|one| name_of(tables, one));
            here.chain(tables.all::<Network>().map(|known| known.network.clone())).collect()
        });
        self.networks.retain(|name| used.contains(name));
    }

    pub(super) fn network_items(&self) -> Vec<NetworkItem> {
        let mut networks = BTreeMap::<_, (Vec<_>, Vec<_>)>::new();
        self.kit.store.read(|tables| {
            for known in tables.all::<Attachment>() {
                if let Some(network) = name_of(tables, known) {
                    networks.entry(network).or_default().0.push(known.handle.key());
                }
            }
            let here = addresses_here(tables);
            for known in tables.all::<Network>() {
                networks.entry(known.network.clone()).or_default().1.extend(known.members.difference(&here));
            }
        });
        let item = |(network, (mut members, elsewhere)): (_, (Vec<_>, _))| {
            members.sort();
            NetworkItem { network, members, elsewhere }
        };
        networks.into_iter().map(item).collect()
    }
}

/// The network a workload is fenced into: the one it was attached with, or else that of its service, if that is isolated.
fn name_of(tables: &Tables, attachment: &Attachment) -> Option<String> {
    attachment.isolation_network.clone().or_else(|| {
        let service = tables.find::<Service>(&attachment.service)?;
        (service.mode == OverlayMode::Isolated).then(|| format!("service:{}", service.service))
    })
}

/// Refuses what is no name of a network.
pub(super) fn check_name(field: &'static str, network: &str) -> Result<(), NodeError> {
    match network.is_empty() || network.len() > NAME_BYTES_MAX || network.contains(char::is_control) {
        true => Err(NodeError::Field { field, reason: "it needs 1 to 253 bytes, all of them visible".into() }),
        false => Ok(()),
    }
}

/// All addresses of a workload.
pub(super) fn addresses(attachment: &Attachment) -> impl Iterator<Item = IpAddr> {
    std::iter::once(attachment.ip).chain(attachment.global_ip)
}

/// Those of all workloads.
fn addresses_here(tables: &Tables) -> BTreeSet<IpAddr> {
    tables.all::<Attachment>().flat_map(addresses).collect()
}

/// Which addresses of a workload are told to be a member elsewhere, and of which network.
pub(super) fn elsewhere_of<'t>(tables: &'t Tables, attachment: &Attachment) -> impl Iterator<Item = (IpAddr, &'t str)> {
    addresses(attachment).filter_map(|ip| {
        let known = tables.all::<Network>().find(|known| known.members.contains(&ip))?;
        Some((ip, known.network.as_str()))
    })
}
