//! What the server says: answers and events.

use super::{GuestOverlayConfig, NatStatus, ServiceOverlayInfo, StatusSnapshot};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// The answer to a request. Payloads stand beside the tag, not under it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "snake_case")]
pub enum Response {
    /// Done.
    Ok,
    /// An address.
    Ip {
        /// The address.
        ip: IpAddr,
    },
    /// A container is attached.
    Attached {
        /// Its address.
        ip: IpAddr,
        /// Its network namespace (Windows only).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        namespace_guid: Option<String>,
    },
    /// A guest is attached.
    GuestConfig(GuestOverlayConfig),
    /// The global overlay is up.
    BridgeName {
        /// Its interface.
        name: String,
    },
    /// The state of the daemon.
    Status(Box<StatusSnapshot>),
    /// The state of NAT traversal.
    NatStatus(NatStatus),
    /// Bridges that were removed.
    PrunedBridges {
        /// Their names; always present.
        reclaimed: Vec<String>,
    },
    /// A service overlay is up.
    ServiceOverlay(ServiceOverlayInfo),
    /// Not done, and nothing changed.
    Err {
        /// Why, for people.
        message: String,
    },
}

/// Facts a server may tell unasked. Server 0.13.0 never does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A peer was heard of, or lost.
    PeerHealthChanged {
        /// Its public key, base64.
        pubkey: String,
        /// Whether it answers.
        healthy: bool,
    },
    /// A peer is reached elsewhere than before.
    NatEndpointChanged {
        /// Its public key, base64.
        pubkey: String,
        /// The socket address.
        endpoint: String,
    },
}
