//! Published ports: from everywhere, and back.

use crate::probe::{connect, exchange, tcp, udp};
use crate::town::{Kind, Place, Town, ip, listen, until};
use ginnel_control::firewall::{Change, Listen, Protocol};
use ginnel_control::lab::rights_or_skip;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};

const PORT: u16 = 8_080;

fn anywhere(protocol: Protocol, v6: bool) -> Listen {
    listen(protocol, if v6 { "[::]:8080" } else { "0.0.0.0:8080" })
}

/// The addresses of the node that others know.
fn addresses(v6: bool) -> [IpAddr; 3] {
    if v6 {
        ["2001:db8::1", "fd00:200:1::1", "fd00:200:16::1"].map(ip)
    } else {
        ["192.0.2.1", "10.200.1.1", "10.200.16.1"].map(ip)
    }
}

#[test]
fn a_published_port_is_reached_from_everywhere() {
    if !rights_or_skip() {
        return;
    }
    let town = Town::populated();
    for call_iptables in [false, true] {
        if !town.call_iptables(call_iptables) {
            continue;
        }
        for v6 in [false, true] {
            // A member of an isolated network: its published port is public all the same.
            let target = town.place("a1");
            let server = udp(target, target.ip(v6), 80);
            let listener = tcp(target, target.ip(v6), 80);
            let at = SocketAddr::new(target.ip(v6), 80);
            let published = [Protocol::Udp, Protocol::Tcp].map(|protocol| anywhere(protocol, v6));
            town.firewall.change(published.map(|listen| Change::Publish(listen, at))).unwrap();
            let [uplink, overlay, gateway] = addresses(v6);
            for place in &town.places {
                let ways = match place.kind {
                    Kind::World | Kind::Node => vec![uplink],
                    // The other node knows no way to the outer address.
                    Kind::Remote => vec![overlay, gateway],
                    Kind::Container => vec![uplink, overlay, gateway],
                };
                for address in ways {
                    let to = SocketAddr::new(address, PORT);
                    let client = udp(place, place.ip(v6), 0);
                    let seen = exchange(&client, to, &server).ip();
                    // At the bridge of the target, somebody comes as the host.
                    let neighbour = place.name.ends_with('1');
                    let expected = if neighbour { gateway } else { place.ip(v6) };
                    assert_eq!(seen, expected, "{} through {to}", place.name);
                    let (mut near, mut far) = connect(place, to, &listener);
                    near.write_all(b"ask").unwrap();
                    let mut heard = [0; 3];
                    far.read_exact(&mut heard).unwrap();
                    assert_eq!(&heard, b"ask");
                }
            }
            // From the host by its loopback address: in IPv6 the kernel cannot, and says so at once.
            if v6 {
                let refused = town.node.netns.run_in(|| TcpStream::connect("[::1]:8080")).unwrap().unwrap_err();
                assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
            } else {
                let client = udp(&town.node, ip("127.0.0.1"), 0);
                let seen = exchange(&client, "127.0.0.1:8080".parse().unwrap(), &server);
                assert_eq!(seen.ip(), gateway);
            }
            town.firewall.change(published.map(Change::Unpublish)).unwrap();
        }
    }
}

#[test]
fn a_port_of_one_address_is_not_one_of_another() {
    if !rights_or_skip() {
        return;
    }
    let mut town = Town::build();
    let (a, b) = (town.attach("a", "br-b", 11, None), town.attach("b", "br-b", 12, None));
    for (v6, here) in [(false, "192.0.2.1:8080"), (true, "[2001:db8::1]:8080")] {
        let [outer, overlay, _] = addresses(v6);
        let servers = [&a, &b].map(|place| udp(place, place.ip(v6), 80));
        town.firewall
            .change([
                Change::Publish(anywhere(Protocol::Udp, v6), SocketAddr::new(a.ip(v6), 80)),
                Change::Publish(listen(Protocol::Udp, here), SocketAddr::new(b.ip(v6), 80)),
            ])
            .unwrap();
        let world = udp(&town.world, town.world.ip(v6), 0);
        exchange(&world, SocketAddr::new(outer, PORT), &servers[1]);
        let inside = udp(&b, b.ip(v6), 0);
        exchange(&inside, SocketAddr::new(overlay, PORT), &servers[0]);
        town.firewall.change([Change::Unpublish(listen(Protocol::Udp, here))]).unwrap();
        exchange(&world, SocketAddr::new(outer, PORT), &servers[0]);
        town.firewall.change([Change::Unpublish(anywhere(Protocol::Udp, v6))]).unwrap();
        // The host itself answers now, that nobody is there.
        world.connect(SocketAddr::new(outer, PORT)).unwrap();
        until("a refusal", || {
            let _ = world.send(b"ask");
            world.recv(&mut [0; 8]).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
        });
    }
}

#[test]
fn a_container_of_another_node_can_be_published() {
    if !rights_or_skip() {
        return;
    }
    let mut town = Town::build();
    let a = town.attach("a", "br-b", 11, None);
    let far = town.add_remote("f", 77, None);
    for v6 in [false, true] {
        let server = udp(&far, far.ip(v6), 80);
        let at = SocketAddr::new(far.ip(v6), 80);
        town.firewall.change([Change::Publish(anywhere(Protocol::Udp, v6), at)]).unwrap();
        let [outer, overlay, _] = addresses(v6);
        for client in [&town.world, &a] {
            // As the node, so that the answer comes back through it.
            let seen = exchange(&udp(client, client.ip(v6), 0), SocketAddr::new(outer, PORT), &server);
            assert_eq!(seen.ip(), overlay);
        }
    }
}

#[test]
fn connections_end_with_what_they_were_to() {
    if !rights_or_skip() {
        return;
    }
    let mut town = Town::build();
    let a = town.attach("a", "br-b", 11, None);
    for v6 in [false, true] {
        let [outer, ..] = addresses(v6);
        let to = SocketAddr::new(outer, PORT);
        // One socket that keeps its port, as a client of a name server does: conntrack knows its flow.
        let client = udp(&town.world, town.world.ip(v6), 0);
        // The host's own service first, then a container's, then another's, then the host's again.
        let host = udp(&Place { v4: outer, v6: outer, ..town.node.clone() }, outer, PORT);
        exchange(&client, to, &host);
        let first = udp(&a, a.ip(v6), 80);
        let published = anywhere(Protocol::Udp, v6);
        town.firewall.change([Change::Publish(published, SocketAddr::new(a.ip(v6), 80))]).unwrap();
        exchange(&client, to, &first);
        let b = town.attach(if v6 { "b6" } else { "b4" }, "br-c", 12 + u8::from(v6), None);
        let second = udp(&b, b.ip(v6), 80);
        let moved = [Change::Unpublish(published), Change::Publish(published, SocketAddr::new(b.ip(v6), 80))];
        town.firewall.change(moved).unwrap();
        exchange(&client, to, &second);
        town.firewall.change([Change::Unpublish(published)]).unwrap();
        exchange(&client, to, &host);
    }
}
