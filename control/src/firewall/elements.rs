//! From what is to be to elements of sets: the one place that knows how a container, a member or a port is written there.

use super::conntrack::Stale;
use super::desired::{Clients, Container, ContainerLink, Listen, NetworkId, Protocol, Role, Service};
use super::nft::{Element, range};
use super::ruleset::{SetId, Version};
use super::state::single;
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// An element and the set it is in.
pub(super) type Placed = (SetId, Element);

/// Changes of elements, in their order.
#[derive(Clone, Debug, Default)]
pub(super) struct Edits {
    edits: Vec<Edit>,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Edit {
    pub(super) set: SetId,
    pub(super) element: Element,
    pub(super) add: bool,
}

impl Edits {
    pub(super) fn add(&mut self, placed: Vec<Placed>) {
        self.edits.extend(placed.into_iter().map(|(set, element)| Edit { set, element, add: true }));
    }

    pub(super) fn remove(&mut self, placed: Vec<Placed>) {
        self.edits.extend(placed.into_iter().map(|(set, element)| Edit { set, element, add: false }));
    }

    pub(super) fn iter(&self) -> std::slice::Iter<'_, Edit> {
        self.edits.iter()
    }

    /// What is left to do when each element that went and came back is left alone, by set, removals first: a key can get
    /// another value only after it has lost the old one.
    pub(super) fn net(&self) -> Net {
        // Of each element, what was done to it first and last.
        let mut fates: HashMap<(SetId, &Element), (bool, bool)> = HashMap::with_capacity(self.edits.len());
        for edit in &self.edits {
            fates.entry((edit.set, &edit.element)).or_insert((edit.add, edit.add)).1 = edit.add;
        }
        let mut net = Net::default();
        for ((set, element), fate) in fates {
            let (remove, add) = match fate {
                (true, true) => (false, true),
                (false, false) => (true, false),
                // There and there again: the kernel wants to see the ends of a range together, and one may have changed.
                (false, true) => (set.has_range_ends(), set.has_range_ends()),
                (true, false) => (false, false),
            };
            if remove {
                net.removed.entry(set).or_default().push(element.clone());
            }
            if add {
                net.added.entry(set).or_default().push(element.clone());
            }
        }
        // In order, the end of a range before the beginning of the next, as the kernel wants them.
        net.removed.values_mut().chain(net.added.values_mut()).for_each(|elements| elements.sort_unstable());
        net
    }
}

/// Elements to take out and to put in, by set.
#[derive(Clone, Debug, Default)]
pub(super) struct Net {
    pub(super) removed: BTreeMap<SetId, Vec<Element>>,
    pub(super) added: BTreeMap<SetId, Vec<Element>>,
}

impl Net {
    pub(super) fn extend(&mut self, other: Self) {
        for (sets, others) in [(&mut self.removed, other.removed), (&mut self.added, other.added)] {
            for (set, elements) in others {
                sets.entry(set).or_default().extend(elements);
            }
        }
    }
}

impl Version {
    fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

/// Length of an interface name in a set.
const NAME_LEN: usize = 16;

/// A part of a key or value, filled up to whole registers.
fn padded(bytes: &[u8]) -> Vec<u8> {
    let mut padded = bytes.to_vec();
    padded.resize(bytes.len().next_multiple_of(4), 0);
    padded
}

fn name(name: &str) -> Vec<u8> {
    let mut padded = name.as_bytes().to_vec();
    padded.resize(NAME_LEN, 0);
    padded
}

fn address(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn socket(socket: SocketAddr) -> Vec<u8> {
    [address(socket.ip()), padded(&socket.port().to_be_bytes())].concat()
}

/// An interface of the overlay.
pub(super) fn interface(interface: &str, role: Role) -> Vec<Placed> {
    let key = || Element::key(&name(interface));
    match role {
        Role::Tunnel => vec![(SetId::Ours, key())],
        Role::Bridge => vec![(SetId::Ours, key()), (SetId::Guests, key())],
    }
}

/// A prefix of the overlay.
pub(super) fn prefix(prefix: IpNet) -> Vec<Placed> {
    let set = SetId::Prefixes(Version::of(prefix.addr()));
    let elements = range(&address(prefix.network()), &address(prefix.broadcast()), None);
    elements.into_iter().map(|element| (set, element)).collect()
}

/// A container.
pub(super) fn container(container: &Container) -> Vec<Placed> {
    let mut placed = Vec::new();
    for link in &container.links {
        let at = match link {
            ContainerLink::Port { veth, bridge } => {
                placed.extend(port(veth, container));
                bridge
            }
            ContainerLink::Routed { veth } => {
                placed.push((SetId::Ours, Element::key(&name(veth))));
                placed.push((SetId::Guests, Element::key(&name(veth))));
                veth
            }
        };
        for own in &container.addresses {
            let element = (SetId::Sources(Version::of(*own)), Element::key(&[name(at), address(*own)].concat()));
            // Two ports at one bridge are one way to the host.
            if !placed.contains(&element) {
                placed.push(element);
            }
        }
    }
    placed
        .extend(container.addresses.iter().map(|own| (SetId::Hosted(Version::of(*own)), Element::key(&address(*own)))));
    if let Some(network) = container.network {
        placed.extend(container.addresses.iter().flat_map(|own| single_member(*own, network)));
    }
    placed
}

fn port(veth: &str, container: &Container) -> Vec<Placed> {
    let key = name(veth);
    let mut placed = vec![(SetId::Ports, Element::key(&key))];
    if let Some(network) = container.network {
        placed.push((SetId::PortNetworks, Element::pair(&key, &mark(network))));
        placed.push((SetId::PortPeers, Element::key(&[&mark(network), &key[..]].concat())));
    }
    placed.extend(
        container
            .addresses
            .iter()
            .map(|own| (SetId::PortSources(Version::of(*own)), Element::key(&[name(veth), address(*own)].concat()))),
    );
    placed
}

fn single_member(own: IpAddr, network: NetworkId) -> [Placed; 2] {
    let (version, key) = (Version::of(own), address(own));
    [
        (SetId::Networks(version), Element::pair(&key, &mark(network))),
        (SetId::Peers(version), Element::key(&[&mark(network), &key[..]].concat())),
    ]
}

/// A member that is no container here.
pub(super) fn member(prefix: IpNet, network: NetworkId) -> Vec<Placed> {
    let version = Version::of(prefix.addr());
    if let Some(own) = single(prefix) {
        let mut placed = vec![(SetId::Declared(version), Element::key(&address(own)))];
        placed.extend(single_member(own, network));
        return placed;
    }
    let [first, last] = [prefix.network(), prefix.broadcast()].map(address);
    let ends = range(&first, &last, Some(&mark(network)));
    let mut placed: Vec<_> = ends.into_iter().map(|element| (SetId::RangeNetworks(version), element)).collect();
    // What is compared from the left is in network order.
    let from = |address: &[u8]| [&network.number().to_be_bytes(), address].concat().into();
    placed.push((SetId::RangePeers(version), Element::Span { first: from(&first), last: from(&last) }));
    placed
}

/// A network as a mark.
fn mark(network: NetworkId) -> [u8; 4] {
    network.number().to_ne_bytes()
}

/// A published port.
pub(super) fn publication(listen: Listen, target: SocketAddr) -> Vec<Placed> {
    let version = Version::of(target.ip());
    let service = service_key(listen.protocol.number(), listen.socket.port());
    let at = listen.socket.ip();
    vec![if at.is_unspecified() {
        (SetId::Published(version), Element::pair(&service, &socket(target)))
    } else {
        (SetId::PublishedAt(version), Element::pair(&[address(at), service].concat(), &socket(target)))
    }]
}

/// A service of the host.
pub(super) fn service(service: Service) -> Vec<Placed> {
    let set = match service.clients {
        Clients::Overlay => SetId::Services,
        Clients::All => SetId::PublicServices,
    };
    vec![(set, Element::key(&service_key(service.protocol.number(), service.port)))]
}

fn service_key(protocol: u8, port: u16) -> Vec<u8> {
    [padded(&[protocol]), padded(&port.to_be_bytes())].concat()
}

/// Connections that do not outlive the change.
pub(super) fn stale(net: &Net) -> BTreeSet<Stale> {
    let gone = keys(&net.removed).filter_map(|(set, key, value)| stale_by_removal(set, key, value));
    let come = keys(&net.added).filter_map(|(set, key, _)| read_listen(set, key));
    gone.chain(come.filter(|listen| listen.protocol == Protocol::Udp).map(Stale::Published)).collect()
}

/// Connections that have to be gone by then, if they were to go, because their address or port is somebody's again.
pub(super) fn stale_for(net: &Net) -> BTreeSet<Stale> {
    let come = keys(&net.added).filter_map(|(set, key, _)| match set {
        SetId::Hosted(_) | SetId::Sources(_) | SetId::PortSources(_) => hosted(set, key).map(Stale::Address),
        _ => None,
    });
    come.collect()
}

fn keys(sets: &BTreeMap<SetId, Vec<Element>>) -> impl Iterator<Item = (SetId, &[u8], Option<&[u8]>)> {
    sets.iter().flat_map(|(set, elements)| elements.iter().map(move |element| (*set, element))).filter_map(
        |(set, element)| match element {
            Element::Key { key, value } => Some((set, &**key, value.as_deref())),
            _ => None,
        },
    )
}

/// The address of a container in a key.
fn hosted(set: SetId, key: &[u8]) -> Option<IpAddr> {
    match set {
        SetId::Hosted(_) => read_address(key),
        SetId::Sources(_) | SetId::PortSources(_) => read_address(key.get(NAME_LEN..)?),
        _ => None,
    }
}

fn stale_by_removal(set: SetId, key: &[u8], value: Option<&[u8]>) -> Option<Stale> {
    match set {
        SetId::Hosted(_) | SetId::Sources(_) | SetId::PortSources(_) => hosted(set, key).map(Stale::Address),
        SetId::Networks(_) => read_address(key).map(Stale::Address),
        SetId::Published(_) | SetId::PublishedAt(_) => {
            let (target, port) = value?.split_last_chunk::<4>()?;
            let target = SocketAddr::new(read_address(target)?, u16::from_be_bytes([port[0], port[1]]));
            Some(Stale::Unpublished(read_listen(set, key)?, target))
        }
        _ => None,
    }
}

fn read_listen(set: SetId, key: &[u8]) -> Option<Listen> {
    let any = |version| match version {
        Version::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        Version::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let (at, service) = key.split_last_chunk::<8>()?;
    let at = match set {
        SetId::Published(version) => any(version),
        SetId::PublishedAt(_) => read_address(at)?,
        _ => return None,
    };
    let protocol = [Protocol::Tcp, Protocol::Udp].into_iter().find(|protocol| protocol.number() == service[0])?;
    Some(Listen { protocol, socket: SocketAddr::new(at, u16::from_be_bytes([service[4], service[5]])) })
}

fn read_address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from);
    v4.or_else(|| <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from))
}
