//! What the server answers. Events are in [`super::event`].

use super::{
    Fault, GuestOverlayConfig, Health, Hello, ListPage, NatStatus, Removed, ServiceOverlayInfo, StatusSnapshot,
    Subscribed, SyncEnded,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// The answer to a request. Payloads stand beside the tag, not under it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
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
        /// All its addresses, where there are more. Not published.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        addresses: Vec<IpAddr>,
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
    Err(Fault),
    /// Answers `hello`.
    Hello(Hello),
    /// Answers `subscribe`.
    Subscribed(Subscribed),
    /// Answers `list`.
    List(ListPage),
    /// Answers `begin_sync`.
    SyncBegun {
        /// The sync.
        epoch: u64,
    },
    /// Answers `end_sync`.
    SyncEnded(SyncEnded),
    /// Answers `gc`.
    Collected(Removed),
    /// Answers `health`.
    Health(Health),
}
