//! Hosts in namespaces of their own, with attachers, and the containers on them.

use ginnel_control::attach::wiring::{GlobalLink, ServiceLink, container, mac};
use ginnel_control::attach::{Attached, Attacher, BridgePlan, Plan};
use ginnel_control::host::{HostError, Mark, Netlink, Netns, PortFlags};
use ginnel_control::lab::container::Container;
use ginnel_control::lab::traffic::{End, TrafficError, wait_reachable};
use ipnet::IpNet;
use std::fs;
use std::net::IpAddr;
use std::time::Duration;

/// For what has to arrive. The machine may be slow.
const ARRIVES: Duration = Duration::from_secs(20);

/// For what must not: long enough for many probes.
const STAYS_AWAY: Duration = Duration::from_millis(700);

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

pub fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(work)
}

/// A node.
pub struct Host {
    pub netns: Netns,
    pub attacher: Attacher,
}

impl Host {
    pub fn new(instance: &str) -> Self {
        let netns = Netns::create().unwrap();
        netns.bring_lo_up().unwrap();
        Self::beside(&netns, instance)
    }

    /// Another instance on the same host.
    pub fn beside(netns: &Netns, instance: &str) -> Self {
        let attacher = Attacher::open_in(netns, Mark::new(instance).unwrap()).unwrap();
        Self { netns: netns.clone(), attacher }
    }

    /// Lets packets through, and checks their sources as strictly as a host may.
    pub fn forward_strictly(&self) {
        self.set("ipv4/ip_forward", "1");
        self.set("ipv6/conf/all/forwarding", "1");
        self.set("ipv4/conf/all/rp_filter", "1");
        self.set("ipv4/conf/default/rp_filter", "1");
    }

    fn set(&self, setting: &str, value: &str) {
        self.netns.run_in(|| fs::write(format!("/proc/sys/net/{setting}"), value)).unwrap().unwrap();
    }

    pub async fn bridge(&self, name: &str, mtu: u32, addresses: &[&str]) -> u32 {
        let plan = bridge_plan(name, mtu, addresses);
        self.attacher.ensure_bridge(&plan).await.unwrap().index
    }

    pub async fn attach(&self, container: &Container, plan: &Plan) -> Attached {
        self.attacher.attach(plan, container.netns()).await.unwrap()
    }

    pub fn end(&self, address: &str) -> End {
        End { netns: self.netns.clone(), ip: ip(address) }
    }

    /// Every link of the host but loopback, by name, in order.
    pub fn links(&self) -> Vec<String> {
        links(&self.netns)
    }
}

pub fn bridge_plan(name: &str, mtu: u32, addresses: &[&str]) -> BridgePlan {
    let addresses: Vec<_> = addresses.iter().map(|address| net(address)).collect();
    let mac = mac(addresses.iter().map(IpNet::addr));
    BridgePlan { name: name.into(), object: format!("service:{name}"), mtu, mac, addresses }
}

pub fn links(netns: &Netns) -> Vec<String> {
    let links = netns.configure(async |netlink: &Netlink| netlink.links().await).unwrap();
    let mut names: Vec<_> = links.into_iter().map(|link| link.name).filter(|name| name != "lo").collect();
    names.sort();
    names
}

pub fn service(container: &Container, bridge: &str, mtu: u32, addresses: &[&str], gateways: &[&str]) -> ServiceLink {
    ServiceLink {
        host_name: format!("veth-{}-s", container.pid()),
        bridge: bridge.into(),
        flags: PortFlags::default(),
        addresses: addresses.iter().map(|address| net(address)).collect(),
        gateways: gateways.iter().map(|address| ip(address)).collect(),
        mtu,
    }
}

pub fn global(container: &Container, addresses: &[&str], node: &[&str], cluster: &[&str]) -> GlobalLink {
    GlobalLink {
        host_name: format!("veth-{}-g", container.pid()),
        addresses: addresses.iter().map(|address| ip(address)).collect(),
        node: node.iter().map(|address| ip(address)).collect(),
        node_is_up: true,
        cluster: cluster.iter().map(|prefix| net(prefix)).collect(),
        mtu: 1420,
    }
}

/// The plan of a container that is only a member of a service.
pub fn member(of: &Container, bridge: &str, addresses: &[&str], gateways: &[&str]) -> Plan {
    container(owner(of), Some(&service(of, bridge, 1420, addresses, gateways)), None)
}

pub fn owner(of: &Container) -> String {
    format!("container-{}", of.pid())
}

pub fn reaches(near: &End, far: &End) {
    wait_reachable(near, far, ARRIVES).unwrap_or_else(|error| panic!("{} to {}: {error}", near.ip, far.ip));
}

pub fn reaches_both_ways(one: &End, other: &End) {
    reaches(one, other);
    reaches(other, one);
}

pub fn does_not_reach(near: &End, far: &End) {
    let outcome = wait_reachable(near, far, STAYS_AWAY);
    assert!(matches!(outcome, Err(TrafficError::Unreachable { .. })), "{} to {}: {outcome:?}", near.ip, far.ip);
}

/// The same end, without a say in its source address.
pub fn unbound(end: &End) -> End {
    let any = if end.ip.is_ipv4() { "0.0.0.0" } else { "::" };
    End { ip: ip(any), ..end.clone() }
}

/// Everything of a namespace that an attachment could leave behind.
pub fn traces(netns: &Netns) -> Vec<String> {
    let look = async |netlink: &Netlink| -> Result<Vec<String>, HostError> {
        let mut found = Vec::new();
        for link in netlink.links().await? {
            let mut addresses = netlink.addresses(link.index).await?;
            // The kernel makes one when a bridge gets its first port.
            addresses.retain(|address| !net("fe80::/10").contains(address));
            // Loopback is brought up, and stays.
            found.push(if link.name == "lo" { "lo".into() } else { format!("{link:?} {addresses:?}") });
        }
        found.extend(netlink.routes().await?.iter().map(|route| format!("{route:?}")));
        found.extend(netlink.rules().await?.iter().map(|rule| format!("{rule:?}")));
        Ok(found)
    };
    netns.configure(look).unwrap()
}
