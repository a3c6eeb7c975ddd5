//! Services and the containers attached to them, as the wire spells them.

use super::{PeerSpec, Secret};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// How a service is joined to the overlay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OverlayMode {
    /// A bridge of its own, routed over the global overlay.
    Auto,
    /// The bridge all shared services of the node use.
    Shared,
    /// A WireGuard device of its own.
    Dedicated,
    /// As `auto`, fenced per isolation network.
    Isolated,
}

/// What is attached, and how to find it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "platform", rename_all = "snake_case")]
pub enum AttachHandle {
    /// A process on this node; its network namespace is meant.
    LinuxPid {
        /// Its id.
        pid: u32,
    },
    /// A Windows container. On detach, `container_id` carries the namespace GUID that the attach returned.
    WindowsContainer {
        /// Its id.
        container_id: String,
        /// The address it must have.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ip: Option<IpAddr>,
    },
    /// A guest that runs its own WireGuard.
    GuestManaged {
        /// Its id.
        id: String,
    },
    /// A workload in the namespace of the host.
    HostShared {
        /// Its id.
        id: String,
    },
    /// A network namespace on this node, given by path or descriptor beside the handle. Not published.
    LinuxNetns {
        /// Its id, chosen by the client.
        id: String,
    },
}

impl AttachHandle {
    /// What it is told apart by among attachments: platform, colon, id.
    #[must_use]
    pub fn key(&self) -> String {
        match self {
            Self::LinuxPid { pid } => format!("linux_pid:{pid}"),
            Self::WindowsContainer { container_id, .. } => format!("windows_container:{container_id}"),
            Self::GuestManaged { id } => format!("guest_managed:{id}"),
            Self::HostShared { id } => format!("host_shared:{id}"),
            Self::LinuxNetns { id } => format!("linux_netns:{id}"),
        }
    }
}

/// A port of the host that leads to a workload. Not published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PublishedPort {
    /// Port of the host.
    pub host_port: u16,
    /// Port of the workload.
    pub container_port: u16,
    /// `tcp` or `udp`.
    #[serde(default)]
    pub protocol: PortProtocol,
    /// Address of the host; all where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<IpAddr>,
}

/// What a published port speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PortProtocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
}

/// The fields of `attach_container`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AttachContainer {
    /// What to attach.
    pub handle: AttachHandle,
    /// The service it belongs to.
    pub service: String,
    /// Give it an address of the global overlay too.
    pub join_global: bool,
    /// Tear the service down with its last container.
    #[serde(default)]
    pub ephemeral: bool,
    /// The network it is fenced into.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isolation_network: Option<String>,
    /// Resolver for the workload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns_server: Option<IpAddr>,
    /// Search domain for the workload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns_domain: Option<String>,
    /// Who asks: a repeat by the same is the same attachment, one by another a conflict. Not published, as all below.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Path of the network namespace, in place of that of the process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<String>,
    /// The network namespace is the first descriptor sent beside the frame.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub netns_fd: bool,
    /// Addresses it is to have, at most one of each family.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
    /// Ports of the host that lead to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub publish: Vec<PublishedPort>,
    /// Write its `/etc/resolv.conf`: `dns_server` or, without it, our name server, and `dns_domain`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub resolv_conf: bool,
}

impl AttachContainer {
    /// For a workload without further wishes.
    #[must_use]
    pub fn new(handle: AttachHandle, service: &str) -> Self {
        Self {
            handle,
            service: service.to_owned(),
            join_global: false,
            ephemeral: false,
            isolation_network: None,
            dns_server: None,
            dns_domain: None,
            owner: None,
            netns: None,
            netns_fd: false,
            addresses: Vec::new(),
            publish: Vec::new(),
            resolv_conf: false,
        }
    }
}

/// All a guest needs to bring up its own WireGuard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GuestOverlayConfig {
    /// Its address.
    pub overlay_ip: IpAddr,
    /// Prefix of that address.
    pub prefix_len: u8,
    /// Its identity, base64.
    pub private_key: Secret,
    /// The public half, base64.
    pub public_key: String,
    /// UDP port to listen on.
    pub listen_port: u16,
    /// Its peers; always present.
    pub peers: Vec<PeerSpec>,
    /// Resolver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns_server: Option<IpAddr>,
    /// Search domain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns_domain: Option<String>,
}

/// A service overlay that is up. The last four fields are those of a dedicated one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ServiceOverlayInfo {
    /// The link of the service.
    pub name: String,
    /// The mode it is in.
    pub mode: OverlayMode,
    /// Public key of the dedicated device, base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wg_public_key: Option<String>,
    /// Its UDP port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wg_port: Option<u16>,
    /// Its address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlay_ip: Option<IpAddr>,
    /// The subnet of the service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subnet: Option<String>,
}
