//! Every check on facts in which it finds something, and on those of a machine on which all is well.

use super::*;
use crate::cli::doctor::facts::{
    ConfigFacts, DaemonFacts, FileFacts, LinkFacts, PathFacts, PortFacts, ProcessFacts, Reach, SocketFacts, StateFacts,
    TunFacts,
};
use crate::host::ports::{Holder, Protocol};
use crate::ipc::wire::{Condition, OffloadStatus, PeerStatus, StatusSnapshot};
use std::collections::BTreeSet;

const NOW: i64 = 1_800_000_000;

fn peer(handshake: i64, healthy: Option<bool>) -> PeerStatus {
    PeerStatus {
        public_key: "09".repeat(32),
        endpoint: "192.0.2.1:51820".into(),
        allowed_ips: "10.0.0.0/24".into(),
        last_handshake_unix_secs: handshake,
        rx_bytes: Some(0),
        tx_bytes: Some(148),
        healthy,
    }
}

fn file(mode: u32) -> Option<FileFacts> {
    Some(FileFacts { uid: 0, gid: 7, mode })
}

/// A node on which all is well.
fn well() -> Facts {
    let status = StatusSnapshot {
        interface: Some("zl0".into()),
        version: Some(env!("CARGO_PKG_VERSION").into()),
        service_count: 1,
        attachment_count: Some(1),
        peers: vec![peer(NOW - 30, Some(true))],
        totals: [("tun_rx_packets", 1_000_000), ("link_rx_datagrams", 1_000_000)]
            .map(|(k, v)| (k.to_owned(), v))
            .into(),
        drops: [("outbound_unrouted".to_owned(), 40)].into(),
        ..StatusSnapshot::default()
    };
    let sysctls = [
        ("net/ipv4/ip_forward", "1"),
        ("net/ipv4/conf/all/rp_filter", "1"),
        ("net/ipv4/conf/zl0/rp_filter", "2"),
        ("net/netfilter/nf_conntrack_count", "100"),
        ("net/netfilter/nf_conntrack_max", "262144"),
        ("user/max_user_namespaces", "15000"),
    ];
    let link =
        |name: &str, mtu, alias: Option<&str>| LinkFacts { name: name.into(), mtu, alias: alias.map(Into::into) };
    Facts {
        now: NOW,
        root: true,
        own_capabilities: Some(u64::MAX),
        config: ConfigFacts { path: "/etc/c".into(), ..ConfigFacts::default() },
        socket: SocketFacts { path: "/run/s".into(), file: file(0o660), reach: Reach::Answered },
        daemon: Some(DaemonFacts { status, conditions: Vec::new(), service_links: Some(vec!["zlb-web".into()]) }),
        process: Some(ProcessFacts {
            pid: 77,
            name: "ginneld".into(),
            capabilities: Some(1 << 12),
            open_fds: Some(20),
            max_fds: Some(1024),
        }),
        state: StateFacts {
            dir: "/var/d".into(),
            found: file(0o700),
            problem: None,
            key: file(0o600),
            locked_by: Some(77),
            instance: "abc".into(),
        },
        tun: TunFacts::Usable,
        ports: vec![PortFacts {
            purpose: "WireGuard",
            protocol: Protocol::Udp,
            address: "[::]:51820".parse().unwrap(),
            holder: Some(Holder::Process { pid: 77, name: "ginneld".into() }),
        }],
        sysctls: sysctls.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        links: vec![
            link("zl0", 1420, None),
            link("zlb-web", 1420, Some("ginnel:abc:bridge:zlb-web")),
            link("other", 1420, Some("ginnel:def:bridge:other")),
        ],
        paths: vec![PathFacts { to: "192.0.2.1".parse().unwrap(), mtu: 1500, room: 1440 }],
        nf_tables: Some(true),
        unseen: Vec::new(),
    }
}

/// The daemon of the same node is gone.
fn down(reach: Reach) -> Facts {
    let mut facts = Facts { daemon: None, process: None, links: Vec::new(), ports: Vec::new(), ..well() };
    facts.socket.reach = reach;
    facts.state.locked_by = None;
    facts
}

fn status(facts: &mut Facts) -> &mut StatusSnapshot {
    &mut facts.daemon.as_mut().unwrap().status
}

fn set(facts: &mut Facts, name: &str, value: &str) {
    facts.sysctls.insert(name.into(), value.into());
}

#[test]
fn nothing_is_found_where_all_is_well() {
    assert_eq!(examine(&well()), []);
    // Nor where nothing is attached yet, for which the daemon has not made the host forward.
    let mut early = well();
    status(&mut early).attachment_count = Some(0);
    set(&mut early, "net/ipv4/ip_forward", "0");
    assert_eq!(examine(&early), []);
    // Nor where nothing could be found out.
    assert_eq!(examine(&Facts { now: NOW, ..Facts::default() }), []);
}

type Change = fn(&mut Facts);

/// What is wrong, the only code that is found then, and a part of what is said.
const WRONG: &[(&str, &str, Change)] = &[
    ("G001", "ginneld --check-config --config /etc/c", |facts| facts.config.problems.push("/etc/c:1:1: m".into())),
    ("G010", "systemctl start ginneld", |facts| *facts = down(Reach::Missing)),
    ("G011", "journalctl -u ginneld", |facts| *facts = down(Reach::Dead)),
    ("G012", "group 7, mode 0660", |facts| *facts = down(Reach::Denied)),
    ("G013", "no answer", |facts| *facts = down(Reach::Silent("no answer".into()))),
    ("G014", "access.read in /etc/c", |facts| *facts = down(Reach::NoRole("needs the role read".into()))),
    ("G015", "daemon 0.0.1", |facts| status(facts).version = Some("0.0.1".into())),
    ("G020", "modprobe tun", |facts| facts.tun = TunFacts::Missing),
    ("G021", "chmod 0666", |facts| facts.tun = TunFacts::Denied("Permission denied".into())),
    ("G022", "CapEff of ginneld (process 77) is 0000000000000001", |facts| {
        facts.process.as_mut().unwrap().capabilities = Some(1);
    }),
    ("G023", "1000 of 1024", |facts| facts.process.as_mut().unwrap().open_fds = Some(1000)),
    ("G030", "install -d -m 0700 /var/d", |facts| facts.state.problem = Some("it is no directory".into())),
    ("G031", "chmod 0700 /var/d", |facts| facts.state.found = file(0o750)),
    ("G031", "chmod 0600 /var/d/private.key", |facts| facts.state.key = file(0o640)),
    ("G033", "[::]:51820 is held by wg (process 5)", |facts| {
        facts.ports[0].holder = Some(Holder::Process { pid: 5, name: "wg".into() });
    }),
    ("G033", "the kernel", |facts| facts.ports[0].holder = Some(Holder::Unknown)),
    ("G040", "ip_forward=1", |facts| set(facts, "net/ipv4/ip_forward", "0")),
    ("G041", "net.ipv4.conf.zl0.rp_filter=2", |facts| set(facts, "net/ipv4/conf/zl0/rp_filter", "0")),
    ("G042", "ip link set zl0 mtu 1340", |facts| (facts.paths[0].mtu, facts.paths[0].room) = (1400, 1340)),
    ("G043", r#"prune_orphan_bridges '{"live_bridge_names":[]}'"#, |facts| {
        facts.daemon.as_mut().unwrap().service_links = Some(Vec::new());
    }),
    ("G044", "modprobe nf_tables", |facts| facts.nf_tables = Some(false)),
    ("G045", "nf_conntrack_max=524288", |facts| set(facts, "net/netfilter/nf_conntrack_count", "250000")),
    ("G045", "modprobe nf_conntrack", |facts| {
        facts.sysctls.retain(|name, _| !name.contains("conntrack"));
    }),
    ("G050", "60 s ahead", |facts| status(facts).peers[0].last_handshake_unix_secs = NOW + 60),
    ("G050", "5 s after 1970", |facts| {
        facts.now = 5;
        status(facts).peers.clear();
    }),
    ("G051", "192.0.2.1:51820: 148 bytes sent, 0 received", |facts| status(facts).peers.push(peer(0, Some(false)))),
    ("G051", "has no endpoint", |facts| {
        status(facts).peers = vec![PeerStatus { endpoint: String::new(), ..peer(0, None) }];
    }),
    ("G052", "last handshake 5m 0s ago", |facts| status(facts).peers.push(peer(NOW - 300, Some(false)))),
    ("G053", "inbound_bad_mac: 30000 of 1000000", |facts| {
        status(facts).drops.insert("inbound_bad_mac".into(), 30_000);
    }),
    ("G054", "tun_udp failed (errno 5), 3 batches", |facts| {
        let reason = Some("failed (errno 5)".into());
        status(facts).offloads =
            vec![OffloadStatus { name: "tun_udp".into(), state: "off".into(), reason, fallbacks: 3 }];
    }),
    ("G060", "firewall_hindered (docker), since 10s ago", |facts| {
        facts.daemon.as_mut().unwrap().conditions.push(Condition {
            code: "firewall_hindered".into(),
            subject: Some("docker".into()),
            severity: Severity::Warning,
            text: "t".into(),
            hint: None,
            since_unix_secs: NOW as u64 - 10,
        });
    }),
    ("G070", "max_user_namespaces=15000", |facts| set(facts, "user/max_user_namespaces", "0")),
    ("G070", "unprivileged_userns_clone=1", |facts| set(facts, "kernel/unprivileged_userns_clone", "0")),
    ("G070", "apparmor_restrict_unprivileged_userns=0", |facts| {
        set(facts, "kernel/apparmor_restrict_unprivileged_userns", "1");
    }),
];

#[test]
fn each_wrong_is_found_by_its_check_and_by_no_other() {
    for (code, said, change) in WRONG {
        let mut facts = well();
        change(&mut facts);
        let found = examine(&facts);
        assert_eq!(found.iter().map(|finding| finding.code).collect::<Vec<_>>(), [*code], "{said}: {found:#?}");
        let text = format!("{} {}", found[0].evidence.join(" "), found[0].fix.as_deref().unwrap_or_default());
        assert!(text.contains(said), "{code}: {said} is not in {text}");
    }
    // It comes with another: nobody answers.
    let mut facts = down(Reach::Missing);
    facts.state.locked_by = Some(9);
    let codes: Vec<_> = examine(&facts).iter().map(|finding| finding.code).collect();
    assert_eq!(codes, ["G010", "G032"]);
    let tried: BTreeSet<_> = WRONG.iter().map(|wrong| wrong.0).chain(["G032"]).collect();
    assert_eq!(tried, CHECKS.iter().map(|check| check.code).collect());
}

#[test]
fn links_of_a_daemon_that_is_gone_are_told_and_those_of_another_are_not() {
    let mut facts = down(Reach::Dead);
    facts.links = well().links;
    let found = examine(&facts);
    assert_eq!(found.iter().map(|finding| finding.code).collect::<Vec<_>>(), ["G011", "G043"]);
    assert_eq!(found[1].evidence, ["zlb-web: ginnel:abc:bridge:zlb-web"]);
}

#[test]
fn a_user_who_may_not_see_who_holds_an_address_is_not_told_of_strangers() {
    let mut facts = Facts { root: false, ..well() };
    facts.ports[0].holder = Some(Holder::Unknown);
    assert_eq!(examine(&facts), []);
}

#[test]
fn root_without_rights_is_told_where_no_daemon_runs() {
    let mut facts = down(Reach::Missing);
    facts.own_capabilities = Some(1);
    let codes = |facts: &Facts| examine(facts).iter().map(|finding| finding.code).collect::<Vec<_>>();
    assert_eq!(codes(&facts), ["G010", "G022"]);
    facts.root = false;
    assert_eq!(codes(&facts), ["G010"]);
}

#[test]
fn many_peers_make_one_finding() {
    let mut facts = well();
    status(&mut facts).peers.extend(std::iter::repeat_n(peer(0, None), 1000));
    let found = examine(&facts);
    assert_eq!((found.len(), found[0].evidence.len()), (1, 5));
    assert_eq!(found[0].text, "1000 of 1001 peers were never heard of");
}
