//! Who reaches whom: the table of truth, in both families, with and without bridged packets in the routed chains.

use crate::probe::{exchange, refused, udp};
use crate::town::{Kind, Place, Town};
use ginnel_control::firewall::DropReason;
use ginnel_control::lab::rights_or_skip;
use std::net::{SocketAddr, UdpSocket};

/// What is to become of a new flow.
fn fate(from: &Place, to: &Place) -> Result<(), DropReason> {
    let local = |kind| matches!(kind, Kind::Container | Kind::Node);
    match (from.kind, to.kind) {
        // Their own affair, not the node's.
        (Kind::Remote | Kind::World, Kind::Remote) => unreachable!("not through the node"),
        (Kind::World, Kind::Container) => Err(DropReason::Unasked),
        (Kind::World, Kind::Node) => Err(DropReason::ForeignInput),
        (_, Kind::World) => Ok(()),
        (Kind::Node, _) | (_, Kind::Node) => Ok(()),
        _ => {
            assert!(local(from.kind) || local(to.kind));
            if from.network == to.network { Ok(()) } else { Err(DropReason::Isolated) }
        }
    }
}

struct Sockets {
    server: UdpSocket,
    client: UdpSocket,
}

/// Checks every pair and prints what was found.
fn check_table(town: &Town, v6: bool, title: &str) {
    // Outside, somebody knows the way to the overlay; it must not help.
    town.world.run(
        "ip route replace 10.200.0.0/16 via 192.0.2.1
         ip -6 route replace fd00:200::/32 via 2001:db8::1",
    );
    let sockets: Vec<_> = town
        .places
        .iter()
        .map(|place| Sockets { server: udp(place, place.ip(v6), 7_000), client: udp(place, place.ip(v6), 0) })
        .collect();
    println!("\n{title}");
    print!("{:>6}", "");
    town.places.iter().for_each(|to| print!("{:>6}", to.name));
    println!();
    for (from, source) in town.places.iter().zip(&sockets) {
        print!("{:>6}", from.name);
        for (to, destination) in town.places.iter().zip(&sockets) {
            let past_the_node = |kind| matches!(kind, Kind::Remote | Kind::World);
            if from.name == to.name || (past_the_node(from.kind) && past_the_node(to.kind)) {
                print!("{:>6}", "");
                continue;
            }
            let address = SocketAddr::new(to.ip(v6), 7_000);
            match fate(from, to) {
                Ok(()) => {
                    let seen = exchange(&source.client, address, &destination.server);
                    if to.kind == Kind::World {
                        let node = if v6 { "2001:db8::1" } else { "192.0.2.1" };
                        assert_eq!(seen.ip().to_string(), node, "{} is masqueraded", from.name);
                    } else {
                        assert_eq!(seen, source.client.local_addr().unwrap(), "{} is not", from.name);
                    }
                    print!("{:>6}", "yes");
                }
                Err(reason) => {
                    refused(town, &source.client, address, &destination.server, reason);
                    print!("{:>6}", "no");
                }
            }
        }
        println!();
    }
}

#[test]
fn everybody_reaches_whom_they_may_and_nobody_else() {
    if !rights_or_skip() {
        return;
    }
    let town = Town::populated();
    for call_iptables in [false, true] {
        if !town.call_iptables(call_iptables) {
            continue;
        }
        for v6 in [false, true] {
            let family = if v6 { "IPv6" } else { "IPv4" };
            check_table(&town, v6, &format!("{family}, bridge-nf-call-iptables={}", u8::from(call_iptables)));
        }
    }
}
