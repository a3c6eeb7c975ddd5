//! The answer to `status`.
//!
//! Beyond the published fields it carries additions that older clients ignore, from `boot_id` on, and byte counters per
//! peer. They are omitted where unknown, so that a snapshot of an older daemon reads and writes unchanged.

use super::Condition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

/// What a daemon has up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StatusSnapshot {
    /// Interface of the global overlay, while it is up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// Address of the node, while the overlay is up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_ip: Option<IpAddr>,
    /// Public key of the node, base64, while the overlay is up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_key: Option<String>,
    /// CIDR of the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlay_cidr: Option<String>,
    /// CIDR of the node's share of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slice_cidr: Option<String>,
    /// Length of `peers`.
    pub peer_count: u32,
    /// Services that are set up.
    pub service_count: u32,
    /// Peers of the global overlay.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub peers: Vec<PeerStatus>,
    /// Dedicated overlays.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dedicated_services: Vec<DedicatedServiceStatus>,
    /// Drawn anew at every start: a change means that the daemon lost what it had in memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_id: Option<String>,
    /// What `set_local_node_id` told, once it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_id: Option<u64>,
    /// Version of the daemon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Kernel offloads of the global device.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub offloads: Vec<OffloadStatus>,
    /// Packets the global device dropped, by reason; reasons that never happened are left out.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub drops: BTreeMap<String, u64>,
    /// Worker threads of the global device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workers: Option<u32>,
    /// The implementation of the cipher that the global device uses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cipher: Option<String>,
    /// What the global device has counted since it was made, over all its workers, by name of the counter.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub totals: BTreeMap<String, u64>,
    /// Workloads attached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attachment_count: Option<u32>,
    /// Addresses given out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_count: Option<u32>,
    /// The sync that ended last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// The name server, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns: Option<NameServerStatus>,
    /// What is wrong; nothing where absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub health: Vec<Condition>,
}

/// The name server of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NameServerStatus {
    /// Where it answers, as `ip:port`.
    #[schemars(with = "Vec<String>")]
    pub listening: Vec<SocketAddr>,
    /// Names it has.
    pub names: u32,
    /// Whom it asks for other names.
    #[schemars(with = "Vec<String>")]
    pub upstreams: Vec<SocketAddr>,
    /// Answers of theirs that it remembers.
    pub cached: u32,
    /// What it has counted since the start, by name of the counter.
    pub totals: BTreeMap<String, u64>,
}

/// One peer of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PeerStatus {
    /// Public key: 64 lower-case hexadecimal digits here, base64 everywhere else.
    pub public_key: String,
    /// Where its datagrams go; empty if unknown.
    pub endpoint: String,
    /// CIDRs separated by commas.
    pub allowed_ips: String,
    /// Unix seconds of the last handshake, 0 for never. Daemons up to 0.13.0 put the age here.
    pub last_handshake_unix_secs: i64,
    /// Bytes of datagrams received.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rx_bytes: Option<u64>,
    /// Bytes of datagrams sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tx_bytes: Option<u64>,
    /// Whether it answers, once that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healthy: Option<bool>,
}

/// One dedicated overlay of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DedicatedServiceStatus {
    /// Service name.
    pub service: String,
    /// Its interface.
    pub interface: String,
    /// Its public key, base64.
    pub public_key: String,
    /// Its UDP port.
    pub listen_port: u16,
    /// Its address.
    pub overlay_ip: IpAddr,
    /// Its subnet.
    pub subnet: String,
    /// Its peers.
    pub peer_count: u32,
}

/// One kernel offload of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OffloadStatus {
    /// Its name, as `--offload-off` takes it.
    pub name: String,
    /// `untested`, `on` or `off`.
    pub state: String,
    /// Why it is off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Batches that went the slow way because of it.
    pub fallbacks: u64,
}
