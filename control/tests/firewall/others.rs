//! Other firewalls: with iptables as Docker and others leave it, traffic passes through an opening, and their programs
//! still work.

use crate::probe::{exchange, udp};
use crate::town::{BRIDGE_B, Place, Town, ip, listen, run, until};
use ginnel_control::firewall::{Change, Clients, Protocol, Service};
use ginnel_control::lab::rights_or_skip;
use std::net::SocketAddr;

fn installed(programs: &[&str]) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let there = |name: &&&str| std::env::split_paths(&path).any(|dir| dir.join(name).is_file());
    match programs.iter().find(|name| !there(name)) {
        Some(name) => {
            println!("skipped: {name} is not installed");
            false
        }
        None => true,
    }
}

/// What Docker 28 makes of the filter table, as far as packets of others see it.
const DOCKER: &str = "
    for t in iptables-nft ip6tables-nft; do
        $t -P FORWARD DROP
        for chain in DOCKER DOCKER-BRIDGE DOCKER-CT DOCKER-FORWARD DOCKER-ISOLATION-STAGE-1 DOCKER-USER; do
            $t -N $chain
        done
        $t -A FORWARD -j DOCKER-USER
        $t -A FORWARD -j DOCKER-FORWARD
        $t -A DOCKER-FORWARD -j DOCKER-CT
        $t -A DOCKER-FORWARD -j DOCKER-ISOLATION-STAGE-1
        $t -A DOCKER-FORWARD -j DOCKER-BRIDGE
        $t -A DOCKER-FORWARD -i docker0 -j ACCEPT
        $t -A DOCKER-CT -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
        $t -A DOCKER-BRIDGE -o docker0 -j DOCKER
        $t -A DOCKER ! -i docker0 -o docker0 -j DROP
    done
    iptables-nft -t nat -N DOCKER
    iptables-nft -t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
    iptables-nft -t nat -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE";

/// A host that lets in SSH and answers.
const CLOSED_INPUT: &str = "
    for t in iptables-nft ip6tables-nft; do
        $t -A INPUT -i lo -j ACCEPT
        $t -A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
        $t -A INPUT -p tcp --dport 22 -j ACCEPT
        $t -P INPUT DROP
    done
    ip6tables-nft -A INPUT -p ipv6-icmp -j ACCEPT";

/// As RHEL and firewalld end a chain: open by policy, closed by its last rule.
const REJECTING: &str = "
    for t in iptables-nft ip6tables-nft; do
        $t -A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
        $t -A FORWARD -m comment --comment closed -j REJECT
    done";

/// Checks the ways that a filter could close: between bridges, to the other node, outside, to the host, to a published port.
fn check_traffic(town: &mut Town, a: &Place, b: &Place) {
    for v6 in [false, true] {
        let far = town.place("f").clone();
        let gateway = ip(if v6 { "fd00:200:16::1" } else { "10.200.16.1" });
        let outer = ip(if v6 { "2001:db8::1" } else { "192.0.2.1" });
        let published = listen(Protocol::Udp, if v6 { "[::]:8080" } else { "0.0.0.0:8080" });
        town.firewall.change([Change::Publish(published, SocketAddr::new(a.ip(v6), 80))]).unwrap();
        let node = Place { v4: gateway, v6: gateway, ..town.node.clone() };
        let client = udp(a, a.ip(v6), 0);
        for (to, address, port) in [
            (b, b.ip(v6), 7_000),
            (&far, far.ip(v6), 7_000),
            (&town.world, town.world.ip(v6), 7_000),
            (&node, gateway, 53),
        ] {
            let server = udp(to, address, port);
            exchange(&client, SocketAddr::new(address, port), &server);
        }
        let server = udp(a, a.ip(v6), 80);
        let world = udp(&town.world, town.world.ip(v6), 0);
        exchange(&world, SocketAddr::new(outer, 8_080), &server);
        town.firewall.change([Change::Unpublish(published)]).unwrap();
    }
}

fn stocked() -> (Town, Place, Place) {
    let mut town = Town::build();
    let (a, b) = (town.attach("a", BRIDGE_B, 11, None), town.attach("b", "br-c", 11, None));
    town.add_remote("f", 77, None);
    let dns = Service { protocol: Protocol::Udp, port: 53, clients: Clients::Overlay };
    town.firewall.change([Change::AddService(dns)]).unwrap();
    (town, a, b)
}

fn openings(town: &Town) -> Vec<String> {
    town.firewall.health().openings
}

#[test]
fn traffic_passes_a_closed_iptables() {
    if !rights_or_skip() || !installed(&["iptables-nft", "ip6tables-nft", "nft"]) {
        return;
    }
    for (rules, chains) in [
        (DOCKER, vec!["ip filter DOCKER-USER", "ip6 filter DOCKER-USER"]),
        (CLOSED_INPUT, vec!["ip filter INPUT", "ip6 filter INPUT"]),
        (REJECTING, vec!["ip filter FORWARD", "ip6 filter FORWARD"]),
    ] {
        let (mut town, a, b) = stocked();
        for call_iptables in [false, true] {
            town.call_iptables(call_iptables);
            let node = town.node.netns.clone();
            run(&node, rules);
            until("openings", || openings(&town) == chains);
            check_traffic(&mut town, &a, &b);
            // Their programs still show and save what is there.
            for program in ["iptables-nft", "ip6tables-nft"] {
                let listed = run(&node, &format!("{program} -vL 2>&1; {program}-save 2>&1"));
                assert!(listed.contains("mark match 0x1000/0x1000"), "{listed}");
                let saved = "-m mark --mark 0x1000/0x1000 -m comment --comment \"ginnel town\" -j ACCEPT";
                assert!(listed.contains(saved), "{listed}");
                assert!(!listed.contains("incompatible"), "{listed}");
                run(&node, &format!("{program}-save | {program}-restore"));
            }
            // Restored, it is known again and there is but one.
            until("one opening in each", || {
                let saved = run(&node, "iptables-nft-save; ip6tables-nft-save");
                openings(&town) == chains && saved.matches("0x1000/0x1000").count() == chains.len()
            });
            // Flushed, it comes back.
            run(&node, "iptables-nft -F DOCKER-USER 2>/dev/null || iptables-nft -D FORWARD 1 || iptables-nft -F INPUT");
            until("openings again", || {
                openings(&town) == chains && run(&node, "nft list ruleset").contains("ginnel town")
            });
            check_traffic(&mut town, &a, &b);
            run(&node, "for t in iptables-nft ip6tables-nft; do $t-save | $t-restore; done");
            // Opened by its owner, it needs no opening.
            run(
                &node,
                "for t in iptables-nft ip6tables-nft; do
                     $t -P FORWARD ACCEPT; $t -P INPUT ACCEPT; $t -D FORWARD -m comment --comment closed -j REJECT || true
                 done 2>/dev/null",
            );
            until("no openings", || openings(&town).is_empty());
            let left = run(&node, "iptables-nft-save; ip6tables-nft-save");
            assert!(!left.contains("0x1000"), "{left}");
            run(&node, "for t in iptables-nft ip6tables-nft; do $t -F; $t -X; $t -t nat -F; $t -t nat -X; done");
        }
    }
}

#[test]
fn an_opening_is_not_for_others() {
    if !rights_or_skip() || !installed(&["iptables-nft", "ip6tables-nft"]) {
        return;
    }
    let (mut town, a, b) = stocked();
    run(&town.node.netns, DOCKER);
    until("openings", || openings(&town).len() == 2);
    // Somebody else's network behind the node is as closed as it was.
    let other = ginnel_control::host::Netns::create().unwrap();
    use std::os::fd::AsFd;
    town.node
        .netns
        .configure(async |netlink| netlink.create_veth("other0", "eth0", Some(other.as_fd())).await)
        .unwrap();
    town.node.run("ip addr add 172.20.0.1/24 dev other0; ip link set other0 up");
    run(&other, "ip addr add 172.20.0.2/24 dev eth0; ip link set eth0 up; ip route add default via 172.20.0.1");
    let stranger = Place { name: "other", netns: other, v4: ip("172.20.0.2"), ..town.world.clone() };
    town.world.run("ip route add 172.20.0.0/24 via 192.0.2.1");
    let server = udp(&town.world, town.world.v4, 7_000);
    let client = udp(&stranger, stranger.v4, 0);
    let dropped = |town: &Town| -> u64 {
        let listed = town.node.run("iptables-nft -nvxL FORWARD");
        let policy = listed.lines().next().unwrap();
        policy.split("DROP ").nth(1).unwrap().split_whitespace().next().unwrap().parse().unwrap()
    };
    let before = dropped(&town);
    until("the policy of others at work", || {
        let _ = client.send_to(b"ask", (town.world.v4, 7_000));
        dropped(&town) > before
    });
    server.set_nonblocking(true).unwrap();
    assert!(server.recv_from(&mut [0; 8]).is_err());
    drop((server, client));
    check_traffic(&mut town, &a, &b);
}

#[test]
fn legacy_iptables_is_told_of() {
    if !rights_or_skip() || !installed(&["iptables-legacy"]) {
        return;
    }
    let (mut town, a, b) = stocked();
    let node = town.node.netns.clone();
    let probe = node.run_in(|| std::process::Command::new("iptables-legacy").arg("-L").output()).unwrap().unwrap();
    if !probe.status.success() {
        return println!("skipped: legacy xtables: not in this kernel");
    }
    run(&node, "iptables-legacy -P FORWARD DROP; iptables-legacy -P INPUT DROP");
    // Nothing of it is heard over netlink: the next look at others finds it.
    run(&node, "nft add table ip something");
    until("a finding", || town.firewall.health().findings.iter().any(|finding| finding.code == "legacy_iptables"));
    let finding = town.firewall.health().findings.remove(0);
    // What the operator is told to do is what helps.
    run(&node, &finding.remedy.unwrap());
    run(&node, "ip6tables-legacy -L >/dev/null");
    check_traffic(&mut town, &a, &b);
}
