//! Who reaches whom, by packets, in both families: services, the global overlay, dedicated networks.
//!
//! ```text
//!   a1 a2   b1                           c1
//!   │  │     │   each also by eth1 ──┐    │
//!  ═╧══╧═   ═╧═                      │   ═╧═       hosts forward, with strict reverse path filters
//!  brA      brB        host 1        │   brC   host 2
//!                        ╘══ cable, in the place of a tunnel ══╛
//! ```

use crate::world::{
    Host, block_on, does_not_reach, global, ip, member, net, owner, reaches, reaches_both_ways, service, unbound,
};
use ginnel_control::attach::wiring::{container, dedicated};
use ginnel_control::attach::{Attacher, Difference, HostEnd};
use ginnel_control::host::{LinkChange, Netlink, Netns, PortFlags, RouteInfo};
use ginnel_control::lab::container::Container;
use ginnel_control::lab::rights_or_skip;
use std::fs;
use std::net::UdpSocket;
use std::os::fd::AsFd;

#[test]
fn members_of_a_service_and_the_host_reach_each_other_at_once() {
    if !rights_or_skip() {
        return;
    }
    let host = Host::new("a");
    let (one, two) = (Container::start().unwrap(), Container::start().unwrap());
    block_on(async {
        host.bridge("zl-a-0-web-b", 1420, &["10.200.5.1/26", "fd00:5::1/120"]).await;
        for (container, last) in [(&one, 2), (&two, 3)] {
            let addresses = [format!("10.200.5.{last}/26"), format!("fd00:5::{last}/120")];
            let addresses = [&*addresses[0], &*addresses[1]];
            host.attach(container, &member(container, "zl-a-0-web-b", &addresses, &["10.200.5.1", "fd00:5::1"])).await;
            // Not tentative: such an address could not be bound.
            let bind = || UdpSocket::bind((ip(&format!("fd00:5::{last}")), 0)).map(drop);
            container.netns().run_in(bind).unwrap().unwrap();
        }
    });
    for prefix in ["10.200.5.", "fd00:5::"] {
        let at = |last: u8| format!("{prefix}{last}");
        let (one, two) = (one.end(ip(&at(2))), two.end(ip(&at(3))));
        reaches_both_ways(&one, &two);
        reaches_both_ways(&one, &host.end(&at(1)));
        reaches(&unbound(&one), &two);
        reaches(&unbound(&host.end(&at(1))), &two);
    }
    assert_eq!(crate::world::links(one.netns()), ["eth0"]);
}

#[test]
fn ipv6_works_where_new_links_are_made_without_and_routers_are_not_believed() {
    if !rights_or_skip() {
        return;
    }
    let host = Host::new("a");
    host.forward_strictly();
    let container_of = Container::start().unwrap();
    let sysctl = |netns: &Netns, name: &str| {
        let read = || fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{name}")).unwrap();
        netns.run_in(read).unwrap().trim().to_owned()
    };
    // As the runtimes leave a container, and cautious administrators a host.
    for netns in [&host.netns, container_of.netns()] {
        let off = || fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
        netns.run_in(off).unwrap().unwrap();
    }
    block_on(async {
        host.bridge("br0", 1420, &["10.200.5.1/26", "fd00:5::1/120"]).await;
        host.bridge("br4", 1420, &["10.200.6.1/26"]).await;
        // In the place of the tunnel.
        host.bridge("node", 1420, &["10.200.1.1/28", "fd00:7:1::1/64"]).await;
        let service =
            service(&container_of, "br0", 1420, &["10.200.5.2/26", "fd00:5::2/120"], &["10.200.5.1", "fd00:5::1"]);
        let own = ["10.200.1.2", "fd00:7:1::2"];
        let global = global(&container_of, &own, &["10.200.1.1", "fd00:7:1::1"], &["10.200.0.0/16", "fd00:7::/32"]);
        let plan = container(owner(&container_of), Some(&service), Some(&global));
        host.attach(&container_of, &plan).await;
        // Somebody switched it off again.
        let off = || fs::write("/proc/sys/net/ipv6/conf/eth0/disable_ipv6", "1");
        container_of.netns().run_in(off).unwrap().unwrap();
        let attached = host.attach(&container_of, &plan).await;
        assert!(attached.links[0].repaired.contains(&Difference::AddressMissing(net("fd00:5::2/120"))), "{attached:?}");
    });
    for (own, node) in [
        ("fd00:5::2", "fd00:5::1"),
        ("fd00:7:1::2", "fd00:7:1::1"),
        ("10.200.5.2", "10.200.5.1"),
        ("10.200.1.2", "10.200.1.1"),
    ] {
        reaches_both_ways(&container_of.end(ip(own)), &host.end(node));
    }
    let inside = ["eth0", "eth1"].map(|link| sysctl(container_of.netns(), &format!("{link}/accept_ra")));
    let outside = ["br0".into(), format!("veth-{}-g", container_of.pid())];
    let outside = outside.map(|link| sysctl(&host.netns, &format!("{link}/accept_ra")));
    assert_eq!([inside, outside], [["0", "0"], ["0", "0"]]);
    // What carries none is left as it was.
    assert_eq!(sysctl(&host.netns, "br4/disable_ipv6"), "1");
}

#[test]
fn isolated_ports_reach_the_host_and_not_each_other() {
    if !rights_or_skip() {
        return;
    }
    let host = Host::new("a");
    let containers = [Container::start().unwrap(), Container::start().unwrap(), Container::start().unwrap()];
    block_on(async {
        host.bridge("br0", 1420, &["10.200.5.1/26", "fd00:5::1/120"]).await;
        for (number, container) in containers.iter().enumerate() {
            let addresses = [format!("10.200.5.{}/26", number + 2), format!("fd00:5::{}/120", number + 2)];
            let addresses = [&*addresses[0], &*addresses[1]];
            let mut plan = member(container, "br0", &addresses, &["10.200.5.1", "fd00:5::1"]);
            // The last one is not isolated.
            let flags = PortFlags { isolated: number < 2, hairpin: false };
            plan.links[0].host = HostEnd::Port { bridge: "br0".into(), flags };
            host.attach(container, &plan).await;
        }
    });
    for prefix in ["10.200.5.", "fd00:5::"] {
        let at = |last: usize| format!("{prefix}{last}");
        let end = |number: usize| containers[number].end(ip(&at(number + 2)));
        does_not_reach(&end(0), &end(1));
        reaches_both_ways(&end(0), &end(2));
        reaches_both_ways(&end(0), &host.end(&at(1)));
        reaches_both_ways(&end(1), &end(2));
    }
}

/// Both hosts know each other's networks behind the cable, as their tunnels would by allowed IPs.
async fn cable(one: &Host, two: &Host, nodes: [[&str; 2]; 2], behind: [&[&str]; 2]) {
    let near = one.attacher.netlink();
    near.create_veth("tunnel", "tunnel", Some(two.netns.as_fd())).await.unwrap();
    for (number, host) in [one, two].into_iter().enumerate() {
        let netlink: &Netlink = host.attacher.netlink();
        let index = netlink.link("tunnel").await.unwrap().index;
        let change = LinkChange { up: Some(true), mtu: Some(1420), ..LinkChange::default() };
        netlink.change_link(index, &change).await.unwrap();
        for address in nodes[number] {
            netlink.add_address(index, net(address)).await.unwrap();
        }
        for prefix in behind[1 - number].iter().map(|prefix| net(prefix)) {
            let family = usize::from(prefix.addr().is_ipv6());
            let gateway = net(nodes[1 - number][family]).addr();
            let source = Some(net(nodes[number][family]).addr());
            let route = RouteInfo { gateway: Some(gateway), source, ..RouteInfo::new(prefix, index) };
            netlink.add_route(&route).await.unwrap();
        }
    }
}

#[test]
fn every_address_of_every_container_is_reached_from_everywhere() {
    if !rights_or_skip() {
        return;
    }
    let hosts = [Host::new("a"), Host::new("a")];
    hosts.iter().for_each(Host::forward_strictly);
    // Service subnets and slices of one cluster, as they are in a deployment.
    let networks = [
        (0, "brA", "10.200.64.", "fd00:7:1:64::"),
        (0, "brB", "10.200.65.", "fd00:7:1:65::"),
        (1, "brC", "10.200.66.", "fd00:7:2:66::"),
    ];
    let members = [(0, 2, 2), (0, 3, 3), (1, 2, 4), (2, 2, 2)];
    let containers: Vec<_> = members.iter().map(|_| Container::start().unwrap()).collect();
    let mut ends = Vec::new();
    block_on(async {
        let nodes = [["10.200.1.1/16", "fd00:7:1::1/32"], ["10.200.2.1/16", "fd00:7:2::1/32"]];
        let behind: [&[&str]; 2] = [
            &["10.200.1.0/28", "10.200.64.0/26", "10.200.65.0/26", "fd00:7:1::/48"],
            &["10.200.2.0/28", "10.200.66.0/26", "fd00:7:2::/48"],
        ];
        cable(&hosts[0], &hosts[1], nodes, behind).await;
        for (host, bridge, v4, v6) in networks {
            let gateways = [format!("{v4}1/26"), format!("{v6}1/120")];
            hosts[host].bridge(bridge, 1420, &[&gateways[0], &gateways[1]]).await;
        }
        for ((network, last, slice), container_of) in members.iter().zip(&containers) {
            let (host, bridge, v4, v6) = networks[*network];
            let node = host + 1;
            let (own, gateways) =
                ([format!("{v4}{last}/26"), format!("{v6}{last}/120")], [format!("{v4}1"), format!("{v6}1")]);
            let service = service(container_of, bridge, 1420, &[&own[0], &own[1]], &[&gateways[0], &gateways[1]]);
            let everywhere = [format!("10.200.{node}.{slice}"), format!("fd00:7:{node}::{slice}")];
            let nodes = [format!("10.200.{node}.1"), format!("fd00:7:{node}::1")];
            let cluster = ["10.200.0.0/16", "fd00:7::/32"];
            let global = global(container_of, &[&everywhere[0], &everywhere[1]], &[&nodes[0], &nodes[1]], &cluster);
            let plan = container(owner(container_of), Some(&service), Some(&global));
            hosts[host].attach(container_of, &plan).await;
            let addresses =
                [&*format!("{v4}{last}"), &*everywhere[0], &*format!("{v6}{last}"), &*everywhere[1]].map(ip);
            ends.push(addresses.map(|address| container_of.end(address)));
        }
    });
    let ends: Vec<_> = ends.into_iter().flatten().collect();
    for near in &ends {
        for far in ends.iter().filter(|far| far.ip != near.ip && far.ip.is_ipv4() == near.ip.is_ipv4()) {
            reaches(near, far);
            reaches(&unbound(near), far);
        }
        for (host, node) in hosts.iter().zip([["10.200.1.1", "fd00:7:1::1"], ["10.200.2.1", "fd00:7:2::1"]]) {
            let node = host.end(node[usize::from(near.ip.is_ipv6())]);
            reaches_both_ways(near, &node);
            reaches(&unbound(&node), near);
        }
    }
}

#[test]
fn a_container_with_only_a_global_address_reaches_all() {
    if !rights_or_skip() {
        return;
    }
    let host = Host::new("a");
    host.forward_strictly();
    let containers = [Container::start().unwrap(), Container::start().unwrap()];
    block_on(async {
        let netlink = host.attacher.netlink();
        let tunnel = netlink.create_veth("tunnel", "far", None).await.unwrap();
        netlink.set_up(tunnel, true).await.unwrap();
        netlink.set_up(netlink.link("far").await.unwrap().index, true).await.unwrap();
        netlink.add_address(tunnel, net("10.200.1.1/16")).await.unwrap();
        netlink.add_address(tunnel, net("fd00:7:1::1/32")).await.unwrap();
        for (container_of, last) in containers.iter().zip([9, 10]) {
            // In the slice of the node: other members of it are not on a link of the container's.
            let own = [format!("10.200.1.{last}"), format!("fd00:7:1::{last}")];
            let cluster = ["10.200.0.0/16", "fd00:7::/32"];
            let global = global(container_of, &[&own[0], &own[1]], &["10.200.1.1", "fd00:7:1::1"], &cluster);
            host.attach(container_of, &container(owner(container_of), None, Some(&global))).await;
        }
    });
    for (one, two, node) in
        [("10.200.1.9", "10.200.1.10", "10.200.1.1"), ("fd00:7:1::9", "fd00:7:1::10", "fd00:7:1::1")]
    {
        let (one, two) = (containers[0].end(ip(one)), containers[1].end(ip(two)));
        reaches_both_ways(&one, &two);
        reaches_both_ways(&one, &host.end(node));
        reaches(&unbound(&two), &one);
    }
}

#[test]
fn in_a_dedicated_network_host_and_containers_reach_each_other_here_and_there() {
    if !rights_or_skip() {
        return;
    }
    let hosts = [Host::new("a"), Host::new("a")];
    hosts.iter().for_each(Host::forward_strictly);
    let containers = [Container::start().unwrap(), Container::start().unwrap()];
    let subnets = [["10.200.141.129/26", "fd00:14::1/120"], ["10.200.7.1/26", "fd00:15::1/120"]];
    let own = [["10.200.141.130/26", "fd00:14::2/120"], ["10.200.7.2/26", "fd00:15::2/120"]];
    block_on(async {
        let far = hosts[1].netns.as_fd();
        hosts[0].attacher.netlink().create_veth("zl-pay-d", "zl-pay-d", Some(far)).await.unwrap();
        for (number, host) in hosts.iter().enumerate() {
            let remote = subnets[1 - number].map(|prefix| net(prefix).trunc());
            let wiring = dedicated(&subnets[number].map(net), &remote);
            let netlink = host.attacher.netlink();
            let tunnel = netlink.link("zl-pay-d").await.unwrap().index;
            netlink.set_up(tunnel, true).await.unwrap();
            for address in &wiring.tunnel {
                netlink.add_address(tunnel, *address).await.unwrap();
            }
            let bridge = wiring.bridge.iter().map(ToString::to_string).collect::<Vec<_>>();
            host.bridge("zl-pay-b", 1420, &bridge.iter().map(|text| &**text).collect::<Vec<_>>()).await;
            for route in &wiring.routes {
                // A cable asks for link-layer addresses where a tunnel would not.
                let gateway = net(subnets[1 - number][usize::from(route.prefix.addr().is_ipv6())]).addr();
                let route =
                    RouteInfo { source: route.source, gateway: Some(gateway), ..RouteInfo::new(route.prefix, tunnel) };
                netlink.add_route(&route).await.unwrap();
            }
            let gateways = subnets[number].map(|gateway| net(gateway).addr().to_string());
            let plan = member(&containers[number], "zl-pay-b", &own[number], &[&gateways[0], &gateways[1]]);
            host.attach(&containers[number], &plan).await;
        }
    });
    for family in [0, 1] {
        let at = |text: &str| net(text).addr().to_string();
        let container = |number: usize| containers[number].end(ip(&at(own[number][family])));
        let host = |number: usize| hosts[number].end(&at(subnets[number][family]));
        reaches_both_ways(&container(0), &container(1));
        for (number, other) in [(0, 1), (1, 0)] {
            reaches_both_ways(&host(number), &container(number));
            reaches(&unbound(&host(number)), &container(number));
            reaches_both_ways(&host(number), &container(other));
            reaches(&unbound(&host(number)), &container(other));
        }
        reaches_both_ways(&host(0), &host(1));
    }
}

#[test]
fn two_instances_on_one_host_do_not_touch_each_other() {
    if !rights_or_skip() {
        return;
    }
    let first = Host::new("a");
    let second = Host::beside(&first.netns, "b");
    let containers = [Container::start().unwrap(), Container::start().unwrap()];
    block_on(async {
        first.bridge("br-a", 1420, &["10.1.0.1/24"]).await;
        second.bridge("br-b", 1420, &["10.2.0.1/24"]).await;
        first.attach(&containers[0], &member(&containers[0], "br-a", &["10.1.0.2/24"], &["10.1.0.1"])).await;
        second.attach(&containers[1], &member(&containers[1], "br-b", &["10.2.0.2/24"], &["10.2.0.1"])).await;
        let theirs = [format!("veth-{}-s", containers[0].pid()), format!("veth-{}-s", containers[1].pid())];
        let sweep = async |attacher: &Attacher| attacher.sweep(|_| false).await.unwrap();
        let detached = second.attacher.detach(&owner(&containers[0]), &theirs[..1]).await.unwrap();
        assert_eq!((detached.removed.len(), detached.others), (0, vec![theirs[0].clone()]));
        assert!(second.attacher.remove_bridge("br-a", "service:br-a").await.is_err());
        assert!(
            second.attacher.ensure_bridge(&crate::world::bridge_plan("br-a", 1420, &["10.1.0.1/24"])).await.is_err()
        );
        let mut removed = sweep(&second.attacher).await.removed;
        removed.sort();
        assert_eq!(removed, ["br-b".to_owned(), theirs[1].clone()]);
    });
    reaches_both_ways(&containers[0].end(ip("10.1.0.2")), &first.end("10.1.0.1"));
    assert_eq!(crate::world::links(containers[1].netns()), [""; 0]);
}
