//! What is told of a node, family by family: the names that dashboards for WireGuard know, and ours.

use super::process::ProcessFacts;
use super::text::{Exposition, Kind};
use crate::ipc::tally::{CLASSES, OpTally};
use crate::ipc::wire::{
    Condition, DropItem, OffloadItem, OverlayMode, PeerItem, ServiceItem, Severity, StatusSnapshot,
};
use std::collections::BTreeMap;

/// Everything a page is written from.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    pub(super) status: StatusSnapshot,
    /// Peers, with the interface they belong to.
    pub(super) peers: Vec<(String, PeerItem)>,
    pub(super) services: Vec<ServiceItem>,
    pub(super) drops: Vec<DropItem>,
    pub(super) offloads: Vec<OffloadItem>,
    pub(super) health: Vec<Condition>,
    pub(super) requests: BTreeMap<&'static str, OpTally>,
    pub(super) process: ProcessFacts,
}

/// The page.
pub(super) fn page(facts: &Facts) -> String {
    let mut text = Exposition::default();
    peers(facts, &mut text);
    devices(facts, &mut text);
    workloads(facts, &mut text);
    health(facts, &mut text);
    requests(facts, &mut text);
    let status = &facts.status;
    let labels = [
        ("version", status.version.as_deref().unwrap_or(env!("CARGO_PKG_VERSION"))),
        ("boot_id", status.boot_id.as_deref().unwrap_or_default()),
        ("node_id", &status.node_id.map(|id| id.to_string()).unwrap_or_default()),
    ];
    text.family("ginnel_build", Kind::Info, "", "The daemon and its run.").sample(&labels, 1);
    facts.process.write(&mut text);
    text.finish()
}

/// The first three under the names and labels of `prometheus_wireguard_exporter`.
fn peers(facts: &Facts, text: &mut Exposition) {
    let labelled: Vec<_> =
        facts.peers.iter().map(|(interface, peer)| (interface, peer, peer.allowed_ips.join(","))).collect();
    let mut each = |name, kind, unit, help, value: &dyn Fn(&PeerItem) -> Option<u64>| {
        let mut family = text.family(name, kind, unit, help);
        for (interface, peer, allowed_ips) in &labelled {
            if let Some(value) = value(peer) {
                let labels =
                    [("interface", interface.as_str()), ("public_key", &peer.public_key), ("allowed_ips", allowed_ips)];
                family.sample(&labels, value);
            }
        }
    };
    let sent = "Bytes of datagrams sent to the peer.";
    each("wireguard_sent_bytes", Kind::Counter, "bytes", sent, &|peer| Some(peer.tx_bytes));
    let received = "Bytes of datagrams received from the peer.";
    each("wireguard_received_bytes", Kind::Counter, "bytes", received, &|peer| Some(peer.rx_bytes));
    let handshake = "Unix seconds of the last handshake with the peer, 0 for never.";
    let at = |peer: &PeerItem| Some(peer.last_handshake_unix_secs.unwrap_or(0));
    each("wireguard_latest_handshake_seconds", Kind::Gauge, "seconds", handshake, &at);
    let healthy = "1 where the peer answers, 0 where it does not; absent until that is known.";
    each("ginnel_peer_healthy", Kind::Gauge, "", healthy, &|peer| peer.healthy.map(u64::from));
}

fn devices(facts: &Facts, text: &mut Exposition) {
    let mut family = text.family("ginnel_drop_packets", Kind::Counter, "packets", "Packets dropped, by reason.");
    for DropItem { interface, reason, packets } in &facts.drops {
        family.sample(&[("interface", interface), ("reason", reason)], packets);
    }
    // A set of states, of which one is 1: states are added up and compared then, not decoded.
    let mut family = text.family("ginnel_offload_state", Kind::Gauge, "", "1 for the state the offload is in.");
    for OffloadItem { interface, offload } in &facts.offloads {
        for state in ["untested", "on", "off"] {
            let labels = [("interface", interface.as_str()), ("offload", &offload.name), ("state", state)];
            family.sample(&labels, u8::from(offload.state == state));
        }
    }
    let help = "Batches that went the slow way because of the offload.";
    let mut family = text.family("ginnel_offload_fallback_batches", Kind::Counter, "batches", help);
    for OffloadItem { interface, offload } in &facts.offloads {
        family.sample(&[("interface", interface), ("offload", &offload.name)], offload.fallbacks);
    }
    let interface = facts.status.interface.as_deref().unwrap_or_default();
    for (name, count) in &facts.status.totals {
        let help = "A counter of the global device: see the section Counters of docs/operate.md.";
        text.family(&format!("ginnel_{name}"), Kind::Counter, "", help).sample(&[("interface", interface)], count);
    }
    if let Some(workers) = facts.status.workers {
        let mut family = text.family("ginnel_workers", Kind::Gauge, "", "Packet threads of the global device.");
        family.sample(&[("interface", interface)], workers);
    }
}

fn workloads(facts: &Facts, text: &mut Exposition) {
    let up = u8::from(facts.status.interface.is_some());
    text.family("ginnel_overlay_up", Kind::Gauge, "", "1 while the global overlay is up.").sample(&[], up);
    let mut family = text.family("ginnel_services", Kind::Gauge, "", "Service overlays, by mode.");
    for (mode, word) in [
        (OverlayMode::Auto, "auto"),
        (OverlayMode::Shared, "shared"),
        (OverlayMode::Dedicated, "dedicated"),
        (OverlayMode::Isolated, "isolated"),
    ] {
        let count = facts.services.iter().filter(|service| service.mode == mode).count();
        family.sample(&[("mode", word)], count);
    }
    let mut family = text.family("ginnel_attachments", Kind::Gauge, "", "Workloads attached, by service.");
    for service in &facts.services {
        family.sample(&[("service", &service.service)], service.attachments);
    }
    let leases = facts.status.lease_count.unwrap_or(0);
    text.family("ginnel_leases", Kind::Gauge, "", "Addresses given out.").sample(&[], leases);
    if let Some(dns) = &facts.status.dns {
        text.family("ginnel_names", Kind::Gauge, "", "Names that are answered.").sample(&[], dns.names);
        let help = "What the name server has counted, by what: see docs/names.md.";
        let mut family = text.family("ginnel_name_events", Kind::Counter, "", help);
        for (what, count) in &dns.totals {
            family.sample(&[("what", what)], count);
        }
    }
}

fn health(facts: &Facts, text: &mut Exposition) {
    let ok = u8::from(facts.health.iter().all(|condition| condition.severity < Severity::Error));
    text.family("ginnel_healthy", Kind::Gauge, "", "1 while no condition is an error.").sample(&[], ok);
    let mut family = text.family("ginnel_condition", Kind::Gauge, "", "1 for each condition that holds.");
    for condition in &facts.health {
        let subject = condition.subject.as_deref().unwrap_or_default();
        let labels = [("code", condition.code.as_str()), ("subject", subject), ("severity", condition.severity.name())];
        family.sample(&labels, 1);
    }
}

fn requests(facts: &Facts, text: &mut Exposition) {
    let help = "Requests on the socket, by operation and outcome: ok or the code of the refusal.";
    let mut family = text.family("ginnel_requests", Kind::Counter, "", help);
    for (op, tally) in &facts.requests {
        for (outcome, count) in &tally.outcomes {
            family.sample(&[("op", op), ("outcome", outcome)], count);
        }
    }
    let help = "Time from a request to its answer, by operation.";
    let mut family = text.family("ginnel_request_duration_seconds", Kind::Histogram, "seconds", help);
    for (op, tally) in &facts.requests {
        let classes: Vec<_> = CLASSES.into_iter().zip(tally.classes).collect();
        family.histogram(&[("op", op)], &classes, tally.count(), tally.secs);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::ipc::tally::Tally;
    use crate::ipc::wire::{OffloadStatus, PeerScope, Response};
    use std::collections::BTreeSet;
    use std::time::Duration;

    fn peer(key: &str, healthy: Option<bool>) -> PeerItem {
        PeerItem {
            public_key: key.into(),
            scope: PeerScope::Global,
            endpoint: None,
            allowed_ips: vec!["10.0.0.2/32".into(), "fd00::/64".into()],
            last_handshake_unix_secs: healthy.map(|_| 1_700_000_000),
            rx_bytes: 5,
            tx_bytes: 7,
            healthy,
        }
    }

    pub(in super::super) fn facts() -> Facts {
        let tally = Tally::default();
        tally.record("status", &Response::Ok, Duration::from_millis(2));
        Facts {
            status: StatusSnapshot {
                interface: Some("wg0".into()),
                version: Some("0.1.0".into()),
                totals: [("tun_rx_units".to_owned(), 9)].into(),
                lease_count: Some(3),
                workers: Some(2),
                ..StatusSnapshot::default()
            },
            peers: vec![("wg0".into(), peer("A=", Some(true))), ("wg\"1\"".into(), peer("B=", None))],
            services: vec![ServiceItem {
                service: "web".into(),
                mode: OverlayMode::Shared,
                interface: None,
                subnets: Vec::new(),
                gateways: Vec::new(),
                attachments: 4,
            }],
            drops: vec![DropItem { interface: "wg0".into(), reason: "outbound_unrouted".into(), packets: 11 }],
            offloads: vec![OffloadItem {
                interface: "wg0".into(),
                offload: OffloadStatus { name: "tun_tcp".into(), state: "on".into(), reason: None, fallbacks: 1 },
            }],
            health: vec![Condition {
                code: "config_invalid".into(),
                subject: None,
                severity: Severity::Error,
                text: "t".into(),
                hint: None,
                since_unix_secs: 1,
            }],
            requests: tally.read(),
            process: ProcessFacts::default(),
        }
    }

    #[test]
    fn everything_is_told() {
        let text = page(&facts());
        for line in [
            r#"wireguard_sent_bytes_total{interface="wg0",public_key="A=",allowed_ips="10.0.0.2/32,fd00::/64"} 7"#,
            r#"wireguard_received_bytes_total{interface="wg\"1\"",public_key="B=",allowed_ips="10.0.0.2/32,fd00::/64"} 5"#,
            r#"wireguard_latest_handshake_seconds{interface="wg0",public_key="A=",allowed_ips="10.0.0.2/32,fd00::/64"} 1700000000"#,
            r#"wireguard_latest_handshake_seconds{interface="wg\"1\"",public_key="B=",allowed_ips="10.0.0.2/32,fd00::/64"} 0"#,
            r#"ginnel_peer_healthy{interface="wg0",public_key="A=",allowed_ips="10.0.0.2/32,fd00::/64"} 1"#,
            r#"ginnel_drop_packets_total{interface="wg0",reason="outbound_unrouted"} 11"#,
            r#"ginnel_offload_state{interface="wg0",offload="tun_tcp",state="on"} 1"#,
            r#"ginnel_offload_state{interface="wg0",offload="tun_tcp",state="off"} 0"#,
            r#"ginnel_offload_fallback_batches_total{interface="wg0",offload="tun_tcp"} 1"#,
            r#"ginnel_tun_rx_units_total{interface="wg0"} 9"#,
            "ginnel_overlay_up 1",
            r#"ginnel_services{mode="shared"} 1"#,
            r#"ginnel_attachments{service="web"} 4"#,
            "ginnel_leases 3",
            "ginnel_healthy 0",
            r#"ginnel_condition{code="config_invalid",subject="",severity="error"} 1"#,
            r#"ginnel_requests_total{op="status",outcome="ok"} 1"#,
            r#"ginnel_request_duration_seconds_bucket{op="status",le="0.001"} 0"#,
            r#"ginnel_request_duration_seconds_bucket{op="status",le="0.0025"} 1"#,
            r#"ginnel_request_duration_seconds_sum{op="status"} 0.002"#,
            r#"ginnel_build_info{version="0.1.0",boot_id="",node_id=""} 1"#,
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("ginnel_peer_healthy{interface=\"wg\\\"1"), "{text}");
        assert!(text.ends_with("\n# EOF\n"));
    }

    #[test]
    fn no_family_and_no_sample_is_told_twice() {
        let text = page(&facts());
        let (mut families, mut samples, mut current) = (BTreeSet::new(), BTreeSet::new(), "");
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                current = rest.split(' ').next().unwrap();
                assert!(families.insert(current), "{line}");
            } else if !line.starts_with('#') {
                assert!(line.starts_with(current), "{line} is not of {current}");
                assert!(samples.insert(line.rsplit_once(' ').unwrap().0), "{line}");
            }
        }
        assert!(families.len() > 15);
    }

    /// Each family is explained in docs/operate.md, and nothing else is.
    #[test]
    fn the_paper_names_every_family() {
        let started = std::time::UNIX_EPOCH;
        let all = Facts { process: ProcessFacts::read(started), ..facts() };
        let text = page(&all);
        let told = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
        // Counters of the device stand in a table of their own.
        let told: BTreeSet<_> = told.filter(|name| *name != "ginnel_tun_rx_units").map(str::to_owned).collect();
        let paper = include_str!("../../../docs/operate.md");
        let (_, section) = paper.split_once("\n### Families\n").expect("the section Families");
        let rows = section.split("\n#").next().unwrap_or_default().lines();
        let cells = rows.filter_map(|line| line.strip_prefix("| `")?.split(" | ").next());
        let words = cells.flat_map(|cell| cell.split(", ")).map(|word| word.trim_matches(['`', ' ']));
        let explained: BTreeSet<_> = words
            .map(|word| ["_total", "_info"].iter().find_map(|suffix| word.strip_suffix(suffix)).unwrap_or(word))
            .filter(|word| *word != "ginnel_<counter>")
            .map(str::to_owned)
            .collect();
        assert_eq!(told, explained);
    }
}
