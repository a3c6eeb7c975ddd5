//! What only tests ask of the kernel's routing: rules that refuse marked datagrams, and a router between two nodes.

use ginnel_control::host::{HostError, LinkChange, Netns};
use ginnel_control::lab::{Node, UNDERLAY_LINK};
use ipnet::IpNet;
use rtnetlink::packet_route::rule::RuleAction;
use rtnetlink::{Error, Handle, RouteMessageBuilder, new_connection};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;

/// Has the kernel refuse to send what carries this mark, in both families.
///
/// # Panics
/// Where it will not.
pub fn refuse_marked(netns: &Netns, mark: u32) {
    in_netns(netns, async |handle| {
        // Before the rules for everything, which begin at 32766.
        let rule = || handle.rule().add().fw_mark(mark).priority(10).action(RuleAction::Unreachable);
        rule().v4().execute().await?;
        rule().v6().execute().await
    });
}

/// Two nodes with a router between them.
///
/// ```text
/// near 192.0.2.1/25, 2001:db8:0:1::1/64 ══ router ══ far 192.0.2.129/25, 2001:db8:0:2::81/64
/// ```
pub struct Crossing {
    /// Number 1.
    pub near: Node,
    /// Number 129.
    pub far: Node,
    _router: Netns,
}

/// The router is the last host of either network.
const ROUTER_V4: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 0, 2, 126), Ipv4Addr::new(192, 0, 2, 254)];

impl Crossing {
    /// Builds one whose cable to the far node has this MTU, and the other 1500: the near node does not know.
    ///
    /// # Panics
    /// Where it cannot be built.
    #[must_use]
    pub fn build(far_mtu: u32) -> Self {
        let router = Netns::create().expect("a namespace");
        let forward = || {
            fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
            fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1")
        };
        router.run_in(forward).expect("the namespace can be entered").expect("forwarding can be set");
        let near = attach(&router, 0, 1, 1_500);
        let far = attach(&router, 1, 129, far_mtu);
        Self { near, far, _router: router }
    }
}

fn attach(router: &Netns, side: usize, number: u8, mtu: u32) -> Node {
    let network_v6 = |last: u16| Ipv6Addr::new(0x2001, 0xdb8, 0, side as u16 + 1, 0, 0, 0, last);
    let node = Node {
        netns: Netns::create().expect("a namespace"),
        underlay_v4: Ipv4Addr::new(192, 0, 2, number),
        underlay_v6: network_v6(number.into()),
    };
    node.netns.bring_lo_up().expect("loopback comes up");
    let (router_v4, router_v6) = (ROUTER_V4[side], network_v6(0xfe));
    let port = format!("port{side}");
    let cable =
        router.configure(async |netlink| netlink.create_veth(&port, UNDERLAY_LINK, Some(node.netns.as_fd())).await);
    cable.expect("a cable");
    up(router, &port, mtu, [router_v4.into(), router_v6.into()]).expect("the router's port comes up");
    up(&node.netns, UNDERLAY_LINK, mtu, [node.underlay_v4.into(), node.underlay_v6.into()]).expect("the node comes up");
    in_netns(&node.netns, async |handle| {
        let v4 = RouteMessageBuilder::<Ipv4Addr>::new().gateway(router_v4).build();
        handle.route().add(v4).execute().await?;
        let v6 = RouteMessageBuilder::<Ipv6Addr>::new().gateway(router_v6).build();
        handle.route().add(v6).execute().await
    });
    node
}

fn up(netns: &Netns, name: &str, mtu: u32, addresses: [IpAddr; 2]) -> Result<(), HostError> {
    netns.configure(async |netlink| {
        let link = netlink.link(name).await?;
        let change = LinkChange { up: Some(true), mtu: Some(mtu), ..LinkChange::default() };
        netlink.change_link(link.index, &change).await?;
        for address in addresses {
            let len = if address.is_ipv4() { 25 } else { 64 };
            netlink.add_address(link.index, IpNet::new_assert(address, len)).await?;
        }
        Ok(())
    })
}

fn in_netns(netns: &Netns, work: impl AsyncFnOnce(&Handle) -> Result<(), Error> + Send) {
    let outcome = netns.block_on(async || {
        let (connection, handle, _) = new_connection().expect("a netlink socket");
        tokio::spawn(connection);
        work(&handle).await
    });
    outcome.expect("the namespace can be entered").expect("the kernel agrees");
}
