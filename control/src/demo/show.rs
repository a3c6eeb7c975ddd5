//! What the demo tells: a table for people, an object for machines, and the way into the nodes.

use super::containers::{Container, Containers, Visit};
use super::{NodeOutcome, Outcome};
use crate::ipc::wire::OffloadStatus;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The table.
pub(super) fn table(outcome: &Outcome) -> String {
    let mut rows = vec![["node", "overlay", "underlay", "handshake", "received", "sent", "memory"].map(String::from)];
    for (index, node) in outcome.nodes.iter().enumerate() {
        rows.push([
            (index + 1).to_string(),
            node.status.node_ip.map_or("–".into(), |ip| ip.to_string()),
            node.underlay.to_string(),
            latest_handshake(node).map_or("none".into(), |age| format!("{} s ago", age.as_secs())),
            bytes(received(node)),
            bytes(sent(node)),
            bytes(node.rss_bytes),
        ]);
    }
    let mut text = aligned(&rows);
    let _ = write!(text, "\n{}\n", containers(&outcome.containers));
    let mut facts = Vec::new();
    let trip = &outcome.round_trip;
    let lost = if trip.lost == 0 { "none lost".into() } else { format!("{} lost", trip.lost) };
    facts.push([
        "round trip 1 ↔ 2".into(),
        format!("p50 {}  p99 {}", micros(trip.p50), micros(trip.p99)),
        format!("{} probes, {lost}", trip.sent),
    ]);
    for transfer in &outcome.transfers {
        let rate = format!("{:.2} Gb/s", transfer.report.bits_per_sec() / 1e9);
        facts.push([
            format!("TCP {} → {}", transfer.from + 1, transfer.to + 1),
            if transfer.measured { rate } else { "arrived".into() },
            format!("{}, every byte right", bytes(transfer.report.bytes)),
        ]);
    }
    facts.push([
        "processor time".into(),
        format!("{:.2} s per GB", outcome.machine_secs_per_gb),
        format!("of the whole machine; the daemons {:.2} s of it", outcome.daemon_secs_per_gb),
    ]);
    let _ = writeln!(text, "{}", aligned(&facts));
    for (index, node) in outcome.nodes.iter().enumerate() {
        let offloads: Vec<_> = node.status.offloads.iter().map(|o| format!("{} {}", o.name, o.state)).collect();
        if !offloads.is_empty() {
            let _ = writeln!(text, "offloads of node {}: {}", index + 1, offloads.join(", "));
        }
        let drops: Vec<_> =
            node.status.drops.iter().filter(|(_, n)| **n > 0).map(|(reason, n)| format!("{reason} {n}")).collect();
        if !drops.is_empty() {
            let _ = writeln!(text, "dropped by node {}: {}", index + 1, drops.join(", "));
        }
    }
    let _ = writeln!(text, "done in {:.1} s", outcome.elapsed.as_secs_f64());
    text
}

/// The containers, whom they visited and whom they could not.
fn containers(containers: &Containers) -> String {
    let mut rows = vec![["container", "node", "address", "attached in"].map(String::from)];
    for container in &containers.all {
        rows.push([
            container.name.clone(),
            (container.node + 1).to_string(),
            container.ip.to_string(),
            millis(container.attached_in),
        ]);
    }
    let mut text = aligned(&rows);
    text.push('\n');
    for visit in &containers.visits {
        let Visit { from, to, resolved_in, page, took } = visit;
        let _ =
            writeln!(text, "{from} → http://{to}/  {page:?}  name {}, page {}", micros(*resolved_in), millis(*took));
    }
    let refused: Vec<_> = containers.refused.iter().map(|(from, to)| format!("{from} → {to}")).collect();
    let _ = writeln!(text, "kept apart: {}", refused.join(", "));
    text
}

/// The same for machines.
pub(super) fn json(outcome: &Outcome) -> Value {
    let node = |(index, node): (usize, &NodeOutcome)| {
        let offload = |o: &OffloadStatus| json!({ "name": o.name, "state": o.state, "fallbacks": o.fallbacks });
        json!({
            "node": index + 1,
            "pid": node.pid,
            "interface": node.status.interface,
            "overlay_ip": node.status.node_ip,
            "underlay_ip": node.underlay,
            "handshake_age_secs": latest_handshake(node).map(|age| age.as_secs()),
            "rx_bytes": received(node),
            "tx_bytes": sent(node),
            "rss_bytes": node.rss_bytes,
            "offloads": node.status.offloads.iter().map(offload).collect::<Vec<_>>(),
            "drops": node.status.drops,
        })
    };
    let transfer = |transfer: &super::Transfer| {
        json!({
            "from": transfer.from + 1,
            "to": transfer.to + 1,
            "bytes": transfer.report.bytes,
            "bytes_checked": true,
            "measured": transfer.measured,
            "bits_per_sec": transfer.report.bits_per_sec(),
        })
    };
    let trip = &outcome.round_trip;
    let container = |container: &Container| {
        json!({
            "name": container.name,
            "node": container.node + 1,
            "ip": container.ip,
            "attach_us": container.attached_in.as_secs_f64() * 1e6,
        })
    };
    let visit = |visit: &Visit| {
        let micros = visit.took.as_secs_f64() * 1e6;
        let name_us = visit.resolved_in.as_secs_f64() * 1e6;
        json!({ "from": visit.from, "to": visit.to, "page": visit.page, "name_us": name_us, "us": micros })
    };
    json!({
        "ok": true,
        "containers": outcome.containers.all.iter().map(container).collect::<Vec<_>>(),
        "visits": outcome.containers.visits.iter().map(visit).collect::<Vec<_>>(),
        "refused": outcome.containers.refused,
        "nodes": outcome.nodes.iter().enumerate().map(node).collect::<Vec<_>>(),
        "round_trip": {
            "sent": trip.sent,
            "lost": trip.lost,
            "min_us": trip.min.as_secs_f64() * 1e6,
            "p50_us": trip.p50.as_secs_f64() * 1e6,
            "p99_us": trip.p99.as_secs_f64() * 1e6,
        },
        "tcp": outcome.transfers.iter().map(transfer).collect::<Vec<_>>(),
        "machine_secs_per_gb": outcome.machine_secs_per_gb,
        "daemon_secs_per_gb": outcome.daemon_secs_per_gb,
        "elapsed_secs": outcome.elapsed.as_secs_f64(),
    })
}

/// What machines get where the demo failed.
pub(super) fn failure(message: &str) -> Value {
    json!({ "ok": false, "error": message })
}

/// How to enter the nodes of a demo that stays.
pub(super) fn entrances(outcome: &Outcome, in_user_namespace: bool) -> String {
    let mut text = String::from("\nThe overlay stays up; Ctrl-C ends it. To enter a node:\n");
    // Without these an outsider is nobody in the user namespace.
    let user = if in_user_namespace { " --user --preserve-credentials" } else { "" };
    for (index, node) in outcome.nodes.iter().enumerate() {
        let _ = writeln!(text, "  node {}:  nsenter --target {}{user} --mount --net", index + 1, node.pid);
    }
    text
}

fn latest_handshake(node: &NodeOutcome) -> Option<Duration> {
    let latest = node.status.peers.iter().map(|peer| peer.last_handshake_unix_secs).max().filter(|secs| *secs > 0)?;
    let at = UNIX_EPOCH + Duration::from_secs(u64::try_from(latest).ok()?);
    Some(SystemTime::now().duration_since(at).unwrap_or_default())
}

fn received(node: &NodeOutcome) -> u64 {
    node.status.peers.iter().filter_map(|peer| peer.rx_bytes).sum()
}

fn sent(node: &NodeOutcome) -> u64 {
    node.status.peers.iter().filter_map(|peer| peer.tx_bytes).sum()
}

fn millis(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}

fn micros(time: Duration) -> String {
    format!("{:.0} µs", time.as_secs_f64() * 1e6)
}

fn bytes(count: u64) -> String {
    match count as f64 {
        count if count >= 1e9 => format!("{:.2} GB", count / 1e9),
        count if count >= 1e6 => format!("{:.1} MB", count / 1e6),
        count if count >= 1e3 => format!("{:.1} kB", count / 1e3),
        count => format!("{count} B"),
    }
}

/// Columns of equal width, two blanks apart.
fn aligned<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    rows.iter().fold(String::new(), |mut text, row| {
        let cells: Vec<_> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        let _ = writeln!(text, "{}", cells.join("  ").trim_end());
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::Transfer;
    use crate::lab::traffic::{EchoReport, TcpReport};
    use std::net::Ipv4Addr;

    fn outcome() -> Outcome {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let status = json!({
            "interface": "zl-demo-1-g", "node_ip": "10.200.1.1", "public_key": "k", "peer_count": 1, "service_count": 0,
            "peers": [{ "public_key": "p", "endpoint": "", "allowed_ips": "", "last_handshake_unix_secs": now - 7,
                "rx_bytes": 2_500_000, "tx_bytes": 9 }],
            "offloads": [{ "name": "tun_tcp", "state": "on", "fallbacks": 0 }],
            "drops": { "replay": 2, "no_route": 0 },
        });
        let node = |pid| NodeOutcome {
            pid,
            underlay: Ipv4Addr::new(192, 0, 2, 1),
            status: serde_json::from_value(status.clone()).unwrap(),
            rss_bytes: 12_000_000,
        };
        let time = Duration::from_micros;
        let report = TcpReport { bytes: 1_000_000_000, elapsed: Duration::from_secs(2), streams: vec![1_000_000_000] };
        Outcome {
            nodes: vec![node(41), node(42)],
            containers: Containers {
                all: Vec::new(),
                visits: vec![Visit {
                    from: "job-1".into(),
                    to: "web-2.shop.internal".into(),
                    resolved_in: time(61),
                    page: "web-2 here, and you are 10.200.1.2".into(),
                    took: time(1_230),
                }],
                refused: vec![("job-1".into(), "vault-1".into())],
            },
            round_trip: EchoReport { sent: 10, lost: 0, min: time(20), p50: time(30), p99: time(90) },
            transfers: vec![
                Transfer { from: 0, to: 1, measured: true, report: report.clone() },
                Transfer { from: 1, to: 0, measured: false, report },
            ],
            machine_secs_per_gb: 1.25,
            daemon_secs_per_gb: 0.5,
            elapsed: Duration::from_secs(9),
        }
    }

    #[test]
    fn the_table_tells_everything() {
        let text = table(&outcome());
        let age = ["7 s ago", "8 s ago"];
        assert!(age.iter().any(|age| text.contains(&format!("192.0.2.1  {age}    2.5 MB"))), "{text}");
        for part in [
            "job-1 → http://web-2.shop.internal/  \"web-2 here, and you are 10.200.1.2\"  name 61 µs, page 1.2 ms",
            "kept apart: job-1 → vault-1\n",
            "p50 30 µs  p99 90 µs",
            "10 probes, none lost",
            "TCP 1 → 2",
            "4.00 Gb/s",
            "1.00 GB, every byte right",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(
            text.contains("offloads of node 2: tun_tcp on") && text.contains("dropped by node 1: replay 2\n"),
            "{text}"
        );
        assert_eq!(text.matches("Gb/s").count(), 1, "{text}");
    }

    #[test]
    fn machines_get_one_object() {
        let value = json(&outcome());
        assert_eq!(value["ok"], true);
        assert_eq!(value["tcp"][0]["bits_per_sec"], 4e9);
        assert_eq!(value["nodes"][1]["pid"], 42);
        assert_eq!((&value["visits"][0]["us"], &value["refused"][0][1]), (&json!(1_230.0), &json!("vault-1")));
        assert_eq!(failure("no TUN")["error"], "no TUN");
    }

    #[test]
    fn entrances_fit_the_rights() {
        assert!(entrances(&outcome(), false).contains("nsenter --target 41 --mount --net"));
        assert!(entrances(&outcome(), true).contains("nsenter --target 42 --user --preserve-credentials"));
    }

    #[test]
    fn columns_line_up() {
        let rows = [["a", "bb"], ["µµµ", "c"]].map(|row| row.map(String::from));
        assert_eq!(aligned(&rows), "a    bb\nµµµ  c\n");
    }
}
