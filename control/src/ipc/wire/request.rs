//! What a client may ask: the 23 operations of contract version 0.13.0, and those of this daemon behind them.

use super::{
    AddPeer, AddPeers, AttachContainer, AttachHandle, BeginSync, Gc, ListQuery, NatConfigSpec, OverlayMode, PeerScope,
    Role, Subscribe,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// One operation. Fields without a default are required; only `Option` fields may be `null`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
        /// Who asks: a repeat by the same gets the same address. Not published.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        owner: Option<String>,
    },
    /// Give an address back.
    ReleaseIp {
        /// The address.
        ip: IpAddr,
        /// Who asks; an address with an owner is given back by that one only. Not published.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        owner: Option<String>,
    },
    /// Attach a workload.
    AttachContainer(AttachContainer),
    /// Detach it.
    DetachContainer {
        /// What was attached.
        handle: AttachHandle,
        /// Who asks; what has an owner is detached by that one only. Not published.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        owner: Option<String>,
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
    /// What the daemon is and can do, and what the caller may.
    Hello {
        /// Who asks, for the log.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        client: Option<String>,
    },
    /// Have events sent to this connection.
    Subscribe(Subscribe),
    /// No more events.
    Unsubscribe,
    /// A page of the objects of a kind.
    List(ListQuery),
    /// What is said from here on names all there is to be.
    BeginSync(BeginSync),
    /// Remove what was not named.
    EndSync {
        /// The sync that is to end.
        epoch: u64,
    },
    /// Remove what is not in the list.
    Gc(Gc),
    /// What is wrong.
    Health,
    /// Who on other nodes is in an isolation network.
    SetNetworkMembers {
        /// The network.
        network: String,
        /// Their addresses: all of them, in place of those told before.
        members: Vec<IpAddr>,
    },
    /// Add many WireGuard peers, or change them, all or none.
    AddPeers(AddPeers),
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
            Request::Hello { .. } => "hello",
            Request::Subscribe(_) => "subscribe",
            Request::Unsubscribe => "unsubscribe",
            Request::List(_) => "list",
            Request::BeginSync(_) => "begin_sync",
            Request::EndSync { .. } => "end_sync",
            Request::Gc(_) => "gc",
            Request::Health => "health",
            Request::SetNetworkMembers { .. } => "set_network_members",
            Request::AddPeers(_) => "add_peers",
        }
    }

    /// The role it takes; none for `hello`, which tells a caller what it has.
    #[must_use]
    pub fn role(&self) -> Option<Role> {
        match self {
            Request::Hello { .. } => None,
            Request::Status
            | Request::NatStatus
            | Request::List(_)
            | Request::Health
            | Request::Subscribe(_)
            | Request::Unsubscribe => Some(Role::Read),
            Request::AllocateIp { .. }
            | Request::ReleaseIp { .. }
            | Request::AttachContainer(_)
            | Request::DetachContainer { .. }
            | Request::RegisterDns { .. }
            | Request::UnregisterDns { .. } => Some(Role::Attach),
            _ => Some(Role::Admin),
        }
    }

    /// Whether the operation only looks.
    #[must_use]
    pub fn reads_only(&self) -> bool {
        matches!(self.role(), None | Some(Role::Read))
    }

    /// What it is about, in a few words for the log: names, never a secret.
    #[must_use]
    pub fn subject(&self) -> String {
        match self {
            Request::SetLocalNodeId { node_id } => node_id.to_string(),
            Request::SetLocalWgPubkey { pubkey } => pubkey.clone(),
            Request::SetupGlobalOverlay(setup) => format!("{}/{}", setup.deployment, setup.instance_id),
            Request::SetupServiceOverlay { service, .. }
            | Request::TeardownServiceOverlay { service }
            | Request::AllocateIp { service, .. } => service.clone(),
            Request::ReleaseIp { ip, .. } => ip.to_string(),
            Request::AttachContainer(attach) => format!("{} to {}", attach.handle.key(), attach.service),
            Request::DetachContainer { handle, .. } => handle.key(),
            Request::AddPeer(add) => add.scope.peer_key(&add.peer.public_key),
            Request::AddPeers(add) => format!("{} peers", add.peers.len()),
            Request::RemovePeer { pubkey, scope } => scope.peer_key(pubkey),
            Request::AddAllowedIp { pubkey, cidr, scope } | Request::RemoveAllowedIp { pubkey, cidr, scope } => {
                format!("{cidr} of {}", scope.peer_key(pubkey))
            }
            Request::RegisterDns { name, ip } => format!("{name} at {ip}"),
            Request::UnregisterDns { name } => name.clone(),
            Request::SetNetworkMembers { network, members } => format!("{} of {network}", members.len()),
            Request::WriteScopedResolver { zone, .. } | Request::RemoveScopedResolver { zone } => zone.clone(),
            Request::BeginSync(BeginSync { epoch, .. }) | Request::EndSync { epoch } => format!("epoch {epoch}"),
            Request::Gc(gc) => gc.keep.keys().map(|kind| kind.name()).collect::<Vec<_>>().join(", "),
            Request::Hello { client } => client.clone().unwrap_or_default(),
            Request::List(query) => query.kind.name().to_owned(),
            Request::TeardownGlobalOverlay
            | Request::PruneOrphanBridges { .. }
            | Request::Status
            | Request::NatTick
            | Request::NatStatus
            | Request::Shutdown
            | Request::Subscribe(_)
            | Request::Unsubscribe
            | Request::Health => String::new(),
        }
    }
}

/// The fields of `setup_global_overlay`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
