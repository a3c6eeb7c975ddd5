//! What there is, as lines to compare: on the disk, in the kernel, and what the kernel is to be by the disk.

use super::*;
use crate::firewall::{ContainerLink, Desired};
use crate::ipc::wire::{AttachHandle, OverlayMode};
use crate::node::services::overlay_ip;
use crate::state::{
    Attachment, Bridge, GlobalOverlay, Identity, Kind, Lease, Network, Object, Peer, Scope, Service, Tables,
};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};

/// Everything on disk, but addresses that rest and what the daemon notes for itself.
pub(super) fn disk(node: &Node<Lab, Lab>) -> Vec<String> {
    let counts = |object: &&Object| match object {
        Object::Lease(lease) => lease.released_ms.is_none(),
        other => !matches!(other.key().kind, Kind::Seal | Kind::Sysctls),
    };
    node.kit.store.read(|tables| tables.iter().filter(counts).map(|object| format!("{object:?}")).collect())
}

/// Everything in the kernel. MTU and the number of the kernel's choice are left out.
pub(super) fn kernel(lab: &Lab) -> Vec<String> {
    let world = lab.world();
    let mut lines = Vec::new();
    for (name, link) in &world.links {
        let addresses: BTreeSet<_> = link.addresses.iter().collect();
        let peers: BTreeMap<_, BTreeSet<_>> =
            link.peers.iter().map(|peer| (peer.public_key, peer.allowed_ips.iter().copied().collect())).collect();
        let routes: Vec<_> = link.routes.keys().collect();
        let (key, up) = (link.private_key.as_ref().map(|key| key.public()), link.up);
        lines.push(device(name, &addresses, key, up, &peers, &routes));
    }
    lines.extend(world.bridges.iter().map(|(name, (gateway, _))| format!("bridge {name} {gateway}")));
    lines.extend(world.veths.iter().map(|(name, (owner, _))| format!("veth {name} of {owner}")));
    lines.extend(fence(world.fence.desired()));
    lines
}

fn device(
    name: &str,
    addresses: &BTreeSet<&IpNet>,
    key: Option<PublicKey>,
    up: bool,
    peers: &BTreeMap<PublicKey, BTreeSet<IpNet>>,
    routes: &[&IpNet],
) -> String {
    format!("device {name} {addresses:?} {key:?} {up} {peers:?} {routes:?}")
}

fn fence(desired: &Desired) -> Vec<String> {
    let mut lines = Vec::new();
    lines.extend(desired.interfaces.keys().map(|name| format!("rules for {name}")));
    for (name, container) in &desired.containers {
        let (addresses, fenced) = (&container.addresses, container.network.is_some());
        let links = container.links.iter().map(|link| match link {
            ContainerLink::Port { veth, bridge } => format!("{veth}@{bridge}"),
            ContainerLink::Routed { veth } => veth.clone(),
        });
        lines.push(format!("rules for {name} {addresses:?} {fenced} {:?}", links.collect::<Vec<_>>()));
    }
    lines.extend(desired.members.keys().map(|prefix| format!("rules for member {prefix}")));
    lines.extend(desired.publications.iter().map(|(listen, to)| format!("rules for port {} to {to}", listen.socket)));
    lines
}

/// What the kernel is to be: worked out from the records alone.
pub(super) fn wanted(tables: &Tables, node_key: Option<PublicKey>) -> Vec<String> {
    let mut lines = Vec::new();
    let global = tables.find::<GlobalOverlay>("").filter(|global| global.up);
    let cluster = tables.find::<GlobalOverlay>("").map_or_else(|| CLUSTER.parse().unwrap(), |global| global.cluster);
    let all: Vec<_> = tables.all::<Attachment>().collect();
    let peers = |scope: &Scope| -> BTreeMap<PublicKey, BTreeSet<IpNet>> {
        let peers = tables.all::<Peer>().filter(|peer| peer.scope == *scope);
        peers.map(|peer| (peer.public_key, peer.allowed_ips.iter().copied().collect())).collect()
    };
    let mut interfaces = BTreeSet::new();
    let mut devices = BTreeMap::new();
    if let Some(global) = global {
        let name = crate::node::interface_name(&[&global.deployment, &global.instance_id], "g");
        let first = global.slice.unwrap().hosts().next().unwrap();
        let own = IpNet::new(first, global.cluster.prefix_len()).unwrap();
        let shared = all.iter().filter(|one| matches!(one.handle, AttachHandle::HostShared { .. }));
        let shared: Vec<IpNet> = shared.map(|one| one.ip.into()).collect();
        let addresses: BTreeSet<_> = shared.iter().chain([&own]).collect();
        devices.insert(name.clone(), device(&name, &addresses, node_key, true, &peers(&Scope::Global), &[]));
    }
    for service in tables.all::<Service>().filter(|service| service.mode == OverlayMode::Dedicated) {
        let identity = tables.find::<Identity>(&service.service).expect("a dedicated service has an identity");
        let own: IpNet = overlay_ip(identity).unwrap().into();
        let peers = peers(&Scope::Service(service.service.clone()));
        let routes: BTreeSet<_> = peers.values().flatten().collect();
        let routed = |prefix: &&&IpNet| cluster.contains(**prefix) && !prefix.contains(&identity.subnet);
        let routes: Vec<_> = routes.iter().filter(routed).copied().collect();
        let name = identity.interface.clone();
        let line = device(&name, &BTreeSet::from([&own]), Some(identity.public_key), true, &peers, &routes);
        devices.insert(name, line);
    }
    interfaces.extend(devices.keys().cloned());
    lines.extend(devices.into_values());
    for bridge in tables.all::<Bridge>() {
        interfaces.insert(bridge.bridge.clone());
        lines.push(format!("bridge {} {}/{}", bridge.bridge, bridge.gateway, bridge.subnet.prefix_len()));
    }
    let veths = all.iter().flat_map(|one| one.links.iter().map(|link| (link, one.mark())));
    lines.extend(veths.collect::<BTreeMap<_, _>>().iter().map(|(link, owner)| format!("veth {link} of {owner}")));
    if interfaces.is_empty() {
        return lines;
    }
    lines.extend(interfaces.iter().map(|name| format!("rules for {name}")));
    let mut members = BTreeSet::new();
    for one in &all {
        let service = tables.find::<Service>(&one.service);
        let isolated = service.is_some_and(|service| service.mode == OverlayMode::Isolated);
        let fenced = one.isolation_network.is_some() || isolated;
        if one.links.is_empty() {
            members.extend(fenced.then(|| IpNet::from(one.ip)));
            continue;
        }
        let addresses: Vec<_> = [Some(one.ip), one.global_ip].into_iter().flatten().collect();
        let links = one.links.iter().map(|link| match (link.ends_with("-s"), service) {
            (true, Some(service)) => format!("{link}@{}", service.bridge),
            _ => link.clone(),
        });
        let links: Vec<_> = links.collect();
        lines.push(format!("rules for {} {addresses:?} {fenced} {links:?}", one.handle.key()));
    }
    // Who is here is not elsewhere.
    let here: BTreeSet<_> = all.iter().flat_map(|one| std::iter::once(one.ip).chain(one.global_ip)).collect();
    for network in tables.all::<Network>() {
        members.extend(network.members.difference(&here).map(|ip| IpNet::from(*ip)));
    }
    lines.extend(members.iter().map(|prefix| format!("rules for member {prefix}")));
    let ports = all.iter().flat_map(|one| one.publish.iter().map(|port| (port.host_port, port.container_port, one.ip)));
    let ports: BTreeSet<_> = ports.collect();
    lines.extend(ports.iter().map(|(at, to, ip)| format!("rules for port 0.0.0.0:{at} to {ip}:{to}")));
    lines
}

/// Leases have holders, holders have leases, and nothing is had twice.
pub(super) fn check_leases(node: &Node<Lab, Lab>) {
    let leases = node.kit.store.all::<Lease>().into_iter().filter(|lease| lease.released_ms.is_none());
    let stored: BTreeMap<_, _> = leases.map(|lease| (lease.ip, (lease.owner, lease.generation))).collect();
    let book = node.addresses();
    let in_book: BTreeMap<_, _> =
        book.leases().map(|(ip, lease)| (ip, (lease.owner.clone(), lease.generation))).collect();
    assert_eq!(in_book, stored, "leases in memory and on disk");
    let leaving: Vec<_> = stored.keys().filter(|ip| book.is_leaving(**ip)).collect();
    assert!(leaving.is_empty(), "they are leaving for ever: {leaving:?}");
    drop(book);
    let mut held = BTreeMap::new();
    for one in node.kit.store.all::<Attachment>() {
        for ip in std::iter::once(one.ip).chain(one.global_ip) {
            let before = held.insert(ip, one.mark());
            assert_eq!(before, None, "{ip} is had twice");
            assert_eq!(stored.get(&ip).map(|(owner, _)| owner), Some(&one.mark()), "the lease of {ip}");
        }
    }
    let bridges = node.kit.store.all::<Bridge>();
    for (ip, (owner, _)) in &stored {
        let asked = owner.starts_with("allocate_ip ");
        assert!(asked || held.contains_key(ip), "{ip} is leased to {owner}, which is not there");
        let name = owner.strip_prefix("allocate_ip ").and_then(|rest| rest.split('\n').next()).unwrap_or_default();
        let service = node.kit.store.find::<Service>(name);
        let on_a_bridge = bridges.iter().any(|bridge| bridge.subnet.contains(ip));
        assert!(!on_a_bridge || !asked || service.is_some(), "{ip} is leased for {name}, which is down");
    }
}

/// Names of workloads are there, and peers that are guests.
pub(super) fn check_names_and_guests(node: &Node<Lab, Lab>) {
    let store = &node.kit.store;
    for one in store.all::<Attachment>() {
        if let Some(domain) = &one.dns_domain
            && !one.links.is_empty()
        {
            let name = format!("{}.{domain}", one.service);
            let known = store.find::<crate::state::Name>(&name);
            assert!(known.is_some_and(|known| known.addresses.contains(&one.ip)), "{name} has no {}", one.ip);
        }
        if let Some(key) = crate::node::guests::guest_key(&one) {
            let peers = store.all::<Peer>().into_iter().filter(|peer| peer.public_key == key).count();
            assert_eq!(peers, 1, "the peer of {}", one.handle.key());
        }
    }
    let identities = store.all::<Identity>();
    for peer in store.all::<Peer>() {
        if let Scope::Service(service) = &peer.scope {
            assert!(identities.iter().any(|one| one.service == *service), "a peer of {service}, which is forgotten");
        }
    }
    let ports: BTreeSet<_> = identities.iter().map(|identity| identity.port).collect();
    assert_eq!(ports.len(), identities.len(), "ports of dedicated overlays: {identities:?}");
}
