//! Nobody speaks in the name of another.

use crate::probe::{exchange, refused, udp};
use crate::town::{Place, Town, UPLINK, ip, until};
use ginnel_control::firewall::DropReason;
use ginnel_control::lab::rights_or_skip;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn6, sendto, socket};
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::os::fd::AsRawFd;

/// A socket of `place` that sends from an address that is not its own.
fn forged(place: &Place, address: &str) -> std::net::UdpSocket {
    let width = if address.contains(':') { "128 dev lo nodad" } else { "32 dev lo" };
    place.run(&format!("ip addr add {address}/{width}"));
    udp(place, ip(address), 0)
}

#[test]
fn a_container_sends_from_its_own_addresses_only() {
    if !rights_or_skip() {
        return;
    }
    let mut town = Town::build();
    let a = town.attach("a", "br-b", 11, None);
    let b = town.attach("b", "br-b", 12, None);
    let c = town.attach("c", "br-c", 11, None);
    let r = town.attach_routed("r", 17, None);
    for v6 in [false, true] {
        let servers = [&b, &c, &town.node, &town.world].map(|to| (to.ip(v6), udp(to, to.ip(v6), 7_000)));
        // A neighbour's address, one of the other service, one of another node, the gateway's, one outside.
        let others = match v6 {
            false => ["10.200.16.13", "10.200.32.99", "10.200.2.77", "10.200.1.1", "198.51.100.1"],
            true => ["fd00:200:16::13", "fd00:200:32::99", "fd00:200:2::77", "fd00:200:1::1", "2001:db8:1::1"],
        };
        for from in [&a, &r] {
            let honest = udp(from, from.ip(v6), 0);
            for (address, server) in &servers {
                exchange(&honest, SocketAddr::new(*address, 7_000), server);
            }
            for forgery in others {
                let client = forged(from, forgery);
                for (address, server) in &servers {
                    let to = SocketAddr::new(*address, 7_000);
                    // An address of the place itself would be reached without the network.
                    if address.to_string() != forgery {
                        refused(&town, &client, to, server, DropReason::GuestSource);
                    }
                }
                from.run(&format!("ip addr del {forgery}/{} dev lo", if v6 { 128 } else { 32 }));
            }
        }
    }
}

#[test]
fn arp_and_routers_words_are_not_forged() {
    if !rights_or_skip() {
        return;
    }
    let mut town = Town::build();
    let a = town.attach("a", "br-b", 11, None);
    let b = town.attach("b", "br-b", 12, None);
    let (client, server) = (udp(&b, b.v4, 0), udp(&town.node, ip("10.200.16.1"), 7_000));
    let gateway = SocketAddr::new(ip("10.200.16.1"), 7_000);
    exchange(&client, gateway, &server);
    // Announcing the gateway's address as one's own, which Linux does when the hardware address changes.
    let hardware = a.run("ip -br link show eth0").split_whitespace().nth(2).unwrap().to_owned();
    a.run("sysctl -qw net.ipv4.conf.eth0.arp_notify=1; ip addr add 10.200.16.1/24 dev eth0");
    let before = town.drops(DropReason::GuestSource);
    until("an announcement dropped", || {
        a.run(&format!("ip link set eth0 address {hardware}"));
        town.drops(DropReason::GuestSource) > before
    });
    exchange(&client, gateway, &server);

    // Advertising oneself as a router, or another way.
    for kind in [134, 137] {
        let socket = a
            .netns
            .run_in(|| socket(AddressFamily::Inet6, SockType::Raw, SockFlag::empty(), SockProtocol::IcmpV6))
            .unwrap()
            .unwrap();
        let mut advertisement = [0; 48];
        advertisement[0] = kind;
        let index = a.netns.configure(async |netlink| Ok(netlink.link("eth0").await?.index)).unwrap();
        let all_nodes = SockaddrIn6::from(SocketAddrV6::new("ff02::1".parse().unwrap(), 0, 0, index));
        let before = town.drops(DropReason::Protocol);
        until("a router's word dropped", || {
            let _ = sendto(socket.as_raw_fd(), &advertisement, &all_nodes, MsgFlags::empty());
            town.drops(DropReason::Protocol) > before
        });
    }
}

#[test]
fn what_is_sent_to_a_stolen_hardware_address_is_not_read() {
    if !rights_or_skip() {
        return;
    }
    let mut town = Town::build();
    let a = town.attach("a", "br-b", 11, None);
    let b = town.attach("b", "br-b", 12, None);
    let hardware = |place: &Place| place.run("ip -br link show eth0").split_whitespace().nth(2).unwrap().to_owned();
    let stolen = hardware(&b);
    let client = udp(&town.node, ip("10.200.16.1"), 0);
    let (theirs, ours) = (SocketAddr::new(b.v4, 7_000), udp(&b, b.v4, 7_000));
    exchange(&client, theirs, &ours);
    // The bridge believes whoever spoke last.
    a.run(&format!("ip link set eth0 address {stolen}; ip addr add {}/32 dev lo", b.v4));
    let thief = udp(&a, b.v4, 7_000);
    let (speaker, listener) = (udp(&a, a.v4, 0), udp(&town.node, ip("10.200.16.1"), 7_001));
    let before = town.drops(DropReason::Misdelivered);
    until("a packet at the wrong port", || {
        exchange(&speaker, "10.200.16.1:7001".parse().unwrap(), &listener);
        let _ = client.send_to(b"secret", theirs);
        town.drops(DropReason::Misdelivered) > before
    });
    thief.set_nonblocking(true).unwrap();
    assert!(thief.recv_from(&mut [0; 64]).is_err());
}

#[test]
fn the_overlay_does_not_come_from_outside() {
    if !rights_or_skip() {
        return;
    }
    let mut town = Town::build();
    let a = town.attach("a", "br-b", 11, None);
    let far = town.add_remote("f", 77, None);
    for v6 in [false, true] {
        let (uplink, inside) = if v6 { ("2001:db8::1", "fd00:200:2::99") } else { ("192.0.2.1", "10.200.2.99") };
        town.world.run(if v6 {
            "ip -6 route replace fd00:200::/32 via 2001:db8::1"
        } else {
            "ip route replace 10.200.0.0/16 via 192.0.2.1"
        });
        let uplink: IpAddr = ip(uplink);
        let at_uplink = udp(&Place { v4: uplink, v6: uplink, ..town.node.clone() }, uplink, 7_000);
        let at_container = udp(&a, a.ip(v6), 7_000);
        let at_node = udp(&town.node, town.node.ip(v6), 7_000);
        // Outside, under an address of the overlay: not even to the address that everybody may reach.
        let forger = forged(&town.world, inside);
        let honest = udp(&town.world, town.world.ip(v6), 0);
        exchange(&honest, SocketAddr::new(uplink, 7_000), &at_uplink);
        for (address, server) in [(uplink, &at_uplink), (a.ip(v6), &at_container), (town.node.ip(v6), &at_node)] {
            refused(&town, &forger, SocketAddr::new(address, 7_000), server, DropReason::ForeignSource);
        }
        // Outside, under its own address, to what is inside.
        refused(&town, &honest, SocketAddr::new(a.ip(v6), 7_000), &at_container, DropReason::Unasked);
        refused(&town, &honest, SocketAddr::new(town.node.ip(v6), 7_000), &at_node, DropReason::ForeignInput);
        // By the tunnel, in the name of what lives here.
        let remote = udp(&far, far.ip(v6), 0);
        exchange(&remote, SocketAddr::new(a.ip(v6), 7_000), &at_container);
        let node_v4 = if v6 { "fd00:200:16::1" } else { "10.200.16.1" };
        for forgery in [a.ip(v6).to_string(), node_v4.to_owned()] {
            let forger = forged(&far, &forgery);
            let to = SocketAddr::new(town.node.ip(v6), 7_000);
            refused(&town, &forger, to, &at_node, DropReason::TunnelSource);
        }
    }
}

#[test]
fn a_network_of_the_host_within_the_prefix_of_the_cluster_goes_on() {
    if !rights_or_skip() {
        return;
    }
    let town = Town::build();
    town.node
        .run(&format!("ip addr add 10.200.77.1/24 dev {UPLINK}; ip -6 addr add fd00:200:77::1/64 dev {UPLINK} nodad"));
    town.world
        .run(&format!("ip addr add 10.200.77.2/24 dev {UPLINK}; ip -6 addr add fd00:200:77::2/64 dev {UPLINK} nodad"));
    for [node, world] in [["10.200.77.1", "10.200.77.2"], ["fd00:200:77::1", "fd00:200:77::2"]] {
        let server = udp(&town.node, ip(node), 7_000);
        let client = udp(&town.world, ip(world), 0);
        exchange(&client, SocketAddr::new(ip(node), 7_000), &server);
    }
}

#[test]
fn loopback_addresses_are_not_reached_from_containers() {
    if !rights_or_skip() {
        return;
    }
    let mut town = Town::build();
    let a = town.attach("a", "br-b", 11, None);
    let server = udp(&town.node, ip("127.0.0.1"), 7_000);
    // The host routes packets for its loopback addresses, as published ports need, so only the rule is in the way.
    a.run(
        "sysctl -qw net.ipv4.conf.eth0.route_localnet=1 net.ipv4.conf.all.route_localnet=1
         ip route del local 127.0.0.0/8 dev lo table local; ip route del local 127.0.0.1 dev lo table local
         ip route add 127.0.0.1/32 via 10.200.16.1",
    );
    let client = udp(&a, a.v4, 0);
    refused(&town, &client, "127.0.0.1:7000".parse().unwrap(), &server, DropReason::Loopback);
}
