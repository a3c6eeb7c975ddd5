//! The topologies of this project as plans: pure functions from addresses to links, routes and rules.
//!
//! ```text
//!            container A                    container B            each address leaves by its own link:
//!   eth0 As/26         eth1 Ax/32     eth0 …         eth1 Bx/32      from As → table of eth0
//!     │ default via G    │ cluster via N                             from Ax → table of eth1
//!   ══╪══════════════════╪═════════════╪══════════════╪════ host
//!   veth-…-s           veth-…-g      veth-…-s       veth-…-g
//!     └──────── bridge G/26 ───────────┘              Ax/32, Bx/32: routes of the host, source N
//!                   │
//!               tunnel N/16, or in dedicated mode G/32
//! ```
//!
//! The global address of a container is a single one, without a prefix of its own: every other address of the cluster is
//! behind the node. A container that has both links answers by the link it was asked on, and asks other members of the
//! cluster with its global address, which other nodes know to be here.

use super::plan::{HostEnd, LinkPlan, Plan, RoutePlan};
use crate::host::{Mac, PortFlags, RuleInfo, TABLE_MAIN};
use ipnet::IpNet;
use std::net::IpAddr;

/// Table for packets from the addresses of `eth0`, and the priority of the rules that lead there.
const TABLE_SERVICE: u32 = 9_800;

/// The same for `eth1`.
const TABLE_GLOBAL: u32 = 9_801;

/// The link of a container to the network of a service.
#[derive(Clone, Debug)]
pub struct ServiceLink {
    /// Name of the host's end.
    pub host_name: String,
    /// The bridge of the service, or of the node in shared mode.
    pub bridge: String,
    /// How the bridge treats the port.
    pub flags: PortFlags,
    /// Addresses of the container, at most one of each family, with the prefix of the service.
    pub addresses: Vec<IpNet>,
    /// Addresses of the bridge, at most one of each family.
    pub gateways: Vec<IpAddr>,
    /// MTU of the network in bytes.
    pub mtu: u32,
}

/// The link of a container to the global overlay.
#[derive(Clone, Debug)]
pub struct GlobalLink {
    /// Name of the host's end.
    pub host_name: String,
    /// Addresses of the container, at most one of each family.
    pub addresses: Vec<IpAddr>,
    /// Addresses of the node, one for each family of `addresses`.
    pub node: Vec<IpAddr>,
    /// What is to be reached through it, of either family.
    pub cluster: Vec<IpNet>,
    /// MTU of the network in bytes.
    pub mtu: u32,
}

/// How a network with a device of its own is wired on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dedicated {
    /// Addresses of the tunnel: those of the bridge, without their prefixes.
    pub tunnel: Vec<IpNet>,
    /// Addresses of the bridge, with the prefixes of the containers here.
    pub bridge: Vec<IpNet>,
    /// Routes of the host through the tunnel.
    pub routes: Vec<RoutePlan>,
}

/// The plan of a container with a link to its service, to the global overlay, or both.
#[must_use]
pub fn container(owner: impl Into<String>, service: Option<&ServiceLink>, global: Option<&GlobalLink>) -> Plan {
    let both = service.is_some() && global.is_some();
    let service = service.map(|service| service.plan(both));
    let global = global.map(|global| global.plan(both));
    Plan { owner: owner.into(), links: service.into_iter().chain(global).collect() }
}

/// The wiring of a dedicated network: `gateways` are the addresses of the bridge with the prefixes of the containers here,
/// `remote` what is behind the peers of its tunnel.
///
/// Bridge and tunnel share the addresses, but the prefixes are the bridge's alone: a second connected route, through the
/// tunnel, would take what is meant for the containers here. What is elsewhere gets routes that name it.
#[must_use]
pub fn dedicated(gateways: &[IpNet], remote: &[IpNet]) -> Dedicated {
    let source = |prefix: &IpNet| of_family(gateways.iter().map(IpNet::addr), prefix.addr().is_ipv4());
    let route = |prefix: &IpNet| RoutePlan { source: source(prefix), ..RoutePlan::new(*prefix) };
    let local = |prefix: &IpNet| gateways.iter().any(|gateway| gateway.trunc().contains(prefix));
    Dedicated {
        tunnel: gateways.iter().map(|gateway| IpNet::from(gateway.addr())).collect(),
        bridge: gateways.to_vec(),
        routes: remote.iter().filter(|prefix| !local(prefix)).map(route).collect(),
    }
}

/// A link-layer address for the holder of `addresses`: locally administered, and the same whoever holds them, so that a
/// neighbour that remembers an earlier holder is not misled. Unique among IPv4 addresses, and among IPv6 addresses of one
/// prefix of 96 bits or longer.
#[must_use]
pub fn mac(addresses: impl IntoIterator<Item = IpAddr> + Clone) -> Mac {
    match (of_family(addresses.clone(), true), of_family(addresses, false)) {
        (Some(IpAddr::V4(v4)), _) => {
            let [a, b, c, d] = v4.octets();
            [0x02, 0x67, a, b, c, d]
        }
        (_, Some(IpAddr::V6(v6))) => {
            let [.., a, b, c, d] = v6.octets();
            [0x02, 0x66, a, b, c, d]
        }
        _ => [0x02, 0, 0, 0, 0, 0],
    }
}

impl ServiceLink {
    fn plan(&self, beside_another: bool) -> LinkPlan {
        let defaults = |table| {
            let route =
                move |gateway: &IpAddr| RoutePlan { table, ..RoutePlan::new(everything(*gateway)).via(*gateway) };
            self.gateways.iter().map(route)
        };
        let mut routes: Vec<_> = defaults(TABLE_MAIN).collect();
        let mut rules = Vec::new();
        if beside_another {
            let connected = |address: &IpNet| RoutePlan { table: TABLE_SERVICE, ..RoutePlan::new(*address) };
            routes.extend(self.addresses.iter().map(connected));
            routes.extend(defaults(TABLE_SERVICE));
            rules.extend(self.addresses.iter().map(|address| from(address.addr(), TABLE_SERVICE)));
        }
        LinkPlan {
            host_name: self.host_name.clone(),
            host: HostEnd::Port { bridge: self.bridge.clone(), flags: self.flags },
            name: "eth0".into(),
            mtu: self.mtu,
            mac: mac(self.addresses.iter().map(IpNet::addr)),
            addresses: self.addresses.clone(),
            routes,
            rules,
            neighbours: Vec::new(),
        }
    }
}

impl GlobalLink {
    fn plan(&self, beside_another: bool) -> LinkPlan {
        let own = |v4| of_family(self.addresses.iter().copied(), v4);
        let node = |v4| of_family(self.node.iter().copied(), v4);
        let through_node = |prefix: IpNet| {
            let v4 = prefix.addr().is_ipv4();
            Some(RoutePlan { source: Some(own(v4)?), ..RoutePlan::new(prefix).via(node(v4)?) })
        };
        let default = |address: &IpAddr| through_node(everything(*address));
        let mut routes: Vec<_> = self.addresses.iter().filter_map(default).collect();
        let mut rules = Vec::new();
        if beside_another {
            routes.iter_mut().for_each(|route| route.table = TABLE_GLOBAL);
            routes.extend(self.cluster.iter().filter_map(|prefix| through_node(*prefix)));
            rules.extend(self.addresses.iter().map(|address| from(*address, TABLE_GLOBAL)));
        }
        let host_route =
            |address: &IpAddr| RoutePlan { source: node(address.is_ipv4()), ..RoutePlan::new((*address).into()) };
        LinkPlan {
            host_name: self.host_name.clone(),
            host: HostEnd::Routed { routes: self.addresses.iter().map(host_route).collect() },
            name: "eth1".into(),
            mtu: self.mtu,
            mac: mac(self.addresses.iter().copied()),
            addresses: self.addresses.iter().map(|address| IpNet::from(*address)).collect(),
            routes,
            rules,
            neighbours: self.node.clone(),
        }
    }
}

fn from(source: IpAddr, table: u32) -> RuleInfo {
    RuleInfo { source, table, priority: table }
}

fn of_family(addresses: impl IntoIterator<Item = IpAddr>, v4: bool) -> Option<IpAddr> {
    addresses.into_iter().find(|address| address.is_ipv4() == v4)
}

/// The prefix of all addresses of the family of `address`.
fn everything(address: IpAddr) -> IpNet {
    IpNet::new_assert(address, 0).trunc()
}
