//! What the overlay needs of the host's network configuration, so that tests can stand in for the kernel.
//!
//! Every call brings about a state: asking for what is already there, or for the end of what is already gone, succeeds.

use ipnet::IpNet;
use std::io;

/// Why the host did not do it.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// There is no interface of that name.
    #[error("the interface {0} is gone: set the overlay up again")]
    NoInterface(String),
    /// The kernel refused.
    #[error("cannot {action} {interface}: {source}")]
    Kernel {
        /// What was tried, up to the name of the interface.
        action: String,
        /// The interface.
        interface: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel cannot be spoken to.
    #[error("the kernel's route interface (netlink) is not usable: {0}")]
    Netlink(String),
}

/// The network configuration of the host.
pub trait Host: Send + Sync + 'static {
    /// Gives `interface` the address, with the connected route of its prefix.
    fn add_address(&self, interface: &str, address: IpNet) -> impl Future<Output = Result<(), HostError>> + Send;

    /// Takes the address from `interface`, with the connected route of its prefix.
    fn remove_address(&self, interface: &str, address: IpNet) -> impl Future<Output = Result<(), HostError>> + Send;

    /// Sets the MTU of `interface`, in bytes.
    fn set_mtu(&self, interface: &str, mtu: u16) -> impl Future<Output = Result<(), HostError>> + Send;

    /// Sets `interface` up.
    fn set_up(&self, interface: &str) -> impl Future<Output = Result<(), HostError>> + Send;

    /// Routes `prefix` to `interface`; the connected route of an address there is enough.
    fn add_route(&self, interface: &str, prefix: IpNet) -> impl Future<Output = Result<(), HostError>> + Send;
}
