//! Why the firewall could not do what it was asked for.

use super::limits::{
    CHANGES_MAX, CONTAINER_ADDRESSES_MAX, CONTAINER_ID_BYTES_MAX, CONTAINER_LINKS_MAX, INSTANCE_BYTES_MAX,
};
use super::nft::NftError;
use crate::host::HostError;
use ipnet::IpNet;
use std::io;
use std::net::IpAddr;

/// A refused request. Nothing was changed by it, unless the variant says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum FirewallError {
    /// Not a name of an instance.
    #[error("{0:?} is no name of an instance: it needs 1 to {INSTANCE_BYTES_MAX} of a-z, A-Z, 0-9, '-', '_' and '.'")]
    Instance(String),
    /// Not a name of a container.
    #[error("{0:?} is no name of a container: it needs 1 to {CONTAINER_ID_BYTES_MAX} bytes")]
    ContainerId(String),
    /// Not a name of an interface.
    #[error(transparent)]
    Interface(HostError),
    /// A container with no link or no address, or too many.
    #[error(
        "container {0} needs 1 to {CONTAINER_LINKS_MAX} links and 1 to {CONTAINER_ADDRESSES_MAX} addresses, each once"
    )]
    Container(String),
    /// The interface has another purpose already.
    #[error("interface {0} is in use already; give it another name or remove what has it")]
    InterfaceTaken(String),
    /// The bridge of a container's link is not known.
    #[error("{0} is no bridge known to the firewall; add it first")]
    NoBridge(String),
    /// A bridge that containers are at.
    #[error("containers are still linked to bridge {0}; remove them first")]
    BridgeInUse(String),
    /// The address is somebody else's.
    #[error("address {0} belongs to a container or member already; remove that first")]
    AddressTaken(IpAddr),
    /// A prefix that cannot be of an overlay.
    #[error("{0} is no prefix for an overlay: it holds the unspecified address")]
    Prefix(IpNet),
    /// The prefix overlaps another.
    #[error("prefix {0} overlaps {1}; give one of them, or prefixes that are apart")]
    Overlap(IpNet, IpNet),
    /// The port is published already.
    #[error("port {0} is published already, for {1}; unpublish it first")]
    PortTaken(String, String),
    /// Not a way to publish.
    #[error("cannot publish {0} for {1}: both need a port, the same family, and a container's address")]
    Publication(String, String),
    /// A port number that is none.
    #[error("port 0 is no service")]
    ServicePort,
    /// More than there may be.
    #[error("there are {max} {what} already; that is the limit")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many there may be.
        max: usize,
    },
    /// More changes at once than there may be.
    #[error("{0} changes are too many at once; make at most {CHANGES_MAX}")]
    TooManyChanges(usize),
    /// A table of our name that we did not make.
    #[error(
        "there is a table {family} {name} already that is not ours; `nft delete table {family} {name}`, or name the \
         instance otherwise"
    )]
    ForeignTable {
        /// Its family.
        family: &'static str,
        /// Its name.
        name: String,
    },
    /// The kernel lacks something that the rules need.
    #[error(
        "{what}: this kernel does not have it; it needs nftables with the inet and bridge families, NAT, conntrack and \
         fib (Linux 5.13 or newer)"
    )]
    Unsupported {
        /// What was refused.
        what: String,
    },
    /// The right to change the ruleset is missing.
    #[error("changing the firewall is not permitted; it needs CAP_NET_ADMIN")]
    Denied,
    /// The ruleset was changed by others each time.
    #[error("others change the ruleset without a pause; find out who with `nft monitor` and try again")]
    Contended,
    /// Another answer of nftables.
    #[error(transparent)]
    Nft(NftError),
    /// The watch over the ruleset could not be started.
    #[error("cannot watch the ruleset: {0}")]
    Guard(io::Error),
    /// It could not be started.
    #[error("there is no firewall, since the daemon started without: {0}")]
    Unavailable(String),
    /// It was stopped.
    #[error("the firewall was stopped")]
    Stopped,
}

impl From<NftError> for FirewallError {
    fn from(error: NftError) -> Self {
        use nix::errno::Errno;
        match (error.errno(), error) {
            (Some(Errno::EPERM | Errno::EACCES), _) => Self::Denied,
            (Some(Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT | Errno::EPROTONOSUPPORT), error) => {
                Self::Unsupported { what: error.to_string() }
            }
            (_, NftError::Superseded | NftError::Unsteady) => Self::Contended,
            (_, error) => Self::Nft(error),
        }
    }
}
