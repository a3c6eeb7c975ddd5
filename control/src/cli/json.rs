//! Output for programs. Fields that do not apply are `null`, never missing; keys are base64 throughout; times are Unix
//! seconds. Within one `schema` fields are only ever added.

use crate::ipc::wire::{Condition, DedicatedServiceStatus, Health, OffloadStatus, PeerStatus, StatusSnapshot};
use ginnel_engine::key::PublicKey;
use serde::Serialize;
use serde_json::json;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Version of all that is written for programs.
pub(super) const SCHEMA: u32 = 1;

#[derive(Serialize)]
struct Status<'a> {
    schema: u32,
    version: Option<&'a str>,
    boot_id: Option<&'a str>,
    node_id: Option<u64>,
    interface: Option<&'a str>,
    node_ip: Option<IpAddr>,
    public_key: Option<&'a str>,
    overlay_cidr: Option<&'a str>,
    slice_cidr: Option<&'a str>,
    peers: Vec<Peer<'a>>,
    dedicated_services: &'a [DedicatedServiceStatus],
    offloads: &'a [OffloadStatus],
    drops: &'a BTreeMap<String, u64>,
    workers: Option<u32>,
    cipher: Option<&'a str>,
    totals: &'a BTreeMap<String, u64>,
    attachment_count: Option<u32>,
    lease_count: Option<u32>,
    epoch: Option<u64>,
    health: &'a [Condition],
}

#[derive(Serialize)]
struct Peers<'a> {
    schema: u32,
    peers: Vec<Peer<'a>>,
}

#[derive(Serialize)]
struct Peer<'a> {
    public_key: String,
    endpoint: Option<&'a str>,
    allowed_ips: Vec<&'a str>,
    last_handshake_unix_secs: Option<i64>,
    rx_bytes: Option<u64>,
    tx_bytes: Option<u64>,
}

/// The whole snapshot.
pub(super) fn status(status: &StatusSnapshot) -> String {
    text(&Status {
        schema: SCHEMA,
        version: status.version.as_deref(),
        boot_id: status.boot_id.as_deref(),
        node_id: status.node_id,
        interface: status.interface.as_deref(),
        node_ip: status.node_ip,
        public_key: status.public_key.as_deref(),
        overlay_cidr: status.overlay_cidr.as_deref(),
        slice_cidr: status.slice_cidr.as_deref(),
        peers: status.peers.iter().map(peer).collect(),
        dedicated_services: &status.dedicated_services,
        offloads: &status.offloads,
        drops: &status.drops,
        workers: status.workers,
        cipher: status.cipher.as_deref(),
        totals: &status.totals,
        attachment_count: status.attachment_count,
        lease_count: status.lease_count,
        epoch: status.epoch,
        health: &status.health,
    })
}

/// Its peers alone.
pub(super) fn peers(status: &StatusSnapshot) -> String {
    text(&Peers { schema: SCHEMA, peers: status.peers.iter().map(peer).collect() })
}

/// What is wrong.
pub(super) fn health(health: &Health) -> String {
    text(&json!({"schema": SCHEMA, "ok": health.ok, "conditions": health.conditions}))
}

/// The base64 form of a key the wire has in hexadecimal; what is neither is passed on.
pub(super) fn key(text: &str) -> String {
    PublicKey::from_hex(text).map_or_else(|_| text.to_owned(), |key| key.to_base64())
}

fn peer(peer: &PeerStatus) -> Peer<'_> {
    Peer {
        public_key: key(&peer.public_key),
        endpoint: Some(peer.endpoint.as_str()).filter(|endpoint| !endpoint.is_empty()),
        allowed_ips: peer.allowed_ips.split(',').filter(|prefix| !prefix.is_empty()).collect(),
        last_handshake_unix_secs: Some(peer.last_handshake_unix_secs).filter(|secs| *secs != 0),
        rx_bytes: peer.rx_bytes,
        tx_bytes: peer.tx_bytes,
    }
}

/// A value over several lines.
pub(super) fn text(value: &impl Serialize) -> String {
    // Serialising strings and numbers into memory has no way to fail.
    let mut text = serde_json::to_string_pretty(value).unwrap_or_default();
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::super::table::tests::{fresh, snapshot};
    use super::*;
    use serde_json::Value;

    #[test]
    fn every_field_is_there_in_every_state() {
        let full: Value = serde_json::from_str(&status(&snapshot())).unwrap();
        let empty: Value = serde_json::from_str(&status(&fresh())).unwrap();
        let names = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&full), names(&empty));
        assert_eq!((&empty["interface"], &empty["peers"]), (&Value::Null, &json!([])));
    }

    #[test]
    fn peers_are_spelled_for_programs() {
        let all: Value = serde_json::from_str(&peers(&snapshot())).unwrap();
        assert_eq!(
            all,
            json!({"schema": 1, "peers": [
                {"public_key": "CQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQk=", "endpoint": "192.0.2.50:51420",
                 "allowed_ips": ["10.200.9.0/28", "fd00::/64"], "last_handshake_unix_secs": 1_700_000_000,
                 "rx_bytes": 1536, "tx_bytes": 5_368_709_120_u64},
                {"public_key": "odd", "endpoint": null, "allowed_ips": [], "last_handshake_unix_secs": null,
                 "rx_bytes": null, "tx_bytes": null},
            ]})
        );
    }
}
