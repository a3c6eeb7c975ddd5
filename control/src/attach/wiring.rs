//! The topologies of this project as plans: pure functions from addresses to links, routes and rules.
//!
//! ```text
//!            container A                       container B         in a container with both links
//!   eth0 As/26         eth1 Ax/32       eth0 Bs/26   eth1 Bx/32      from As → table 9800: As/26, default via G
//!     │                  │                │            │             from Ax → table 9801: default via N
//!     │                  │                │            │             from any → main: default via G, cluster via N
//!   ══╪══════════════════╪════════════════╪════════════╪═══ host
//!   veth-…-s           veth-…-g         veth-…-s     veth-…-g      the host routes Ax/32 and Bx/32, source N, to these
//!     └────── bridge G/26 ────────────────┘                        two links, and both ends know each other's
//!                  ╎                                               link-layer address: nobody asks, nobody proxies
//!              tunnel N/16; of a dedicated network G/32
//! ```
//!
//! The global address of a container is a single one, without a prefix of its own: every other address of the cluster is
//! behind the node. A container that has both links answers by the link it was asked on, and asks other members of the
//! cluster with its global address, which other nodes know to be here.

use super::plan::{HostEnd, LinkPlan, Plan, RoutePlan};
use crate::host::{Mac, NetnsId, PortFlags, RuleInfo, TABLE_MAIN};
use ipnet::IpNet;
use std::net::IpAddr;

/// Table for packets from the addresses of `eth0`, and the priority of the rules that lead there.
const TABLE_SERVICE: u32 = 9_800;

/// The same for `eth1`.
const TABLE_GLOBAL: u32 = 9_801;

/// How a container was found, which names the host's ends of its links.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FoundBy {
    /// By a process id: names as the main daemon knows them, `veth-<pid>-s` and `veth-<pid>-g`.
    Pid(u32),
    /// By its namespace: the same with the number of that in eight hexadecimal digits, which no process id has.
    Netns(NetnsId),
}

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
    /// Whether the node has them at the moment: the kernel takes routes with a source only while it has that address, and
    /// drops them with it.
    pub node_is_up: bool,
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

impl FoundBy {
    /// Name of the host's end of a [`ServiceLink`].
    #[must_use]
    pub fn service_name(&self) -> String {
        self.name('s')
    }

    /// Name of the host's end of a [`GlobalLink`].
    #[must_use]
    pub fn global_name(&self) -> String {
        self.name('g')
    }

    fn name(&self, link: char) -> String {
        match self {
            Self::Pid(pid) => format!("veth-{pid}-{link}"),
            Self::Netns(id) => format!("veth-{:08x}-{link}", id.number()),
        }
    }
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
        let source = |v4| node(v4).filter(|_| self.node_is_up);
        let host_route =
            |address: &IpAddr| RoutePlan { source: source(address.is_ipv4()), ..RoutePlan::new((*address).into()) };
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{Netns, check_name};

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn service() -> ServiceLink {
        ServiceLink {
            host_name: FoundBy::Pid(77).service_name(),
            bridge: "br0".into(),
            flags: PortFlags::default(),
            addresses: vec![net("10.200.64.2/26"), net("fd00:64::2/120")],
            gateways: vec![ip("10.200.64.1"), ip("fd00:64::1")],
            mtu: 1420,
        }
    }

    fn global() -> GlobalLink {
        GlobalLink {
            host_name: FoundBy::Pid(77).global_name(),
            addresses: vec![ip("10.200.1.2")],
            node: vec![ip("10.200.1.1"), ip("fd00:1::1")],
            node_is_up: true,
            cluster: vec![net("10.200.0.0/16"), net("fd00::/16")],
            mtu: 1420,
        }
    }

    #[test]
    fn names_are_those_the_main_daemon_knows_and_fit() {
        let by_pid = FoundBy::Pid(4_194_304);
        assert_eq!((by_pid.service_name(), by_pid.global_name()), ("veth-4194304-s".into(), "veth-4194304-g".into()));
        let by_netns = FoundBy::Netns(Netns::current().unwrap().id().unwrap());
        let names = [by_pid.service_name(), by_pid.global_name(), by_netns.service_name(), by_netns.global_name()];
        assert!(names.iter().all(|name| check_name(name).is_ok()), "{names:?}");
        assert_eq!(names[2].len(), 15, "no process id has as many digits");
    }

    #[test]
    fn a_single_link_needs_no_rules() {
        for plan in [container("x", Some(&service()), None), container("x", None, Some(&global()))] {
            let [link] = &plan.links[..] else { panic!("{plan:?}") };
            assert_eq!((&link.rules[..], link.routes.iter().all(|route| route.table == TABLE_MAIN)), (&[][..], true));
            assert!(link.routes.iter().all(|route| route.prefix.prefix_len() == 0), "{link:?}");
        }
    }

    #[test]
    fn with_both_links_every_address_has_its_own_way_out() {
        let plan = container("x", Some(&service()), Some(&global()));
        for link in &plan.links {
            let sources: Vec<_> = link.rules.iter().map(|rule| rule.source).collect();
            assert_eq!(sources, link.addresses.iter().map(IpNet::addr).collect::<Vec<_>>());
            for rule in &link.rules {
                let default = RoutePlan { table: rule.table, ..RoutePlan::new(everything(rule.source)) };
                let found =
                    link.routes.iter().filter(|route| (route.prefix, route.table) == (default.prefix, rule.table));
                assert_eq!(found.count(), 1, "{link:?}");
            }
        }
        // One default route of each family, that of the service; the cluster by the other link, as far as it has the family.
        let main = |link: &LinkPlan| {
            let routes = link.routes.iter().filter(|route| route.table == TABLE_MAIN);
            routes.map(|route| route.prefix.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(main(&plan.links[0]), ["0.0.0.0/0", "::/0"]);
        assert_eq!(main(&plan.links[1]), ["10.200.0.0/16"]);
    }

    #[test]
    fn the_prefixes_of_a_dedicated_network_are_the_bridges_alone() {
        let gateways = [net("10.200.141.129/26"), net("fd00:14::1/120")];
        let remote = [net("10.200.7.0/26"), net("10.200.141.128/26"), net("10.200.141.192/26"), net("fd00:15::/120")];
        let wiring = dedicated(&gateways, &remote);
        assert_eq!(wiring.tunnel, [net("10.200.141.129/32"), net("fd00:14::1/128")]);
        assert_eq!(wiring.bridge, gateways);
        let routes: Vec<_> = wiring.routes.iter().map(|route| (route.prefix, route.source)).collect();
        let (v4, v6) = (Some(gateways[0].addr()), Some(gateways[1].addr()));
        assert_eq!(routes, [(remote[0], v4), (remote[2], v4), (remote[3], v6)]);
    }

    #[test]
    fn link_layer_addresses_are_those_of_single_links_and_differ() {
        let macs = [
            mac([ip("10.200.64.2"), ip("fd00:64::2")]),
            mac([ip("fd00:64::2")]),
            mac([ip("10.200.64.3")]),
            mac([ip("10.201.64.2")]),
            mac([ip("fd00:64::3")]),
        ];
        for (number, one) in macs.iter().enumerate() {
            assert_eq!(one[0] & 3, 2, "locally administered, and no group");
            assert!(macs[..number].iter().all(|other| other != one));
        }
        assert_eq!(mac([ip("fd00:64::2"), ip("10.200.64.2")]), macs[0]);
    }
}
