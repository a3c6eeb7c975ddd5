//! What the node needs of the host's network configuration, so that tests can stand in for the kernel.
//!
//! Every call brings about a state: asking for what is already there, or for the end of what is already gone, succeeds.
//! What belongs to others is never touched: a link or route that is in the way and not ours is an error.

use crate::host::{HostError, LinkInfo, LinkKind, Netlink, RouteInfo};
use ipnet::IpNet;
use std::net::IpAddr;
use std::time::Duration;

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
    ) -> impl Future<Output = Result<(), HostError>> + Send;

    /// Removes a bridge of ours.
    fn remove_bridge(&self, bridge: &str) -> impl Future<Output = Result<(), HostError>> + Send;

    /// Removes the bridges of ours that are not among `keep`, and returns their names.
    fn sweep_bridges(&self, keep: &[String]) -> impl Future<Output = Result<Vec<String>, HostError>> + Send;
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

    async fn add_route(&self, interface: &str, prefix: IpNet, source: IpAddr) -> Result<(), HostError> {
        let device = self.link(interface).await?.index;
        self.replace_route(&RouteInfo { prefix, device, source: Some(source) }).await
    }

    async fn remove_route(&self, interface: &str, prefix: IpNet) -> Result<(), HostError> {
        Netlink::remove_route(self, prefix, self.link(interface).await?.index).await.map(|_| ())
    }

    async fn ensure_bridge(&self, bridge: &str, gateway: IpNet, mtu: u16) -> Result<(), HostError> {
        let index = match self.find_link(bridge).await? {
            Some(link) if link.is_ours() && link.kind == Some(LinkKind::Bridge) => link.index,
            Some(link) if self.is_half_made(&link).await? => {
                self.mark_ours(link.index).await?;
                link.index
            }
            Some(_) => return Err(HostError::Exists { what: format!("create link {bridge}, which is not ours") }),
            None => {
                let index = self.create_bridge(bridge).await?;
                self.mark_ours(index).await?;
                index
            }
        };
        for address in undisturbed(|| self.addresses(index)).await? {
            // The kernel's own link-local address belongs to the link.
            if address != gateway && !is_link_local(address) {
                Netlink::remove_address(self, index, address).await?;
            }
        }
        Netlink::set_mtu(self, index, mtu.into()).await?;
        self.replace_address(index, gateway).await?;
        Netlink::set_up(self, index, true).await
    }

    async fn remove_bridge(&self, bridge: &str) -> Result<(), HostError> {
        match self.find_link(bridge).await? {
            Some(link) if link.is_ours() && link.kind == Some(LinkKind::Bridge) => self.delete(link.index).await,
            _ => Ok(()),
        }
    }

    async fn sweep_bridges(&self, keep: &[String]) -> Result<Vec<String>, HostError> {
        let mut removed = Vec::new();
        for link in undisturbed(|| self.links()).await? {
            if link.is_ours() && link.kind == Some(LinkKind::Bridge) && !keep.contains(&link.name) {
                self.delete(link.index).await?;
                removed.push(link.name);
            }
        }
        Ok(removed)
    }
}

fn is_link_local(address: IpNet) -> bool {
    matches!(address.addr(), IpAddr::V6(v6) if v6.is_unicast_link_local())
}

/// Tries of a listing. Each waits for another that takes microseconds.
const LISTINGS_MAX: u32 = 100;

/// A socket gives one listing at a time (`netlink_dump_start` answers `EBUSY`); services are set up beside each other.
async fn undisturbed<T, F: Future<Output = Result<T, HostError>>>(list: impl Fn() -> F) -> Result<T, HostError> {
    for _ in 0..LISTINGS_MAX {
        match list().await {
            Err(HostError::System { source, .. }) if source.kind() == std::io::ErrorKind::ResourceBusy => {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            listed => return listed,
        }
    }
    list().await
}

impl Netlink {
    /// Whether a link is what a crash between the making of a bridge and its mark leaves: a bridge without any mark,
    /// address or port, so of no use to anybody.
    async fn is_half_made(&self, link: &LinkInfo) -> Result<bool, HostError> {
        if link.kind != Some(LinkKind::Bridge) || link.alias.is_some() {
            return Ok(false);
        }
        let addresses = undisturbed(|| self.addresses(link.index)).await?;
        let links = undisturbed(|| self.links()).await?;
        Ok(!addresses.iter().any(|address| !is_link_local(*address))
            && !links.iter().any(|port| port.controller == Some(link.index)))
    }

    /// As [`Netlink::delete_link`], content where the link is gone.
    async fn delete(&self, index: u32) -> Result<(), HostError> {
        match self.delete_link(index).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
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
    fn bridges_are_made_mended_and_swept_and_those_of_others_left_alone() {
        if !rights_or_skip() {
            return;
        }
        let work = Netns::create().unwrap().configure(async |netlink| {
            let gateway: IpNet = "10.200.187.129/26".parse().unwrap();
            for _ in 0..2 {
                netlink.ensure_bridge("zl-prod-0-web-b", gateway, 1420).await?;
            }
            let bridge = netlink.link("zl-prod-0-web-b").await?;
            assert!(bridge.is_ours() && bridge.up && bridge.mtu == 1420 && bridge.kind == Some(LinkKind::Bridge));
            netlink.add_address(bridge.index, "10.9.9.9/24".parse().unwrap()).await?;
            Netlink::remove_address(netlink, bridge.index, gateway).await?;
            netlink.set_up(bridge.index, false).await?;
            netlink.ensure_bridge("zl-prod-0-web-b", gateway, 1420).await?;
            let addresses = netlink.addresses(bridge.index).await?;
            assert_eq!(addresses.iter().filter(|address| address.addr().is_ipv4()).collect::<Vec<_>>(), [&gateway]);
            assert_eq!(netlink.link("zl-prod-0-web-b").await?.index, bridge.index);

            // What looks like ours and carries no mark of ours, and what carries it and is no bridge.
            let foreign = netlink.create_bridge("zl-prod-0-db-b").await?;
            netlink.add_address(foreign, "10.99.0.1/24".parse().unwrap()).await?;
            let tunnel = netlink.create_veth("zl-prod-0-x-b", "peer", None).await?;
            netlink.mark_ours(tunnel).await?;
            for name in ["zl-prod-0-db-b", "zl-prod-0-x-b"] {
                assert!(netlink.ensure_bridge(name, gateway, 1420).await.unwrap_err().is_exists());
                netlink.remove_bridge(name).await?;
                assert!(netlink.find_link(name).await?.is_some());
            }
            netlink.ensure_bridge("zl-prod-0-old-b", "10.200.1.1/26".parse().unwrap(), 1420).await?;
            let keep = ["zl-prod-0-web-b".to_owned()];
            assert_eq!(netlink.sweep_bridges(&keep).await?, ["zl-prod-0-old-b"]);
            for _ in 0..2 {
                netlink.remove_bridge("zl-prod-0-web-b").await?;
            }
            // What a crash leaves before the mark.
            netlink.create_bridge("zl-prod-0-web-b").await?;
            netlink.ensure_bridge("zl-prod-0-web-b", gateway, 1420).await?;
            netlink.remove_bridge("zl-prod-0-web-b").await?;
            assert_eq!(netlink.links().await?.len(), 1 + 1 + 2);
            Ok(())
        });
        work.unwrap();
    }

    #[test]
    fn routes_of_peers_come_and_go() {
        if !rights_or_skip() {
            return;
        }
        let work = Netns::create().unwrap().configure(async |netlink| {
            netlink.create_veth("ov0", "ov1", None).await?;
            let own: IpNet = "10.200.141.129/32".parse().unwrap();
            Host::add_address(netlink, "ov0", own).await?;
            Host::set_up(netlink, "ov0").await?;
            let prefix: IpNet = "10.200.7.0/26".parse().unwrap();
            for _ in 0..2 {
                Host::add_route(netlink, "ov0", prefix, own.addr()).await?;
            }
            assert_eq!(source_towards("10.200.7.9"), Some(own.addr()));
            for _ in 0..2 {
                Host::remove_route(netlink, "ov0", prefix).await?;
            }
            assert_eq!(source_towards("10.200.7.9"), None);
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
