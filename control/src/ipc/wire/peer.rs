//! Peers as the wire spells them.

use super::NatCandidate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A WireGuard peer. Inline in `add_peer`, an object in the peers of a guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PeerSpec {
    /// Public key, base64.
    pub public_key: String,
    /// `ip:port`, `[ip6]:port` or `name:port`; `0.0.0.0:0` where the peer is expected to call first.
    pub endpoint: String,
    /// CIDRs separated by commas; may be empty.
    pub allowed_ips: String,
    /// Seconds between keepalives; 0 is off.
    pub persistent_keepalive_secs: u64,
    /// Where the peer may also be reached; used by NAT traversal.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub candidates: Vec<NatCandidate>,
}

/// Which overlay a peer belongs to. The tag has the name of the field that holds it: `"scope":{"scope":"global"}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "scope", rename_all = "snake_case")]
pub enum PeerScope {
    /// The overlay of the whole node.
    #[default]
    Global,
    /// The dedicated overlay of one service.
    Service {
        /// Its name.
        service: String,
    },
}

impl PeerScope {
    /// What a peer is told apart by among those of all overlays.
    #[must_use]
    pub fn peer_key(&self, pubkey: &str) -> String {
        match self {
            Self::Global => pubkey.to_owned(),
            Self::Service { service } => format!("{service}/{pubkey}"),
        }
    }
}

/// The fields of `add_peers`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AddPeers {
    /// The peers.
    pub peers: Vec<PeerSpec>,
    /// Where they go.
    #[serde(default)]
    pub scope: PeerScope,
}

/// The fields of `add_peer`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AddPeer {
    /// The peer, its fields beside `op`.
    #[serde(flatten)]
    pub peer: PeerSpec,
    /// Where it goes.
    #[serde(default)]
    pub scope: PeerScope,
}
