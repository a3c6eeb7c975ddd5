//! What a client may ask: the 23 operations of contract version 0.13.0.

use super::{AddPeer, AttachContainer, AttachHandle, NatConfigSpec, OverlayMode, PeerScope};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// One operation. Fields without a default are required; only `Option` fields may be `null`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Request {
    /// Number of this node in the cluster.
    SetLocalNodeId {
        /// The number.
        node_id: u64,
    },
    /// The public key by which the cluster knows this node.
    SetLocalWgPubkey {
        /// The key; not validated.
        pubkey: String,
    },
    /// Bring up the overlay of the node.
    SetupGlobalOverlay(SetupGlobalOverlay),
    /// Take it down.
    TeardownGlobalOverlay,
    /// Bring up the overlay of a service.
    SetupServiceOverlay {
        /// Its name.
        service: String,
        /// Its mode.
        mode: OverlayMode,
    },
    /// Take it down.
    TeardownServiceOverlay {
        /// Its name.
        service: String,
    },
    /// Reserve an address.
    AllocateIp {
        /// The service it is for.
        service: String,
        /// Whether the workload joins the global overlay.
        join_global: bool,
    },
    /// Give an address back.
    ReleaseIp {
        /// The address.
        ip: IpAddr,
    },
    /// Attach a workload.
    AttachContainer(AttachContainer),
    /// Detach it.
    DetachContainer {
        /// What was attached.
        handle: AttachHandle,
    },
    /// Add a WireGuard peer, or change it.
    AddPeer(AddPeer),
    /// Remove a WireGuard peer.
    RemovePeer {
        /// Its public key, base64.
        pubkey: String,
        /// Where it is.
        #[serde(default)]
        scope: PeerScope,
    },
    /// Route a prefix to a peer.
    AddAllowedIp {
        /// Its public key, base64.
        pubkey: String,
        /// The prefix.
        cidr: String,
        /// Where it is.
        #[serde(default)]
        scope: PeerScope,
    },
    /// Stop routing a prefix to a peer.
    RemoveAllowedIp {
        /// Its public key, base64.
        pubkey: String,
        /// The prefix.
        cidr: String,
        /// Where it is.
        #[serde(default)]
        scope: PeerScope,
    },
    /// Give a name an address.
    RegisterDns {
        /// The name.
        name: String,
        /// The address.
        ip: IpAddr,
    },
    /// Take a name away.
    UnregisterDns {
        /// The name.
        name: String,
    },
    /// Point the resolver of the host at a zone (macOS).
    WriteScopedResolver {
        /// The zone.
        zone: String,
        /// The name server.
        node_ip: IpAddr,
        /// Its port, 53 where absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        port: Option<u16>,
    },
    /// Undo that (macOS).
    RemoveScopedResolver {
        /// The zone.
        zone: String,
    },
    /// Remove bridges that nobody uses.
    PruneOrphanBridges {
        /// The names still in use.
        live_bridge_names: Vec<String>,
    },
    /// What is up.
    Status,
    /// Run NAT traversal once.
    NatTick,
    /// What NAT traversal knows.
    NatStatus,
    /// Take everything down and exit.
    Shutdown,
}

impl Request {
    /// The tag of the operation.
    #[must_use]
    pub fn op(&self) -> &'static str {
        match self {
            Request::SetLocalNodeId { .. } => "set_local_node_id",
            Request::SetLocalWgPubkey { .. } => "set_local_wg_pubkey",
            Request::SetupGlobalOverlay(_) => "setup_global_overlay",
            Request::TeardownGlobalOverlay => "teardown_global_overlay",
            Request::SetupServiceOverlay { .. } => "setup_service_overlay",
            Request::TeardownServiceOverlay { .. } => "teardown_service_overlay",
            Request::AllocateIp { .. } => "allocate_ip",
            Request::ReleaseIp { .. } => "release_ip",
            Request::AttachContainer(_) => "attach_container",
            Request::DetachContainer { .. } => "detach_container",
            Request::AddPeer(_) => "add_peer",
            Request::RemovePeer { .. } => "remove_peer",
            Request::AddAllowedIp { .. } => "add_allowed_ip",
            Request::RemoveAllowedIp { .. } => "remove_allowed_ip",
            Request::RegisterDns { .. } => "register_dns",
            Request::UnregisterDns { .. } => "unregister_dns",
            Request::WriteScopedResolver { .. } => "write_scoped_resolver",
            Request::RemoveScopedResolver { .. } => "remove_scoped_resolver",
            Request::PruneOrphanBridges { .. } => "prune_orphan_bridges",
            Request::Status => "status",
            Request::NatTick => "nat_tick",
            Request::NatStatus => "nat_status",
            Request::Shutdown => "shutdown",
        }
    }

    /// Whether the operation only looks.
    #[must_use]
    pub fn reads_only(&self) -> bool {
        matches!(self, Request::Status | Request::NatStatus)
    }
}

/// The fields of `setup_global_overlay`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetupGlobalOverlay {
    /// Name of the deployment.
    pub deployment: String,
    /// Name of this instance of it.
    pub instance_id: String,
    /// Prefix of the whole cluster; a bare address and host bits are accepted.
    pub cluster_cidr: String,
    /// This node's share of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slice_cidr: Option<String>,
    /// UDP port of WireGuard.
    pub wg_port: u16,
    /// Whether a node without an interface is an error (macOS and Windows; on Linux it always is).
    #[serde(default)]
    pub host_adapter_mandatory: bool,
    /// Settings of NAT traversal; absent keeps those in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nat: Option<NatConfigSpec>,
}
