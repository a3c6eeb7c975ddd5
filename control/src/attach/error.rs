//! Why an attachment failed.

use crate::host::HostError;

/// A failed request. Nothing of it is left then, unless it says so.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The plan cannot be carried out by anybody.
    #[error("{owner} is ill-planned: {reason}")]
    Plan {
        /// Whose it is, or what for.
        owner: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The container uses the host's network.
    #[error("the container has no network namespace of its own, only the host's: start it with one to attach it")]
    HostNamespace,
    /// The bridge is not there.
    #[error("there is no bridge {name}: set the service up first")]
    NoBridge {
        /// Its name.
        name: String,
    },
    /// Another attachment has the link in this container.
    #[error("{link} of this container belongs to the attachment of {owner}: detach that first")]
    OtherOwner {
        /// Name of the container's end.
        link: String,
        /// Whose it is.
        owner: String,
    },
    /// The bridge of that name is another one of ours.
    #[error(
        "{name} is our bridge for {object} already: two names that had to be shortened meet; rename the service, or \
         remove {object} first"
    )]
    OtherBridge {
        /// Its name.
        name: String,
        /// What it is for.
        object: String,
    },
    /// The bridge still has ports.
    #[error("bridge {name} still has the ports {}: detach them first", ports.join(", "))]
    BridgeInUse {
        /// Its name.
        name: String,
        /// Names of the links.
        ports: Vec<String>,
    },
    /// The host refused something.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The host refused something, and then also to take back what had been done.
    #[error("{source}; and what had been done could not be taken back: {left}: a sweep will find it")]
    Left {
        /// What it refused first.
        source: HostError,
        /// What it refused to take back.
        left: HostError,
    },
}
