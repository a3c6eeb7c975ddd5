//! What the firewall is to bring about: worked out from the records, and changed with them.
//!
//! A change is recorded first, then made here, under one lock: whoever works out the whole sees every record whose rules
//! were made. So a workload that is being attached is never taken for none.

use super::device::DeviceMaker;
use super::dispatch::Node;
use super::error::NodeError;
use super::host::Host;
use super::name::interface_name;
use super::naming::Naming;
use crate::firewall::{
    Change, Clients, Container, ContainerLink, Desired, Listen, NetworkId, Protocol, Role, Service as HostService,
};
use crate::ipc::wire::{AttachHandle, OverlayMode, PortProtocol, PublishedPort};
use crate::state::{Attachment, Bridge, GlobalOverlay, Identity, Service, Sysctls, Tables};
use ipnet::IpNet;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Mutex, PoisonError};

/// The UDP and TCP port of the name server (RFC 1035, section 4.2).
pub const DNS_PORT: u16 = 53;

/// Numbers of isolation networks. They mean something to the firewall of this process only.
#[derive(Debug, Default)]
pub(super) struct Networks(Mutex<Numbers>);

#[derive(Debug, Default)]
struct Numbers {
    by_name: HashMap<String, NetworkId>,
    last: u32,
}

impl Networks {
    /// The number of `name`, a new one if it has none. They do not run out: a name has to be attached 2³² times anew.
    fn number(&self, name: &str) -> Option<NetworkId> {
        let mut numbers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = numbers.by_name.get(name) {
            return Some(*known);
        }
        numbers.last = numbers.last.wrapping_add(1).max(1);
        let number = NetworkId::new(numbers.last)?;
        numbers.by_name.insert(name.to_owned(), number);
        Some(number)
    }

    /// Forgets the names that `used` does not know.
    fn retain(&self, used: impl Fn(&str) -> bool) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).by_name.retain(|name, _| used(name));
    }
}

impl<M: DeviceMaker, H: Host> Node<M, H> {
    /// Makes the firewall what the records say. Where nothing was ever set up, nothing is made.
    pub(super) async fn fence_all(&self) -> Result<(), NodeError> {
        let _order = self.fence_order.lock().await;
        let (desired, was_set_up) = self.kit.store.read(|tables| {
            // Rules may have outlived a process that ended while it removed them.
            let was_set_up = tables.find::<GlobalOverlay>("").is_some() || tables.find::<Sysctls>("").is_some();
            (self.desired(tables), was_set_up)
        });
        if desired.interfaces.is_empty() && !self.is_fenced() && !was_set_up {
            return Ok(());
        }
        self.kit.host.fence_all(desired).await.map_err(fence_failed)?;
        self.note_fenced();
        Ok(())
    }

    /// The same, for whoever has no one to tell but the operator.
    pub(super) async fn fence_all_or_complain(&self) {
        match self.fence_all().await {
            Ok(()) => self.firewall_is_well(),
            Err(error) => self.firewall_failed(&error),
        }
    }

    /// Makes a workload known to the firewall.
    pub(super) async fn fence(&self, attachment: &Attachment) -> Result<(), NodeError> {
        let _order = self.fence_order.lock().await;
        self.kit.host.fence(self.admission(attachment)).await.map_err(fence_failed)
    }

    /// Has the firewall forget a workload, whose record is gone.
    pub(super) async fn unfence(&self, attachment: &Attachment) {
        let _order = self.fence_order.lock().await;
        let changes = self.admission(attachment).into_iter().filter_map(inverse).rev().collect();
        if let Err(error) = self.kit.host.fence(changes).await.map_err(fence_failed) {
            self.firewall_failed(&error);
        }
        let networks: Vec<_> = self.kit.store.read(|tables| {
            let names = tables.all::<Attachment>().filter_map(|one| self.network_of(tables, one));
            names.collect()
        });
        self.networks.retain(|name| networks.iter().any(|used| used == name));
    }

    /// What makes a workload known.
    fn admission(&self, attachment: &Attachment) -> Vec<Change> {
        self.kit.store.read(|tables| {
            let mut changes = Vec::new();
            match self.container(tables, attachment) {
                Some(container) => changes.push(Change::AddContainer(attachment.handle.key(), container)),
                None => {
                    let network = self.network_of(tables, attachment).and_then(|name| self.networks.number(&name));
                    changes.extend(network.map(|network| Change::AddMember(attachment.ip.into(), network)));
                }
            }
            let ports = attachment.publish.iter().flat_map(|port| publications(attachment.ip, port));
            changes.extend(ports.map(|(listen, to)| Change::Publish(listen, to)));
            changes
        })
    }

    /// A workload with links of its own, as the firewall sees it.
    fn container(&self, tables: &Tables, attachment: &Attachment) -> Option<Container> {
        let bridge = tables.find::<Service>(&attachment.service).map(|service| service.bridge.clone());
        let mut links = Vec::new();
        for link in &attachment.links {
            let veth = link.clone();
            match &bridge {
                Some(bridge) if link.ends_with("-s") => {
                    links.push(ContainerLink::Port { veth, bridge: bridge.clone() });
                }
                _ => links.push(ContainerLink::Routed { veth }),
            }
        }
        let network = self.network_of(tables, attachment).and_then(|name| self.networks.number(&name));
        let addresses = std::iter::once(attachment.ip).chain(attachment.global_ip).collect();
        (!links.is_empty()).then_some(Container { links, addresses, network })
    }

    /// The network a workload is fenced into: the one it was attached with, or else that of its service, if that is
    /// isolated.
    fn network_of(&self, tables: &Tables, attachment: &Attachment) -> Option<String> {
        let named = attachment.isolation_network.as_ref().map(|name| format!("network {name}"));
        named.or_else(|| {
            let service = tables.find::<Service>(&attachment.service)?;
            (service.mode == OverlayMode::Isolated).then(|| format!("service {}", service.service))
        })
    }

    /// Everything.
    fn desired(&self, tables: &Tables) -> Desired {
        let mut desired = Desired::default();
        let port = |port| HostService { protocol: Protocol::Udp, port, clients: Clients::All };
        if let Some(global) = tables.find::<GlobalOverlay>("").filter(|global| global.up) {
            let tunnel = interface_name(&[&global.deployment, &global.instance_id], "g");
            desired.interfaces.insert(tunnel, Role::Tunnel);
            let listens = if global.port == 0 { global.chosen_port } else { Some(global.port) };
            desired.services.extend(listens.map(port));
        }
        for bridge in tables.all::<Bridge>() {
            desired.interfaces.insert(bridge.bridge.clone(), Role::Bridge);
        }
        for service in tables.all::<Service>().filter(|service| service.mode == OverlayMode::Dedicated) {
            if let Some(identity) = tables.find::<Identity>(&service.service) {
                desired.interfaces.insert(identity.interface.clone(), Role::Tunnel);
                desired.services.insert(port(identity.port));
            }
        }
        if desired.interfaces.is_empty() {
            return desired;
        }
        desired.prefixes.insert(self.cluster().cluster);
        for port in [Some(DNS_PORT), self.naming.as_ref().map(Naming::port)].into_iter().flatten() {
            for protocol in [Protocol::Udp, Protocol::Tcp] {
                desired.services.insert(HostService { protocol, port, clients: Clients::Overlay });
            }
        }
        for attachment in tables.all::<Attachment>() {
            match self.container(tables, attachment) {
                Some(container) => {
                    desired.containers.insert(attachment.handle.key(), container);
                }
                None => {
                    let network = self.network_of(tables, attachment).and_then(|name| self.networks.number(&name));
                    desired.members.extend(network.map(|network| (IpNet::from(attachment.ip), network)));
                }
            }
            desired.publications.extend(attachment.publish.iter().flat_map(|port| publications(attachment.ip, port)));
        }
        desired
    }
}

/// Where a port of a workload is published.
fn publications(ip: IpAddr, port: &PublishedPort) -> Option<(Listen, SocketAddr)> {
    let protocol = match port.protocol {
        PortProtocol::Tcp => Protocol::Tcp,
        PortProtocol::Udp => Protocol::Udp,
    };
    let any = if ip.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = SocketAddr::new(port.host_ip.unwrap_or(any), port.host_port);
    Some((Listen { protocol, socket }, SocketAddr::new(ip, port.container_port)))
}

fn inverse(change: Change) -> Option<Change> {
    match change {
        Change::AddContainer(name, _) => Some(Change::RemoveContainer(name)),
        Change::AddMember(prefix, _) => Some(Change::RemoveMember(prefix)),
        Change::Publish(listen, _) => Some(Change::Unpublish(listen)),
        _ => None,
    }
}

fn fence_failed(source: crate::firewall::FirewallError) -> NodeError {
    NodeError::Fence(Box::new(source))
}

/// Whether a workload of this kind has links on this host.
pub(super) fn has_links(handle: &AttachHandle) -> bool {
    matches!(handle, AttachHandle::LinuxPid { .. } | AttachHandle::LinuxNetns { .. })
}
