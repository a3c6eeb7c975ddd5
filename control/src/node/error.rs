//! What a request may come back with instead of success.
//!
//! Texts are those of the published catalogue where one exists, because clients and their tests look for parts of them.
//! Failures of the engine, the kernel and the key file carry the prefix `overlay engine error: `.

use super::device::SlotError;
use super::key_store::KeyStoreError;
use crate::host::HostError;
use crate::ipc::wire::{ErrorCode, Fault, Response};

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
    #[error("overlay engine error: Failed to create global overlay: {0}")]
    Create(SlotError),
    /// The device cannot be given its settings.
    #[error("overlay engine error: Failed to configure global overlay: {0}")]
    ConfigureDevice(SlotError),
    /// The interface cannot be given its address or route.
    #[error("overlay engine error: Failed to configure global overlay: {0}")]
    ConfigureHost(#[from] HostError),
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
            | Self::Cidr { .. } => ErrorCode::InvalidArgument,
            Self::OtherOverlay { .. } => ErrorCode::Conflict,
            Self::NoServiceOverlay(_) => ErrorCode::NotFound,
            Self::Keys(_) => ErrorCode::Storage,
            Self::Create(_) | Self::ConfigureDevice(_) | Self::ConfigureHost(_) | Self::Peer { .. } => {
                ErrorCode::System
            }
            Self::OtherSystem(_) | Self::NotThere { .. } => ErrorCode::Unsupported,
            Self::Stopping => ErrorCode::Stopping,
        }
    }
}

impl From<NodeError> for Response {
    fn from(error: NodeError) -> Self {
        Response::Err(Fault::new(error.code(), error.to_string()))
    }
}
