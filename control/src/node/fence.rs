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
use super::networks::{addresses, elsewhere_of};
use crate::firewall::{
    Change, Clients, Container, ContainerLink, Desired, Listen, Protocol, Role, Service as HostService,
};
use crate::ipc::wire::{AttachHandle, OverlayMode, PortProtocol, PublishedPort};
use crate::state::{Attachment, Bridge, GlobalOverlay, Identity, Kind, Service, Sysctls, Tables};
use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The UDP and TCP port of the name server (RFC 1035, section 4.2).
pub const DNS_PORT: u16 = 53;

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
        let mut changes: Vec<_> = self.admission(attachment).into_iter().filter_map(inverse).rev().collect();
        changes.extend(self.kit.store.read(|tables| self.readmission(tables, attachment)));
        if let Err(error) = self.kit.host.fence(changes).await.map_err(fence_failed) {
            self.firewall_failed(&error);
        }
        self.forget_unused_networks();
    }

    /// What makes a workload known.
    fn admission(&self, attachment: &Attachment) -> Vec<Change> {
        self.kit.store.read(|tables| {
            // An address that is attached here is nobody's elsewhere.
            let mut changes: Vec<_> =
                elsewhere_of(tables, attachment).map(|(ip, _)| Change::RemoveMember(ip.into())).collect();
            match self.container(tables, attachment) {
                Some(container) => changes.push(Change::AddContainer(attachment.handle.key(), container)),
                None => {
                    let network = self.networks.of(tables, attachment);
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
        let network = self.networks.of(tables, attachment);
        let addresses = addresses(attachment).collect();
        (!links.is_empty()).then_some(Container { links, addresses, network })
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
        if !has_rules(tables) {
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
                    let network = self.networks.of(tables, attachment);
                    desired.members.extend(network.map(|network| (IpNet::from(attachment.ip), network)));
                }
            }
            desired.publications.extend(attachment.publish.iter().flat_map(|port| publications(attachment.ip, port)));
        }
        desired.members.extend(self.members_elsewhere(tables));
        desired
    }
}

/// Whether there is an overlay, and so rules for it.
pub(super) fn has_rules(tables: &Tables) -> bool {
    tables.find::<GlobalOverlay>("").is_some_and(|global| global.up) || tables.count(Kind::Bridge) > 0
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

pub(super) fn fence_failed(source: crate::firewall::FirewallError) -> NodeError {
    NodeError::Fence(Box::new(source))
}

/// Whether a workload of this kind has links on this host.
pub(super) fn has_links(handle: &AttachHandle) -> bool {
    matches!(handle, AttachHandle::LinuxPid { .. } | AttachHandle::LinuxNetns { .. })
}
