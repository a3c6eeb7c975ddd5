//! NAT traversal as the wire spells it: settings, candidates and what became of them.

use super::Secret;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A place where a node may be reached. Entries of an unknown type or without a parseable address are dropped by whoever
/// uses them; the others count.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NatCandidate {
    /// `host`, `server-reflexive` or `relay`.
    pub candidate_type: String,
    /// Socket address.
    pub address: String,
    /// Greater is tried earlier.
    pub priority: u32,
}

/// Settings of NAT traversal. Zero or empty means "use the built-in default", except for `enabled`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct NatConfigSpec {
    /// Taken verbatim: settings without it turn traversal off, no settings at all leave it on.
    pub enabled: bool,
    /// `host:port` of STUN servers.
    pub stun_servers: Vec<String>,
    /// Relays to use.
    pub turn_servers: Vec<TurnServerSpec>,
    /// Seconds to try one candidate pair; 15 by default.
    pub hole_punch_timeout_secs: u64,
    /// Seconds between two `nat_tick` of the caller; 60 by default.
    pub stun_refresh_interval_secs: u64,
    /// Candidate pairs to try per peer; 10 by default.
    pub max_candidate_pairs: usize,
    /// A relay to run on this node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relay_server: Option<RelayServerSpec>,
}

/// A relay to use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct TurnServerSpec {
    /// `host:port`.
    pub addr: String,
    /// User name.
    pub username: String,
    /// Its password.
    pub credential: Secret,
}

/// A relay to run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RelayServerSpec {
    /// UDP port.
    pub listen_port: u16,
    /// The address it is known by outside.
    pub external_addr: String,
    /// Allocations at once; 100 by default.
    pub max_sessions: usize,
    /// Shared secret of its users.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth_credential: Option<Secret>,
}

/// What NAT traversal knows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NatStatus {
    /// Where this node may be reached.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub candidates: Vec<NatCandidate>,
    /// How each peer is reached.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub peers: Vec<NatPeer>,
    /// Unix seconds of the last look, 0 for never.
    #[serde(default)]
    pub last_refresh: u64,
}

/// How one peer is reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NatPeer {
    /// Its public key, base64.
    pub node_id: String,
    /// `direct`, `hole-punched` or `relayed`.
    pub connection_type: String,
    /// Where its datagrams go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote_endpoint: Option<String>,
}
