//! What others take away comes back, and what is ours goes when we stop.

use crate::probe::{connect, exchange, refused, tcp, udp};
use crate::town::{BRIDGE_B, BRIDGE_C, PATIENCE, Town, run, until};
use ginnel_control::firewall::{Change, ContainerLink, Desired, DropReason, Firewall, FirewallError, Role};
use ginnel_control::host::Netns;
use ginnel_control::lab::{rights_or_skip, ruleset};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

fn listing(netns: &Netns) -> String {
    run(netns, "nft -s list ruleset")
}

fn installed(program: &str) -> bool {
    let there =
        std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).any(|dir| dir.join(program).is_file());
    if !there {
        println!("skipped: {program} is not installed");
    }
    there
}

/// Sets are listed in no order.
fn sorted(listing: &str) -> Vec<&str> {
    let mut lines: Vec<_> = listing
        .lines()
        .map(|line| line.trim().trim_start_matches("elements = { ").trim_end_matches([',', '}', ' ']))
        .collect();
    lines.sort_unstable();
    lines
}

#[test]
fn whatever_is_done_to_the_rules_they_come_back() {
    if !rights_or_skip() || !installed("nft") {
        return;
    }
    let mut town = Town::build();
    let a = town.attach("a", BRIDGE_B, 11, Some(7));
    let b = town.attach("b", BRIDGE_B, 12, Some(7));
    let x = town.attach("x", BRIDGE_B, 13, Some(9));
    let sound = listing(&town.node.netns);
    let table = "inet ginnel-town";
    for (heals, damage) in (1..).zip([
        "nft flush ruleset".to_owned(),
        format!("nft delete table {table}"),
        "nft delete table bridge ginnel-town".into(),
        format!("nft flush chain {table} forward"),
        format!("nft flush chain {table} member"),
        format!("nft insert rule {table} forward accept"),
        format!("nft add rule {table} fence accept"),
        format!("nft flush set {table} peers4"),
        "nft delete element bridge ginnel-town networks '{ \"veth-x\" }'".into(),
        format!("nft add element {table} sources4 '{{ \"br-b\" . 10.200.16.99 }}'"),
        format!("nft add element {table} prefixes4 '{{ 10.201.0.0/16 }}'"),
        format!("nft add chain {table} other"),
        format!("nft add set {table} other '{{ type ipv4_addr; }}'"),
        format!("nft add chain {table} forward '{{ policy drop; }}'"),
        // Switched off, which leaves all as it is listed.
        format!("nft add table {table} '{{ flags dormant; }}'"),
        // Twice at once.
        "nft flush ruleset; nft add table ip another; nft delete table ip another; nft flush ruleset".into(),
    ]) {
        run(&town.node.netns, &damage);
        until(&format!("all is well after {damage}"), || {
            town.firewall.health().heals >= heals && sorted(&listing(&town.node.netns)) == sorted(&sound)
        });
        let heal = town.firewall.health().last_heal.unwrap();
        println!(
            "{:>7.1} ms by {:<12} after {damage}",
            heal.took.as_secs_f64() * 1e3,
            heal.culprit.as_deref().unwrap_or("?")
        );
        assert!(heal.culprit.is_some_and(|culprit| culprit.starts_with("nft (")), "the kernel tells who it was");
    }
    // And they do what they did.
    let client = udp(&a, a.v4, 0);
    let (friend, stranger) = (udp(&b, b.v4, 7_000), udp(&x, x.v4, 7_000));
    exchange(&client, SocketAddr::new(b.v4, 7_000), &friend);
    refused(&town, &client, SocketAddr::new(x.v4, 7_000), &stranger, DropReason::Isolated);
}

#[test]
fn changes_of_others_and_of_ours_are_no_alarm() {
    if !rights_or_skip() || !installed("nft") {
        return;
    }
    let mut town = Town::build();
    for round in 0..20 {
        let node = &town.node.netns;
        run(node, &format!("nft add table ip other{round}; nft add chain ip other{round} c"));
        town.firewall.change([Change::AddInterface(format!("tun-{round}"), Role::Tunnel)]).unwrap();
    }
    town.attach("a", BRIDGE_B, 11, None);
    // An event that is one, behind them all.
    run(&town.node.netns, "nft flush set inet ginnel-town ours");
    until("a repair", || town.firewall.health().heals > 0);
    assert_eq!(town.firewall.health().heals, 1);
    assert!(town.firewall.health().in_place);
}

#[test]
fn changes_hold_although_the_rules_were_gone() {
    if !rights_or_skip() || !installed("nft") {
        return;
    }
    let town = Town::build();
    for round in 0..50 {
        // Whoever comes first, the watch or the change, at the end all is there.
        run(&town.node.netns, "nft flush ruleset");
        town.firewall.change([Change::AddInterface(format!("tun-{round}"), Role::Tunnel)]).unwrap();
        let listed = run(&town.node.netns, "nft list set inet ginnel-town ours");
        assert!(listed.contains(&format!("\"tun-{round}\"")) && listed.contains("\"br-b\""), "{listed}");
    }
}

#[test]
fn what_is_thrown_away_over_netlink_comes_back_too() {
    if !rights_or_skip() {
        return;
    }
    let mut town = Town::build();
    town.attach("a", BRIDGE_B, 11, Some(7));
    let before = ruleset::count(&town.node.netns).unwrap();
    assert!(before.constant.iter().all(|count| *count > 0) && before.elements > 0, "{before:?}");
    ruleset::flush(&town.node.netns).unwrap();
    until("all is there again", || {
        town.firewall.health().heals > 0 && ruleset::count(&town.node.netns).unwrap() == before
    });
    town.firewall.stop().unwrap();
    assert_eq!(ruleset::count(&town.node.netns).unwrap().all(), 0);
}

#[test]
fn a_stream_goes_on_that_was_not_seen_for_a_while() {
    if !rights_or_skip() || !installed("nft") {
        return;
    }
    let mut town = Town::build();
    let (a, b) = (town.attach("a", BRIDGE_B, 11, None), town.attach("b", BRIDGE_C, 11, None));
    let listener = tcp(&b, b.v4, 80);
    let (mut near, mut far) = connect(&a, SocketAddr::new(b.v4, 80), &listener);
    far.set_read_timeout(Some(PATIENCE / 2)).unwrap();
    let mut pass = |near: &mut TcpStream, len: usize| {
        near.write_all(&vec![7; len]).unwrap();
        far.read_exact(&mut vec![0; len])
    };
    pass(&mut near, 100_000).unwrap();
    // Nobody mends the rules until the next one is told to.
    let next = town.node.netns.run_in(|| Firewall::start("town").unwrap()).unwrap();
    drop(std::mem::replace(&mut town.firewall, next));
    run(&town.node.netns, "nft flush ruleset");
    // Conntrack leaves a while after the last rule that asks for it.
    std::thread::sleep(Duration::from_millis(500));
    // What arrives meanwhile is acknowledged, and that is lost.
    a.run("nft 'add table ip deaf; add chain ip deaf in { type filter hook input priority 0; policy drop; }'");
    pass(&mut near, 10_000).unwrap();
    // Until it sends one packet at a time: nothing newer would tell the kernel that it missed something.
    std::thread::sleep(Duration::from_secs(3));
    assert!(town.firewall.apply(&town.desired()).unwrap());
    for (place, bridge) in [(&a, BRIDGE_B), (&b, BRIDGE_C)] {
        let veth = format!("veth-{}", place.name);
        town.fence(place, ContainerLink::Port { veth, bridge: bridge.into() });
    }
    a.run("nft delete table ip deaf");
    pass(&mut near, 10_000).unwrap();
}

#[test]
fn a_second_application_sends_nothing() {
    if !rights_or_skip() {
        return;
    }
    let town = Town::populated();
    let mut desired = town.desired();
    assert!(town.firewall.apply(&desired).unwrap(), "the containers go");
    for _ in 0..3 {
        assert!(!town.firewall.apply(&desired).unwrap());
    }
    desired.interfaces.insert("tun-h".into(), Role::Tunnel);
    assert!(town.firewall.apply(&desired).unwrap());
    assert!(!town.firewall.apply(&desired).unwrap());
    // Another who takes over finds all as it should be.
    let successor = town.node.netns.run_in(|| Firewall::start("town").unwrap()).unwrap();
    assert!(!successor.apply(&desired).unwrap());
}

#[test]
fn nothing_of_ours_is_left_and_nothing_of_others_is_changed() {
    if !rights_or_skip() || !installed("nft") {
        return;
    }
    let netns = Netns::create().unwrap();
    run(
        &netns,
        "nft -f - <<END
table inet mine {
    set s { type ipv4_addr; elements = { 192.0.2.1 } }
    chain forward { type filter hook forward priority 0; policy drop; ip saddr @s counter accept; }
    chain input { type filter hook input priority 0; policy accept; ct state new tcp dport 22 accept; reject; }
    chain output { type filter hook output priority 0; policy accept; counter; }
}
table bridge mine { chain forward { type filter hook forward priority 0; policy drop; }; }
table ip nat { chain POSTROUTING { type nat hook postrouting priority 100; ip saddr 172.17.0.0/16 masquerade; }; }
END",
    );
    let before = listing(&netns);
    let firewalls = ["one", "two"].map(|name| netns.run_in(|| Firewall::start(name).unwrap()).unwrap());
    let mut desired = Desired::default();
    desired.prefixes.insert("10.200.0.0/16".parse().unwrap());
    desired.interfaces.insert("tun-g".into(), Role::Tunnel);
    for firewall in &firewalls {
        firewall.apply(&desired).unwrap();
        let health = firewall.health();
        assert_eq!(health.openings, ["inet mine forward", "inet mine input"]);
        assert!(health.others_forward);
        assert_eq!(
            health.findings.iter().map(|finding| finding.code).collect::<Vec<_>>(),
            ["foreign_drop"],
            "{health:?}"
        );
    }
    let both = listing(&netns);
    assert_eq!(both.matches("accept comment \"ginnel one\"").count(), 2, "{both}");
    assert_eq!(both.matches("accept comment \"ginnel two\"").count(), 2, "{both}");
    // One stops; the other does not notice.
    firewalls[0].stop().unwrap();
    let one_left = listing(&netns);
    assert!(!one_left.contains("one") && one_left.contains("table inet ginnel-two"), "{one_left}");
    assert!(!firewalls[1].apply(&desired).unwrap());
    assert_eq!(firewalls[1].health().heals, 0);
    firewalls[1].stop().unwrap();
    firewalls[1].stop().unwrap();
    assert_eq!(listing(&netns), before);
    assert!(matches!(firewalls[0].apply(&desired), Err(FirewallError::Stopped)));
}

#[test]
fn a_table_of_our_name_that_is_not_ours_is_left_alone() {
    if !rights_or_skip() || !installed("nft") {
        return;
    }
    let netns = Netns::create().unwrap();
    run(&netns, "nft add table inet ginnel-0");
    let before = listing(&netns);
    let firewall = netns.run_in(|| Firewall::start("0").unwrap()).unwrap();
    let refused = firewall.apply(&Desired::default()).unwrap_err();
    assert!(matches!(refused, FirewallError::ForeignTable { .. }), "{refused}");
    assert!(firewall.stop().is_err());
    assert_eq!(listing(&netns), before);
    run(&netns, "nft delete table inet ginnel-0");
    assert!(firewall.apply(&Desired::default()).unwrap());
    firewall.stop().unwrap();
    assert_eq!(listing(&netns), "");
}

#[test]
fn rules_outlive_their_maker_until_somebody_stops_them() {
    if !rights_or_skip() || !installed("nft") {
        return;
    }
    let netns = Netns::create().unwrap();
    let desired = Desired::default();
    let start = || netns.run_in(|| Firewall::start("0").unwrap()).unwrap();
    let first = start();
    first.apply(&desired).unwrap();
    drop(first);
    assert!(listing(&netns).contains("table inet ginnel-0"));
    // Stopping needs no application first.
    start().stop().unwrap();
    assert_eq!(listing(&netns), "");
}
