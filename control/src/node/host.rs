//! What the node needs of the host's network configuration, so that tests can stand in for the kernel.
//!
//! Every call brings about a state: asking for what is already there, or for the end of what is already gone, succeeds.
//! What belongs to others is never touched: a link or route that is in the way and not ours is an error.

use crate::attach::AttachError;
use crate::host::HostError;
use ipnet::IpNet;
use std::net::IpAddr;

/// The network configuration of the host.
pub trait Host: Send + Sync + 'static {
    /// Gives `interface` the address and, with it, the route of its prefix.
    fn add_address(&self, interface: &str, address: IpNet) -> impl Future<Output = Result<(), HostError>> + Send;

    /// Takes the address and the route of its prefix from `interface`.
    fn remove_address(&self, interface: &str, address: IpNet) -> impl Future<Output = Result<(), HostError>> + Send;

    /// Sets the MTU of `interface`, in bytes.
    fn set_mtu(&self, interface: &str, mtu: u16) -> impl Future<Output = Result<(), HostError>> + Send;

    /// Sets `interface` up.
    fn set_up(&self, interface: &str) -> impl Future<Output = Result<(), HostError>> + Send;

    /// Routes `prefix` through `interface`; packets of the host itself come from `source`.
    fn add_route(
        &self,
        interface: &str,
        prefix: IpNet,
        source: IpAddr,
    ) -> impl Future<Output = Result<(), HostError>> + Send;

    /// Ends that.
    fn remove_route(&self, interface: &str, prefix: IpNet) -> impl Future<Output = Result<(), HostError>> + Send;

    /// Makes a bridge of ours, or makes one what it is to be: with this address and MTU, up, and with its ports left alone.
    fn ensure_bridge(
        &self,
        bridge: &str,
        gateway: IpNet,
        mtu: u16,
    ) -> impl Future<Output = Result<(), AttachError>> + Send;

    /// Removes a bridge of ours.
    fn remove_bridge(&self, bridge: &str) -> impl Future<Output = Result<(), AttachError>> + Send;

    /// Removes the bridges of ours that are not among `keep`, and returns their names.
    fn sweep_bridges(&self, keep: &[String]) -> impl Future<Output = Result<Vec<String>, HostError>> + Send;
}
