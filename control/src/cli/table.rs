//! Output for people.

use super::json::key;
use crate::ipc::wire::{PeerStatus, StatusSnapshot};
use std::collections::BTreeMap;
use std::fmt::Write;

/// What the daemon has up, a fact per line. `now` is in Unix seconds.
pub(super) fn status(status: &StatusSnapshot, now: i64) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{name:<12}{value}");
    };
    line("daemon", status.version.as_deref().unwrap_or("of an unknown version"));
    match &status.interface {
        Some(interface) => line("interface", interface),
        None => line("interface", "none: the overlay is not set up"),
    }
    if let Some(ip) = status.node_ip {
        line("address", &ip.to_string());
    }
    if let Some(key) = &status.public_key {
        line("public key", key);
    }
    if let Some(cidr) = &status.overlay_cidr {
        line("cluster", cidr);
    }
    if let Some(cidr) = &status.slice_cidr {
        line("slice", cidr);
    }
    if let Some(id) = status.node_id {
        line("node id", &id.to_string());
    }
    let heard = status.peers.iter().map(|peer| peer.last_handshake_unix_secs).max().filter(|secs| *secs > 0);
    let heard = heard.map(|secs| format!(", last handshake {}", age(secs, now))).unwrap_or_default();
    line("peers", &format!("{}{heard}", status.peer_count));
    for service in &status.dedicated_services {
        line("service", &format!("{} on {} ({})", service.service, service.interface, service.subnet));
    }
    for offload in &status.offloads {
        let why = offload.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
        let slow = match offload.fallbacks {
            0 => String::new(),
            batches => format!(", {batches} batches went the slow way"),
        };
        line("offload", &format!("{} {}{why}{slow}", offload.name, offload.state));
    }
    if let Some(workers) = status.workers {
        line("workers", &workers.to_string());
    }
    if let Some(cipher) = &status.cipher {
        line("cipher", cipher);
    }
    for (way, ports) in [
        (
            "outbound",
            [
                ("tun_rx_units", "tun_rx_packets", "packets per TUN read"),
                ("link_tx_trains", "link_tx_datagrams", "datagrams per send"),
            ],
        ),
        (
            "inbound",
            [
                ("link_rx_trains", "link_rx_datagrams", "datagrams per receive"),
                ("tun_tx_units", "tun_tx_packets", "packets per TUN write"),
            ],
        ),
    ] {
        let told: Vec<_> = ports.iter().filter_map(|port| at_a_time(&status.totals, *port)).collect();
        if !told.is_empty() {
            line(way, &told.join(", "));
        }
    }
    if let Some(attachments) = status.attachment_count {
        line("attached", &attachments.to_string());
    }
    if let Some(leases) = status.lease_count {
        line("leases", &leases.to_string());
    }
    for condition in &status.health {
        line(condition.severity.name(), &format!("{}: {}", condition.code, condition.text));
    }
    for (reason, packets) in &status.drops {
        line("dropped", &format!("{packets} {reason}"));
    }
    text
}

/// How many went through a port at a time: what the offloads bring. `None` before the first.
fn at_a_time(totals: &BTreeMap<String, u64>, (calls, items, words): (&str, &str, &str)) -> Option<String> {
    let count = |name| totals.get(name).copied().filter(|count| *count > 0);
    Some(format!("{:.1} {words}", count(items)? as f64 / count(calls)? as f64))
}

/// The peers, a line each.
pub(super) fn peers(status: &StatusSnapshot, now: i64) -> String {
    if status.peers.is_empty() {
        return "no peers\n".to_owned();
    }
    let head = ["PUBLIC KEY", "ENDPOINT", "HANDSHAKE", "RECEIVED", "SENT", "ALLOWED IPS"].map(str::to_owned);
    columns(std::iter::once(head.to_vec()).chain(status.peers.iter().map(|peer| row(peer, now).to_vec())).collect())
}

/// Rows of equally many cells, the first being the heads, in columns as wide as they have to be.
pub(super) fn columns(rows: Vec<Vec<String>>) -> String {
    let width =
        |at: usize| rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count()).max().unwrap_or(0);
    let widths: Vec<_> = (0..rows.first().map_or(0, Vec::len)).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:<width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn row(peer: &PeerStatus, now: i64) -> [String; 6] {
    let or_dash = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
    [
        key(&peer.public_key),
        or_dash(&peer.endpoint),
        age(peer.last_handshake_unix_secs, now),
        peer.rx_bytes.map_or_else(|| "-".to_owned(), size),
        peer.tx_bytes.map_or_else(|| "-".to_owned(), size),
        or_dash(&peer.allowed_ips),
    ]
}

/// How long ago `then` was, to two units.
pub(super) fn age(then: i64, now: i64) -> String {
    if then == 0 {
        return "never".to_owned();
    }
    let secs = now.saturating_sub(then);
    let (days, hours, minutes) = (secs / 86_400, secs / 3_600 % 24, secs / 60 % 60);
    match secs {
        // A clock that was set back makes the past lie ahead.
        ..=0 => "now".to_owned(),
        1..60 => format!("{secs}s ago"),
        60..3_600 => format!("{minutes}m {}s ago", secs % 60),
        3_600..86_400 => format!("{hours}h {minutes}m ago"),
        _ => format!("{days}d {hours}h ago"),
    }
}

/// A number of bytes in the unit that leaves fewest digits.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let power = (bytes.ilog2() / 10) as usize;
    let tenths = u128::from(bytes) * 10 / (1 << (10 * power));
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[power - 1])
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::ipc::wire::{DedicatedServiceStatus, OffloadStatus};

    pub(in super::super) fn fresh() -> StatusSnapshot {
        StatusSnapshot { overlay_cidr: Some("10.200.0.0/16".into()), ..StatusSnapshot::default() }
    }

    pub(in super::super) fn snapshot() -> StatusSnapshot {
        StatusSnapshot {
            interface: Some("zl-prod-0-g".into()),
            node_ip: Some("10.200.5.1".parse().unwrap()),
            public_key: Some("4AElotbq1WFIQS1gXC08H4KIZU0ufarA+N6/FDl3elI=".into()),
            overlay_cidr: Some("10.200.0.0/16".into()),
            slice_cidr: Some("10.200.5.0/28".into()),
            peer_count: 2,
            service_count: 1,
            peers: vec![
                PeerStatus {
                    public_key: "09".repeat(32),
                    endpoint: "192.0.2.50:51420".into(),
                    allowed_ips: "10.200.9.0/28,fd00::/64".into(),
                    last_handshake_unix_secs: 1_700_000_000,
                    rx_bytes: Some(1536),
                    tx_bytes: Some(5 << 30),
                    healthy: Some(true),
                },
                PeerStatus {
                    public_key: "odd".into(),
                    endpoint: String::new(),
                    allowed_ips: String::new(),
                    last_handshake_unix_secs: 0,
                    rx_bytes: None,
                    tx_bytes: None,
                    healthy: None,
                },
            ],
            dedicated_services: vec![DedicatedServiceStatus {
                service: "pay".into(),
                interface: "zl-prod-0-pay-d".into(),
                public_key: "k".into(),
                listen_port: 51421,
                overlay_ip: "10.200.141.129".parse().unwrap(),
                subnet: "10.200.141.128/26".into(),
                peer_count: 1,
            }],
            boot_id: Some("b".into()),
            node_id: Some(7),
            version: Some("0.1.0".into()),
            offloads: vec![OffloadStatus {
                name: "tun_udp".into(),
                state: "off".into(),
                reason: Some("failed (errno 5)".into()),
                fallbacks: 3,
            }],
            drops: [("outbound_unrouted".to_owned(), 4)].into(),
            workers: Some(2),
            cipher: Some("avx512".into()),
            totals: [("tun_rx_units", 10), ("tun_rx_packets", 450), ("link_tx_trains", 20), ("link_tx_datagrams", 882)]
                .map(|(name, count)| (name.to_owned(), count))
                .into(),
            ..StatusSnapshot::default()
        }
    }

    #[test]
    fn the_status_of_a_node() {
        assert_eq!(
            status(&snapshot(), 1_700_000_065),
            "\
daemon      0.1.0
interface   zl-prod-0-g
address     10.200.5.1
public key  4AElotbq1WFIQS1gXC08H4KIZU0ufarA+N6/FDl3elI=
cluster     10.200.0.0/16
slice       10.200.5.0/28
node id     7
peers       2, last handshake 1m 5s ago
service     pay on zl-prod-0-pay-d (10.200.141.128/26)
offload     tun_udp off: failed (errno 5), 3 batches went the slow way
workers     2
cipher      avx512
outbound    45.0 packets per TUN read, 44.1 datagrams per send
dropped     4 outbound_unrouted
"
        );
        assert!(status(&fresh(), 0).contains("not set up"));
    }

    #[test]
    fn the_table_of_peers() {
        assert_eq!(
            peers(&snapshot(), 1_700_000_065),
            "\
PUBLIC KEY                                    ENDPOINT          HANDSHAKE  RECEIVED  SENT     ALLOWED IPS
CQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQk=  192.0.2.50:51420  1m 5s ago  1.5 KiB   5.0 GiB  10.200.9.0/28,fd00::/64
odd                                           -                 never      -         -        -
"
        );
        assert_eq!(peers(&fresh(), 0), "no peers\n");
    }

    #[test]
    fn ages_and_sizes() {
        for (secs, text) in
            [(0, "now"), (-5, "now"), (1, "1s ago"), (59, "59s ago"), (60, "1m 0s ago"), (3599, "59m 59s ago")]
        {
            assert_eq!(age(1000, 1000 + secs), text);
        }
        assert_eq!(age(1, 3_601 + 60), "1h 1m ago");
        assert_eq!(age(1, 90_001), "1d 1h ago");
        assert_eq!(age(i64::MIN, i64::MAX).split_whitespace().count(), 3);
        assert_eq!(age(0, 5), "never");
        for (bytes, text) in
            [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1_048_575, "1023.9 KiB"), (u64::MAX, "15.9 EiB")]
        {
            assert_eq!(size(bytes), text);
        }
    }
}
