//! What the overlay needs of the host's network configuration, so that tests can stand in for the kernel.
//!
//! Every call brings about a state: asking for what is already there, or for the end of what is already gone, succeeds.
//!
//! There is no call for routes: the node's address carries the prefix of the cluster, and the kernel keeps the connected
//! route of that prefix with the address, so the two cannot part.

use crate::host::{HostError, Netlink};
use ipnet::IpNet;

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
}

impl Host for Netlink {
    async fn add_address(&self, interface: &str, address: IpNet) -> Result<(), HostError> {
        self.replace_address(self.link(interface).await?.index, address).await
    }

    async fn remove_address(&self, interface: &str, address: IpNet) -> Result<(), HostError> {
        Netlink::remove_address(self, self.link(interface).await?.index, address).await.map(|_| ())
    }

    async fn set_mtu(&self, interface: &str, mtu: u16) -> Result<(), HostError> {
        Netlink::set_mtu(self, self.link(interface).await?.index, mtu.into()).await
    }

    async fn set_up(&self, interface: &str) -> Result<(), HostError> {
        Netlink::set_up(self, self.link(interface).await?.index, true).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Netns;
    use crate::lab::rights_or_skip;
    use std::net::{IpAddr, SocketAddr, UdpSocket};

    /// Where packets to `to` would come from, if there is a way to it.
    fn source_towards(to: &str) -> Option<IpAddr> {
        let to: IpAddr = to.parse().unwrap();
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any).unwrap();
        socket.connect(SocketAddr::new(to, 9)).ok()?;
        Some(socket.local_addr().unwrap().ip())
    }

    #[test]
    fn an_address_routes_the_cluster_and_nothing_else_in_both_families_as_often_as_it_is_given() {
        if !rights_or_skip() {
            return;
        }
        let work = Netns::create().unwrap().configure(async |netlink| {
            netlink.create_veth("ov0", "ov1", None).await?;
            for (address, inside, outside) in [
                ("10.200.5.1/16", "10.200.255.3", "10.201.0.1"),
                ("fd00:77:0:5::1/48", "fd00:77:0:ffff::1", "fd00:78::1"),
            ] {
                let address: IpNet = address.parse().unwrap();
                for _ in 0..2 {
                    Host::set_mtu(netlink, "ov0", 1420).await?;
                    Host::add_address(netlink, "ov0", address).await?;
                    Host::set_up(netlink, "ov0").await?;
                }
                assert_eq!(source_towards(inside), Some(address.addr()));
                assert_eq!(source_towards(outside), None);
                for _ in 0..2 {
                    Host::remove_address(netlink, "ov0", address).await?;
                    assert_eq!(source_towards(inside), None);
                }
            }
            assert_eq!(netlink.link("ov0").await?.mtu, 1420);
            Ok(())
        });
        work.unwrap();
    }

    #[test]
    fn a_missing_interface_is_not_found() {
        if !rights_or_skip() {
            return;
        }
        let work = Netns::create().unwrap().configure(async |netlink| Host::set_up(netlink, "nobody").await);
        assert!(work.unwrap_err().is_not_found());
    }
}
