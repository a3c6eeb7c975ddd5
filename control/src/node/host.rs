//! What the node needs of the host's network configuration, so that tests can stand in for the kernel.
//!
//! Every call brings about a state: asking for what is already there, or for the end of what is already gone, succeeds.
//! What belongs to others is never touched: a link or route that is in the way and not ours is an error.

use crate::attach::{AttachError, Marked, Plan};
use crate::firewall::{Change, Desired, Drops, FirewallError, Health};
use crate::host::sysctl::Ledger;
use crate::host::{HostError, Netns, ProcessId, ResolvConfError, Watch};
use ipnet::IpNet;
use std::net::IpAddr;

/// What is looked at of an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// Whether it is up.
    pub up: bool,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Its addresses.
    pub addresses: Vec<IpNet>,
    /// Prefixes that are routed through it by us.
    pub routes: Vec<IpNet>,
}

/// The network configuration of the host.
pub trait Host: Send + Sync + 'static {
    /// Gives `interface` the address and, with it, the route of its prefix.
    fn add_address(&self, interface: &str, address: IpNet) -> impl Future<Output = Result<(), HostError>> + Send;

    /// Takes the address and the route of its prefix from `interface`.
    fn remove_address(&self, interface: &str, address: IpNet) -> impl Future<Output = Result<(), HostError>> + Send;

    /// MTU of the path to an address outside the overlay, in bytes; `None` where there is no path, or it leads into one.
    fn path_mtu(&self, to: IpAddr) -> impl Future<Output = Option<u32>> + Send;

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

    /// An interface as it is; `None` where there is none.
    fn interface(&self, interface: &str) -> impl Future<Output = Result<Option<Interface>, HostError>> + Send;

    /// What happens to links and tunnels from now on, at whoever's hands.
    fn watch(&self) -> impl Future<Output = Result<Watch, HostError>> + Send;

    /// Makes a bridge of ours, or makes one what it is to be: with this address and MTU, up, and with its ports left alone.
    /// Returns whether it was there and something had to be mended.
    fn ensure_bridge(
        &self,
        bridge: &str,
        gateway: IpNet,
        mtu: u16,
    ) -> impl Future<Output = Result<bool, AttachError>> + Send;

    /// Removes a bridge of ours.
    fn remove_bridge(&self, bridge: &str) -> impl Future<Output = Result<(), AttachError>> + Send;

    /// Attaches a container, or verifies and repairs what stands of the plan. Returns what had to be mended.
    fn attach(&self, plan: &Plan, netns: &Netns) -> impl Future<Output = Result<Vec<String>, AttachError>> + Send;

    /// Writes the `/etc/resolv.conf` of the container whose process this is.
    fn write_resolv_conf(
        &self,
        process: ProcessId,
        text: String,
    ) -> impl Future<Output = Result<(), ResolvConfError>> + Send;

    /// Removes the links called `links` that belong to `owner`.
    fn detach(&self, owner: &str, links: &[String]) -> impl Future<Output = Result<(), HostError>> + Send;

    /// Whether there is a link called one of these.
    fn has_link(&self, links: &[String]) -> impl Future<Output = Result<bool, HostError>> + Send;

    /// Removes every link and bridge of ours that `wanted` does not want, which is asked after they were listed. Returns
    /// their names.
    fn sweep(
        &self,
        wanted: impl Fn(&Marked<'_>) -> bool + Send + Sync,
    ) -> impl Future<Output = Result<Vec<String>, HostError>> + Send;

    /// Makes the firewall what `desired` says.
    fn fence_all(&self, desired: Desired) -> impl Future<Output = Result<(), FirewallError>> + Send;

    /// Makes all of `changes` to it, or none.
    fn fence(&self, changes: Vec<Change>) -> impl Future<Output = Result<(), FirewallError>> + Send;

    /// Removes every rule of ours.
    fn unfence(&self) -> impl Future<Output = Result<(), FirewallError>> + Send;

    /// How the firewall is, and what it dropped.
    fn firewall(&self) -> impl Future<Output = Option<(Health, Drops)>> + Send;

    /// Notes in `ledger` what has to be set for the host to forward both families. Returns whether anything was noted, to be
    /// stored before it is written.
    fn note_forwarding(&self, ledger: &mut Ledger) -> Result<bool, HostError>;

    /// Sets what is noted.
    fn write_settings(&self, ledger: &Ledger) -> Result<(), HostError>;

    /// Puts back what is noted, where it is still ours.
    fn restore_settings(&self, ledger: &mut Ledger) -> Result<(), HostError>;

    /// Removes the bridges of ours that are not among `keep`, and returns their names.
    fn sweep_bridges(&self, keep: &[String]) -> impl Future<Output = Result<Vec<String>, HostError>> + Send;
}
