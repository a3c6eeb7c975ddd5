//! Routes to a prefix through a device. Every route made here carries [`ROUTE_PROTOCOL`], by which it is found again;
//! routes of others are neither listed nor replaced.

use super::{HostError, Netlink};
use futures_util::TryStreamExt;
use ipnet::IpNet;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use std::net::IpAddr;

/// The `protocol` of our routes: a number that `rtnetlink.h` and iproute2's `rt_protos` leave free.
pub const ROUTE_PROTOCOL: u8 = 98;

/// One of our routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteInfo {
    /// Where to.
    pub prefix: IpNet,
    /// Index of the device.
    pub device: u32,
    /// Preferred source address of packets sent along it.
    pub source: Option<IpAddr>,
}

impl Netlink {
    /// Routes `route.prefix` through `route.device`, in the main table.
    ///
    /// # Errors
    /// [`HostError::Exists`] where there is a route to the prefix, ours or not; [`HostError::NotFound`] where there is
    /// no such device.
    pub async fn add_route(&self, route: &RouteInfo) -> Result<(), HostError> {
        self.put_route(route, false).await
    }

    /// As [`Netlink::add_route`], but takes the place of a route of ours to the same prefix.
    ///
    /// # Errors
    /// [`HostError::Exists`] where the route there is somebody else's.
    pub async fn replace_route(&self, route: &RouteInfo) -> Result<(), HostError> {
        match self.put_route(route, false).await {
            Err(error) if error.is_exists() => {
                // Replacing without looking would take over a route that another program made.
                if self.routes().await?.iter().any(|held| held.prefix == route.prefix.trunc()) {
                    self.put_route(route, true).await
                } else {
                    Err(error)
                }
            }
            other => other,
        }
    }

    /// Removes our route to `prefix` through `device`, and tells whether it was there.
    ///
    /// # Errors
    /// [`HostError`] where it is there and cannot be removed.
    pub async fn remove_route(&self, prefix: IpNet, device: u32) -> Result<bool, HostError> {
        let message = write(&RouteInfo { prefix, device, source: None });
        let outcome = self.handle.route().del(message).execute().await;
        match outcome.map_err(|error| HostError::netlink(format!("remove route to {prefix}"), error)) {
            Ok(()) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Our routes in the main table, both families.
    ///
    /// # Errors
    /// [`HostError`] where the kernel could not be asked.
    pub async fn routes(&self) -> Result<Vec<RouteInfo>, HostError> {
        let mut found = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut query = RouteMessage::default();
            query.header.address_family = family;
            let mut answers = std::pin::pin!(self.handle.route().get(query).execute());
            let answer = |error| HostError::netlink("list routes", error);
            while let Some(message) = answers.try_next().await.map_err(answer)? {
                found.extend(read(&message));
            }
        }
        Ok(found)
    }

    async fn put_route(&self, route: &RouteInfo, replace: bool) -> Result<(), HostError> {
        let request = self.handle.route().add(write(route));
        let request = if replace { request.replace() } else { request };
        request.execute().await.map_err(|error| HostError::netlink(format!("add route to {}", route.prefix), error))
    }
}

fn write(route: &RouteInfo) -> RouteMessage {
    let prefix = route.prefix.trunc();
    let mut message = RouteMessage::default();
    message.header.destination_prefix_length = prefix.prefix_len();
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Other(ROUTE_PROTOCOL);
    message.header.kind = RouteType::Unicast;
    let destination = match prefix.addr() {
        IpAddr::V4(v4) => {
            message.header.address_family = AddressFamily::Inet;
            // Directly connected, no gateway. IPv6 knows only one scope.
            message.header.scope = RouteScope::Link;
            RouteAddress::Inet(v4)
        }
        IpAddr::V6(v6) => {
            message.header.address_family = AddressFamily::Inet6;
            message.header.scope = RouteScope::Universe;
            RouteAddress::Inet6(v6)
        }
    };
    message.attributes.push(RouteAttribute::Destination(destination));
    message.attributes.push(RouteAttribute::Oif(route.device));
    message.attributes.extend(route.source.map(|source| RouteAttribute::PrefSource(source.into())));
    message
}

fn read(message: &RouteMessage) -> Option<RouteInfo> {
    if message.header.protocol != RouteProtocol::Other(ROUTE_PROTOCOL)
        || message.header.table != RouteHeader::RT_TABLE_MAIN
    {
        return None;
    }
    let mut destination = None;
    let mut device = None;
    let mut source = None;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => destination = ip(address),
            RouteAttribute::Oif(index) => device = Some(*index),
            RouteAttribute::PrefSource(address) => source = ip(address),
            _ => {}
        }
    }
    // The default route carries no destination.
    let destination = destination.unwrap_or(match message.header.address_family {
        AddressFamily::Inet => IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
        _ => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
    });
    let prefix = IpNet::new(destination, message.header.destination_prefix_length).ok()?;
    Some(RouteInfo { prefix, device: device?, source })
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Netns;
    use crate::lab::rights_or_skip;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn routes_of_both_families_come_and_go() {
        if !rights_or_skip() {
            return;
        }
        let netns = Netns::create().unwrap();
        let work = netns.configure(async |netlink| {
            let device = netlink.create_veth("d0", "e0", None).await?;
            let other = netlink.create_veth("d1", "e1", None).await?;
            for name in ["d0", "e0", "d1", "e1"] {
                netlink.set_up(netlink.link(name).await?.index, true).await?;
            }
            netlink.add_address(device, net("10.200.5.1/32")).await?;
            let prefixes = ["10.200.0.0/16", "10.201.0.7/32", "0.0.0.0/0", "fd00::/48", "fd01::1/128", "::/0"];
            for prefix in prefixes.map(net) {
                let source = prefix.addr().is_ipv4().then(|| "10.200.5.1".parse().unwrap());
                let route = RouteInfo { prefix, device, source };
                netlink.add_route(&route).await?;
                assert!(netlink.add_route(&route).await.unwrap_err().is_exists(), "{prefix}");
                assert!(netlink.routes().await?.contains(&route), "{prefix}");
                let moved = RouteInfo { device: other, source: None, ..route };
                netlink.replace_route(&moved).await?;
                let held: Vec<_> = netlink.routes().await?.into_iter().filter(|held| held.prefix == prefix).collect();
                assert_eq!(held, [moved]);
                assert!(netlink.remove_route(prefix, other).await?);
                assert!(!netlink.remove_route(prefix, other).await?);
            }
            assert_eq!(netlink.routes().await?, []);
            Ok(())
        });
        work.unwrap();
    }

    #[test]
    fn the_route_of_another_is_left_alone() {
        if !rights_or_skip() {
            return;
        }
        let netns = Netns::create().unwrap();
        let work = netns.configure(async |netlink| {
            let device = netlink.create_veth("d0", "e0", None).await?;
            netlink.set_up(device, true).await?;
            let route = RouteInfo { prefix: net("10.9.0.0/24"), device, source: None };
            let mut foreign = write(&route);
            foreign.header.protocol = RouteProtocol::Static;
            netlink.handle.route().add(foreign).execute().await.unwrap();
            assert!(netlink.replace_route(&route).await.unwrap_err().is_exists());
            assert!(!netlink.remove_route(route.prefix, device).await?);
            assert_eq!(netlink.routes().await?, []);
            Ok(())
        });
        work.unwrap();
    }
}
