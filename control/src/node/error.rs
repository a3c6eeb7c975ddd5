//! What a request may come back with instead of success.
//!
//! Texts are those of the published catalogue where one exists, because clients and their tests look for parts of them.
//! Failures of the engine, the kernel and the key file carry the prefix `overlay engine error: `.

use super::device::SlotError;
use super::key_store::KeyStoreError;
use crate::attach::AttachError;
use crate::firewall::FirewallError;
use crate::host::{HostError, ResolvConfError};
use crate::ipam::{PoolError, ReleaseError, SubnetError};
use crate::ipc::wire::{ErrorCode, Fault, Response};
use crate::state::{MarkerError, Scope, StoreError};
use ipnet::IpNet;
use std::net::IpAddr;

/// Why a request was not carried out. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// `cluster_cidr` is unusable.
    #[error("invalid cluster CIDR {cidr}: {reason}")]
    ClusterCidr {
        /// As it came.
        cidr: String,
        /// Why.
        reason: String,
    },
    /// `slice_cidr` is unusable.
    #[error("invalid slice CIDR {cidr}: {reason}")]
    SliceCidr {
        /// As it came.
        cidr: String,
        /// Why.
        reason: String,
    },
    /// Deployment and instance do not make an interface name.
    #[error(
        "deployment and instance_id give the interface name {interface:?}, which the kernel refuses: leave out blanks, '/', ':' and '%'"
    )]
    Names {
        /// The name they make.
        interface: String,
    },
    /// The overlay is up under another name.
    #[error(
        "the global overlay is up as {live}, the request means {asked}: send teardown_global_overlay first, or keep deployment and instance_id"
    )]
    OtherOverlay {
        /// What is up.
        live: String,
        /// What was asked for.
        asked: String,
    },
    /// A peer's endpoint is unusable.
    #[error("invalid peer endpoint {endpoint}: {reason}")]
    Endpoint {
        /// As it came.
        endpoint: String,
        /// Why.
        reason: String,
    },
    /// A prefix is unusable.
    #[error("invalid CIDR {cidr}: {reason}")]
    Cidr {
        /// As it came.
        cidr: String,
        /// Why.
        reason: String,
    },
    /// The service has no device of its own.
    #[error("no dedicated overlay for service {0}")]
    NoServiceOverlay(String),
    /// The node's identity cannot be had.
    #[error("overlay engine error: Failed to generate keys: {0}")]
    Keys(#[from] KeyStoreError),
    /// The device cannot be made.
    #[error("overlay engine error: Failed to create {}: {source}", title(scope))]
    Create {
        /// Of which overlay.
        scope: Scope,
        /// Why.
        source: SlotError,
    },
    /// The device cannot be given its settings.
    #[error("overlay engine error: Failed to configure {}: {source}", title(scope))]
    ConfigureDevice {
        /// Of which overlay.
        scope: Scope,
        /// Why.
        source: SlotError,
    },
    /// The interface cannot be given its address or routes.
    #[error("overlay engine error: Failed to configure {}: {source}", title(scope))]
    ConfigureHost {
        /// Of which overlay.
        scope: Scope,
        /// Why.
        source: HostError,
    },
    /// The change cannot be brought to disk.
    #[error("overlay engine error: {0}")]
    Store(#[from] StoreError),
    /// The record for the replaced daemon cannot be read or written.
    #[error("overlay engine error: {0}")]
    Marker(#[from] MarkerError),
    /// The name of a service is unusable.
    #[error("invalid service name {service:?}: {reason}")]
    ServiceName {
        /// As it came.
        service: String,
        /// Why.
        reason: &'static str,
    },
    /// A service cannot get a subnet.
    #[error("overlay engine error: no subnet for service {service}: {source}")]
    Subnet {
        /// The service.
        service: String,
        /// Why.
        source: SubnetError,
    },
    /// No UDP port is left for another dedicated overlay.
    #[error("dedicated-overlay port band exhausted ({first}..={last}, {} ports): tear a dedicated service down, or stop the programs that have these ports", last - first + 1)]
    Ports {
        /// The first port.
        first: u16,
        /// The last.
        last: u16,
    },
    /// The bridge of a service cannot be made.
    #[error("overlay engine error: create_bridge({bridge}) failed: {source}")]
    Bridge {
        /// Its name.
        bridge: String,
        /// Why.
        source: Box<AttachError>,
    },
    /// A service that is in use was to change its mode.
    #[error("service {service} is up in another mode and has workloads: detach them or tear it down first")]
    ServiceInUse {
        /// The service.
        service: String,
    },
    /// The node would get an address that a service has.
    #[error(
        "the address of the node would be in {subnet}, which is the subnet of a service: tear that service down first, or use another slice"
    )]
    NodeInSubnet {
        /// The subnet.
        subnet: IpNet,
    },
    /// No address is left.
    #[error("overlay engine error: {0}")]
    Pool(#[from] PoolError),
    /// Whoever released an address does not have it.
    #[error("{0}")]
    Release(#[from] ReleaseError),
    /// An address of a workload was to be released by itself.
    #[error("{ip} is the address of {owner}: detach that, its addresses go with it")]
    LeaseOfOther {
        /// The address.
        ip: IpAddr,
        /// Whose it is.
        owner: String,
    },
    /// Whoever asked for an address is another.
    #[error("{ip} was given to {owner}, who alone gives it back")]
    LeaseOfOwner {
        /// The address.
        ip: IpAddr,
        /// Whose it is.
        owner: String,
    },
    /// The service of a workload is not set up.
    #[error("no {} for {}service {service}; call setup_service_overlay() first", if *shared { "shared bridge" } else { "service bridge" }, if *shared { "Shared-mode " } else { "" })]
    NoServiceBridge {
        /// The service.
        service: String,
        /// Its bridge is that of all shared services.
        shared: bool,
    },
    /// There is no global overlay, which the workload needs.
    #[error("{0}")]
    NoGlobalOverlay(&'static str),
    /// A field of a request has a value that cannot be.
    #[error("{field}: {reason}")]
    Field {
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The workload is attached otherwise.
    #[error("{handle} is attached for {of}: detach that first")]
    OtherAttachment {
        /// The workload.
        handle: String,
        /// For what.
        of: String,
    },
    /// A port leads to another workload.
    #[error("port {port} of the host is published for {by} already: detach that first, or publish another")]
    PortPublished {
        /// The port.
        port: u16,
        /// Whose it is.
        by: String,
    },
    /// The container cannot be had.
    #[error("overlay engine error: Failed to open the network namespace of {handle}: {source}")]
    Container {
        /// Which.
        handle: String,
        /// Why.
        source: HostError,
    },
    /// A file in a container cannot be written.
    #[error("overlay engine error: resolv.conf of {handle}: {source}")]
    ResolvConf {
        /// Which.
        handle: String,
        /// Why.
        source: ResolvConfError,
    },
    /// The links of a container cannot be made.
    #[error("overlay engine error: {0}")]
    Attach(Box<AttachError>),
    /// The firewall refuses.
    #[error("overlay engine error: firewall: {0}")]
    Fence(Box<FirewallError>),
    /// The host cannot be made to forward packets.
    #[error("overlay engine error: forwarding: {0}")]
    Forward(HostError),
    /// Not a name.
    #[error("invalid DNS name {name:?}: {reason}")]
    DnsName {
        /// As it came.
        name: String,
        /// Why.
        reason: &'static str,
    },
    /// More than is kept of something.
    #[error("there are {max} {what} already: remove some first")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        max: usize,
    },
    /// A change of a peer failed.
    #[error("overlay engine error: {op} failed: {reason}")]
    Peer {
        /// What was asked.
        op: &'static str,
        /// Why it failed.
        reason: String,
    },
    /// The operation belongs to another system.
    #[error("{0}")]
    OtherSystem(&'static str),
    /// The operation is known, and this daemon does not have what it needs.
    #[error("{op} is not available: this version of the daemon has no {missing} yet")]
    NotThere {
        /// What was asked.
        op: &'static str,
        /// What would be needed.
        missing: &'static str,
    },
    /// The daemon is on its way out.
    #[error("the daemon is shutting down: connect again once it is back")]
    Stopping,
}

impl NodeError {
    /// What kind of refusal it is, for programs.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::ClusterCidr { .. }
            | Self::SliceCidr { .. }
            | Self::Names { .. }
            | Self::Endpoint { .. }
            | Self::Cidr { .. }
            | Self::ServiceName { .. }
            | Self::Field { .. }
            | Self::DnsName { .. } => ErrorCode::InvalidArgument,
            Self::OtherOverlay { .. }
            | Self::ServiceInUse { .. }
            | Self::OtherAttachment { .. }
            | Self::PortPublished { .. }
            | Self::NodeInSubnet { .. }
            | Self::Release(_)
            | Self::LeaseOfOther { .. }
            | Self::LeaseOfOwner { .. } => ErrorCode::Conflict,
            Self::NoServiceOverlay(_) => ErrorCode::NotFound,
            Self::NoServiceBridge { .. } | Self::NoGlobalOverlay(_) => ErrorCode::NotReady,
            Self::Container { source, .. } if source.is_not_found() => ErrorCode::NotFound,
            Self::Keys(_) | Self::Store(_) | Self::Marker(_) => ErrorCode::Storage,
            Self::Subnet { .. } | Self::Ports { .. } | Self::Pool(_) | Self::TooMany { .. } => ErrorCode::Exhausted,
            Self::Create { .. }
            | Self::ConfigureDevice { .. }
            | Self::ConfigureHost { .. }
            | Self::Bridge { .. }
            | Self::Container { .. }
            | Self::ResolvConf { .. }
            | Self::Attach(_)
            | Self::Fence(_)
            | Self::Forward(_)
            | Self::Peer { .. } => ErrorCode::System,
            Self::OtherSystem(_) | Self::NotThere { .. } => ErrorCode::Unsupported,
            Self::Stopping => ErrorCode::Stopping,
        }
    }
}

/// An overlay in the words of the published catalogue.
fn title(scope: &Scope) -> String {
    match scope {
        Scope::Global => "global overlay".to_owned(),
        Scope::Service(service) => format!("dedicated overlay for {service}"),
    }
}

impl From<NodeError> for Response {
    fn from(error: NodeError) -> Self {
        Response::Err(Fault::new(error.code(), error.to_string()))
    }
}
