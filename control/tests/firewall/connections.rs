//! State of connections: what is invalid, what ends with a container, what fits the way.

use crate::probe::{connect, exchange, refused, tcp, udp};
use crate::town::{BRIDGE_B, Place, TUNNEL, Town, ip, network, until};
use ginnel_control::firewall::{Change, Container, ContainerLink, DropReason, MARK};
use ginnel_control::lab::rights_or_skip;
use nix::sys::socket::{getsockopt, setsockopt, sockopt};
use std::io::Write;
use std::net::{IpAddr, SocketAddr};

fn at_bridge(veth: &str, addresses: Vec<IpAddr>) -> Container {
    let link = ContainerLink::Port { veth: veth.into(), bridge: BRIDGE_B.into() };
    Container { links: vec![link], addresses, network: None }
}

/// A container that is only known to the firewall.
fn other(number: u8) -> Container {
    at_bridge(&format!("veth-o{number}"), vec![IpAddr::from([10, 200, 16, 100 + number])])
}

#[test]
fn what_conntrack_does_not_know_is_dropped() {
    if !rights_or_skip() {
        return;
    }
    let mut town = Town::build();
    let (a, b) = (town.attach("a", BRIDGE_B, 11, None), town.attach("b", "br-c", 11, None));
    // Connections are not picked up in the middle.
    town.node.run("sysctl -qw net.netfilter.nf_conntrack_tcp_loose=0");
    // Alone, and among many, whose connections are sought in another way.
    for (v6, others) in [(false, 0), (true, 0), (false, 30), (true, 30)] {
        let others: Vec<_> = (0..others).map(|number| (format!("other{number}"), other(number))).collect();
        let add = |(id, container): &(String, Container)| Change::AddContainer(id.clone(), container.clone());
        town.firewall.change(others.iter().map(add)).unwrap();
        let listener = tcp(&b, b.ip(v6), 80);
        let (mut near, _far) = connect(&a, SocketAddr::new(b.ip(v6), 80), &listener);
        near.write_all(b"before").unwrap();
        // A container's connections end with it; that it comes back at once does not bring them back.
        let remove = others.iter().map(|(id, _)| Change::RemoveContainer(id.clone()));
        town.firewall.change(remove.chain([Change::RemoveContainer("a".into())])).unwrap();
        let container = at_bridge("veth-a", vec![a.v4, a.v6]);
        town.firewall.change([Change::AddContainer("a".into(), container)]).unwrap();
        let before = town.drops(DropReason::Invalid);
        near.write_all(b"after").unwrap();
        until("a segment of a forgotten connection dropped", || town.drops(DropReason::Invalid) > before);
    }
}

#[test]
fn segments_fit_the_way() {
    if !rights_or_skip() {
        return;
    }
    let mut town = Town::build();
    let a = town.attach("a", BRIDGE_B, 11, None);
    let far = town.add_remote("f", 77, None);
    // A narrow tunnel between wide ends: without the rule each would offer 1,460 and 1,440 bytes.
    town.node.run(&format!("ip link set {TUNNEL} mtu 1380"));
    for (v6, fits) in [(false, 1_380 - 40), (true, 1_380 - 60)] {
        for (client, server) in [(&a, &far), (&far, &a)] {
            let listener = tcp(server, server.ip(v6), 80);
            let (near, far) = connect(client, SocketAddr::new(server.ip(v6), 80), &listener);
            for end in [&near, &far] {
                let offered = getsockopt(end, sockopt::TcpMaxSeg).unwrap();
                // Time stamps take 12 bytes of it.
                assert!((fits - 12..=fits).contains(&offered), "{} to {}: {offered}", client.name, server.name);
            }
        }
    }
}

#[test]
fn a_member_that_leaves_is_cut_off() {
    if !rights_or_skip() {
        return;
    }
    let mut town = Town::build();
    let a = town.attach("a", BRIDGE_B, 11, Some(7));
    let far = town.add_remote("f", 77, None);
    for v6 in [false, true] {
        let prefix = if v6 { "fd00:200:2::77/128" } else { "10.200.2.77/32" }.parse().unwrap();
        let to = SocketAddr::new(far.ip(v6), 7_000);
        let (client, server) = (udp(&a, a.ip(v6), 0), udp(&far, far.ip(v6), 7_000));
        refused(&town, &client, to, &server, DropReason::Isolated);
        town.firewall.change([Change::AddMember(prefix, network(7))]).unwrap();
        exchange(&client, to, &server);
        // The flow is established, and refused all the same.
        town.firewall.change([Change::AddMember(prefix, network(8))]).unwrap();
        refused(&town, &client, to, &server, DropReason::Isolated);
        town.firewall.change([Change::AddMember(prefix, network(7))]).unwrap();
        exchange(&client, to, &server);
        town.firewall.change([Change::RemoveMember(prefix)]).unwrap();
        refused(&town, &client, to, &server, DropReason::Isolated);
    }
}

#[test]
fn neighbours_that_are_apart_do_not_meet_below_ip_either() {
    if !rights_or_skip() {
        return;
    }
    let mut town = Town::build();
    let a = town.attach("a", BRIDGE_B, 11, Some(7));
    let b = town.attach("b", BRIDGE_B, 12, Some(7));
    let x = town.attach("x", BRIDGE_B, 13, Some(9));
    let hardware = |place: &Place| place.run("ip -br link show eth0").split_whitespace().nth(2).unwrap().to_owned();
    // Knowing the hardware address already, nobody has to be asked.
    a.run(&format!(
        "ip neigh replace {} lladdr {mac} dev eth0; ip neigh replace {} lladdr {mac} dev eth0",
        x.v4,
        x.v6,
        mac = hardware(&x)
    ));
    for v6 in [false, true] {
        let client = udp(&a, a.ip(v6), 0);
        let (friend, stranger) = (udp(&b, b.ip(v6), 7_000), udp(&x, x.ip(v6), 7_000));
        exchange(&client, SocketAddr::new(b.ip(v6), 7_000), &friend);
        refused(&town, &client, SocketAddr::new(x.ip(v6), 7_000), &stranger, DropReason::Isolated);
    }
    // By link-local addresses, which belong to nobody.
    for (place, address) in [(&a, "fe80::a"), (&b, "fe80::b"), (&x, "fe80::c")] {
        place.run(&format!("ip -6 addr add {address}/64 dev eth0 nodad"));
    }
    let index = a.netns.configure(async |netlink| Ok(netlink.link("eth0").await?.index)).unwrap();
    let scoped = |address: &str| SocketAddr::V6(std::net::SocketAddrV6::new(address.parse().unwrap(), 7_000, 0, index));
    let open = |place: &Place, address: SocketAddr| {
        let socket = place.netns.run_in(|| std::net::UdpSocket::bind(address)).unwrap().unwrap();
        socket.set_read_timeout(Some(std::time::Duration::from_millis(100))).unwrap();
        socket
    };
    let client = open(&a, scoped("fe80::a"));
    let (friend, stranger) = (open(&b, scoped("fe80::b")), open(&x, scoped("fe80::c")));
    exchange(&client, scoped("fe80::b"), &friend);
    refused(&town, &client, scoped("fe80::c"), &stranger, DropReason::Isolated);
}

#[test]
fn a_mark_of_a_containers_own_opens_nothing() {
    if !rights_or_skip() {
        return;
    }
    let mut town = Town::build();
    let a = town.attach("a", BRIDGE_B, 11, Some(7));
    let x = town.attach("x", BRIDGE_B, 13, Some(9));
    let y = town.attach("y", "br-c", 13, Some(9));
    // As networks the first is that of the strangers; the last is the mark of what is admitted.
    for mark in [9, 7, MARK] {
        for v6 in [false, true] {
            let client = udp(&a, a.ip(v6), 0);
            setsockopt(&client, sockopt::Mark, &mark).unwrap();
            for stranger in [&x, &y] {
                let server = udp(stranger, stranger.ip(v6), 7_000);
                refused(&town, &client, SocketAddr::new(stranger.ip(v6), 7_000), &server, DropReason::Isolated);
            }
        }
    }
}

#[test]
fn an_address_of_the_host_can_be_a_member() {
    if !rights_or_skip() {
        return;
    }
    let mut town = Town::build();
    let a = town.attach("a", BRIDGE_B, 11, Some(7));
    let n = town.attach("n", BRIDGE_B, 12, None);
    town.node.run("ip addr add 10.200.1.50/32 dev lo; ip -6 addr add fd00:200:1::50/128 dev lo nodad");
    let shared = Place { v4: ip("10.200.1.50"), v6: ip("fd00:200:1::50"), ..town.node.clone() };
    let member = |prefix: &str| Change::AddMember(prefix.parse().unwrap(), network(7));
    town.firewall.change([member("10.200.1.50/32"), member("fd00:200:1::50/128")]).unwrap();
    for v6 in [false, true] {
        let server = udp(&shared, shared.ip(v6), 7_000);
        let to = SocketAddr::new(shared.ip(v6), 7_000);
        exchange(&udp(&a, a.ip(v6), 0), to, &server);
        refused(&town, &udp(&n, n.ip(v6), 0), to, &server, DropReason::Isolated);
        let from = udp(&shared, shared.ip(v6), 0);
        let (friend, stranger) = (udp(&a, a.ip(v6), 7_000), udp(&n, n.ip(v6), 7_000));
        exchange(&from, SocketAddr::new(a.ip(v6), 7_000), &friend);
        refused(&town, &from, SocketAddr::new(n.ip(v6), 7_000), &stranger, DropReason::Isolated);
    }
}

#[test]
fn what_would_leave_by_the_wrong_door_stays() {
    if !rights_or_skip() {
        return;
    }
    let mut town = Town::build();
    let a = town.attach("a", BRIDGE_B, 11, None);
    // The tunnel is gone and its routes with it: packets for other nodes would go out bare.
    town.node.run(&format!("ip link set {TUNNEL} down"));
    for v6 in [false, true] {
        let bare = if v6 { "fd00:200:2::77" } else { "10.200.2.77" };
        town.world.run(&format!(
            "ip addr add {bare}/{} dev lo {}",
            if v6 { 128 } else { 32 },
            if v6 { "nodad" } else { "" }
        ));
        let server = udp(&town.world, ip(bare), 7_000);
        refused(&town, &udp(&a, a.ip(v6), 0), SocketAddr::new(ip(bare), 7_000), &server, DropReason::Unrouted);
    }
}
