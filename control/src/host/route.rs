//! Routes. Every route made here carries [`PROTOCOL`], by which it is found again; routes of others are neither listed nor
//! replaced.

use super::address::family;
use super::mark::PROTOCOL;
use super::request::{Reply, Request};
use super::{HostError, Netlink};
use ipnet::IpNet;
use netlink_packet_core::Parseable;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteProtocol, RouteScope,
    RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The table that is looked up where no rule says otherwise (`RT_TABLE_MAIN`).
pub const TABLE_MAIN: u32 = 254;

/// One of our routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteInfo {
    /// Where to.
    pub prefix: IpNet,
    /// Index of the device.
    pub device: u32,
    /// The next hop, taken to be reachable through the device whatever its addresses; `None` where the prefix is
    /// directly connected.
    pub gateway: Option<IpAddr>,
    /// Preferred source address of packets sent along it.
    pub source: Option<IpAddr>,
    /// Largest packet sent along it, in bytes, where that is less than the device's.
    pub mtu: Option<u32>,
    /// Its table.
    pub table: u32,
}

impl RouteInfo {
    /// A route of the main table to a prefix that is directly connected.
    #[must_use]
    pub fn new(prefix: IpNet, device: u32) -> Self {
        Self { prefix, device, gateway: None, source: None, mtu: None, table: TABLE_MAIN }
    }
}

/// Where packets to an address go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathInfo {
    /// Index of the device.
    pub device: u32,
    /// What the route allows, in bytes, learnt from `ICMP too big` or set on it; the device may allow less.
    pub mtu: Option<u32>,
}

/// Adds a route; refused where there is one to the prefix.
pub(crate) fn add(route: &RouteInfo) -> Request {
    Request::create(format!("add route to {}", route.prefix), RouteNetlinkMessage::NewRoute(write(route)))
}

/// Adds a route, or takes the place of any to the same prefix.
pub(crate) fn replace(route: &RouteInfo) -> Request {
    Request::replace(format!("add route to {}", route.prefix), RouteNetlinkMessage::NewRoute(write(route)))
}

/// Removes our route to the prefix through the device.
pub(crate) fn remove(route: &RouteInfo) -> Request {
    let route = RouteInfo { gateway: None, source: None, mtu: None, ..*route };
    let mut message = write(&route);
    // IPv4 compares the scope of the route unless told not to.
    message.header.scope = RouteScope::NoWhere;
    Request::new(format!("remove route to {}", route.prefix), RouteNetlinkMessage::DelRoute(message))
}

/// Asks for the routes of one family, of the device where one is given.
pub(crate) fn list(v6: bool, device: Option<u32>) -> Request {
    let mut message = RouteMessage::default();
    message.header.address_family = if v6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
    message.attributes.extend(device.map(RouteAttribute::Oif));
    Request::dump("list routes", RouteNetlinkMessage::GetRoute(message))
}

/// Reads the answer to [`list`]: our routes.
pub(crate) fn read_all(replies: &[Reply]) -> impl Iterator<Item = RouteInfo> {
    replies.iter().filter_map(|reply| read(&RouteMessage::parse(&*reply.body).ok()?))
}

impl Netlink {
    /// Adds a route.
    ///
    /// # Errors
    /// [`HostError::Exists`] where there is a route to the prefix, ours or not; [`HostError::NotFound`] where there is
    /// no such device.
    pub async fn add_route(&self, route: &RouteInfo) -> Result<(), HostError> {
        self.ask(add(route)).await.map(drop)
    }

    /// As [`Netlink::add_route`], but takes the place of a route of ours to the same prefix.
    ///
    /// # Errors
    /// [`HostError::Exists`] where the route there is somebody else's.
    pub async fn replace_route(&self, route: &RouteInfo) -> Result<(), HostError> {
        match self.add_route(route).await {
            Err(error) if error.is_exists() => {
                // Replacing without looking would take over a route that another program made.
                let same = |held: &RouteInfo| (held.prefix, held.table) == (route.prefix.trunc(), route.table);
                if self.routes().await?.iter().any(same) {
                    self.ask(replace(route)).await.map(drop)
                } else {
                    Err(error)
                }
            }
            other => other,
        }
    }

    /// Removes our route of the main table to `prefix` through `device`, and tells whether it was there.
    ///
    /// # Errors
    /// [`HostError`] where it is there and cannot be removed.
    pub async fn remove_route(&self, prefix: IpNet, device: u32) -> Result<bool, HostError> {
        match self.ask(remove(&RouteInfo::new(prefix, device))).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Our routes, both families, all tables.
    ///
    /// # Errors
    /// [`HostError`] where the kernel could not be asked.
    pub async fn routes(&self) -> Result<Vec<RouteInfo>, HostError> {
        self.routes_by(None).await
    }

    /// Those through the device with this index.
    ///
    /// # Errors
    /// As [`Netlink::routes`].
    pub async fn routes_through(&self, device: u32) -> Result<Vec<RouteInfo>, HostError> {
        let mut found = self.routes_by(Some(device)).await?;
        // Unless it is told to be strict, the kernel lists all, whatever it is asked.
        found.retain(|route| route.device == device);
        Ok(found)
    }

    async fn routes_by(&self, device: Option<u32>) -> Result<Vec<RouteInfo>, HostError> {
        let mut found = Vec::new();
        for v6 in [false, true] {
            found.extend(read_all(&self.ask(list(v6, device)).await?));
        }
        Ok(found)
    }

    /// Where packets to `address` go.
    ///
    /// # Errors
    /// [`HostError`] where there is no route.
    pub async fn path_to(&self, address: IpAddr) -> Result<PathInfo, HostError> {
        let what = format!("find the route to {address}");
        let mut message = RouteMessage::default();
        message.header.address_family = family(address);
        message.header.destination_prefix_length = IpNet::from(address).prefix_len();
        message.attributes.push(RouteAttribute::Destination(address.into()));
        let replies = self.ask(Request::new(what.clone(), RouteNetlinkMessage::GetRoute(message))).await?;
        let message = replies.first().and_then(|reply| RouteMessage::parse(&*reply.body).ok());
        let attributes = message.map(|message| message.attributes).unwrap_or_default();
        let device = attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Oif(index) => Some(*index),
            _ => None,
        });
        let device = device.ok_or_else(|| HostError::answer(what, "it names no device"))?;
        Ok(PathInfo { device, mtu: attributes.iter().find_map(mtu) })
    }
}

fn write(route: &RouteInfo) -> RouteMessage {
    let prefix = route.prefix.trunc();
    let mut message = RouteMessage::default();
    message.header.address_family = family(prefix.addr());
    message.header.destination_prefix_length = prefix.prefix_len();
    message.header.table = u8::try_from(route.table).unwrap_or(RouteHeader::RT_TABLE_UNSPEC);
    message.header.protocol = RouteProtocol::Other(PROTOCOL);
    message.header.kind = RouteType::Unicast;
    // IPv6 knows only one scope.
    let direct = route.gateway.is_none() && prefix.addr().is_ipv4();
    message.header.scope = if direct { RouteScope::Link } else { RouteScope::Universe };
    message.attributes.push(RouteAttribute::Table(route.table));
    message.attributes.push(RouteAttribute::Destination(prefix.addr().into()));
    message.attributes.push(RouteAttribute::Oif(route.device));
    if let Some(gateway) = route.gateway {
        message.header.flags |= RouteFlags::Onlink;
        message.attributes.push(RouteAttribute::Gateway(gateway.into()));
    }
    message.attributes.extend(route.source.map(|source| RouteAttribute::PrefSource(source.into())));
    message.attributes.extend(route.mtu.map(|mtu| RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)])));
    message
}

fn read(message: &RouteMessage) -> Option<RouteInfo> {
    if message.header.protocol != RouteProtocol::Other(PROTOCOL) {
        return None;
    }
    let (mut destination, mut device) = (None, None);
    let (mut gateway, mut source, mut metric) = (None, None, None);
    let mut table = message.header.table.into();
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => destination = ip(address),
            RouteAttribute::Oif(index) => device = Some(*index),
            RouteAttribute::Gateway(address) => gateway = ip(address),
            RouteAttribute::PrefSource(address) => source = ip(address),
            RouteAttribute::Table(number) => table = *number,
            other => metric = metric.or(mtu(other)),
        }
    }
    // The default route carries no destination.
    let destination = destination.unwrap_or(match message.header.address_family {
        AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        _ => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    });
    let prefix = IpNet::new(destination, message.header.destination_prefix_length).ok()?;
    Some(RouteInfo { prefix, device: device?, gateway, source, mtu: metric, table })
}

fn mtu(attribute: &RouteAttribute) -> Option<u32> {
    let RouteAttribute::Metrics(metrics) = attribute else { return None };
    metrics.iter().find_map(|metric| match metric {
        RouteMetric::Mtu(mtu) => Some(*mtu),
        _ => None,
    })
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
                let route = RouteInfo { source, ..RouteInfo::new(prefix, device) };
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
            let route = RouteInfo::new(net("10.9.0.0/24"), device);
            let mut foreign = write(&route);
            foreign.header.protocol = RouteProtocol::Static;
            netlink.ask(Request::create("add another's route", RouteNetlinkMessage::NewRoute(foreign))).await?;
            assert!(netlink.replace_route(&route).await.unwrap_err().is_exists());
            assert!(!netlink.remove_route(route.prefix, device).await?);
            assert_eq!(netlink.routes().await?, []);
            Ok(())
        });
        work.unwrap();
    }

    #[test]
    fn gateways_tables_and_sizes_are_kept() {
        if !rights_or_skip() {
            return;
        }
        let netns = Netns::create().unwrap();
        let work = netns.configure(async |netlink| {
            let device = netlink.create_veth("d0", "e0", None).await?;
            netlink.set_up(device, true).await?;
            netlink.set_up(netlink.link("e0").await?.index, true).await?;
            netlink.add_address(device, net("10.200.5.1/32")).await?;
            netlink.add_address(device, net("fd00::1/128")).await?;
            let (v4, v6): (IpAddr, IpAddr) = ("10.7.7.7".parse().unwrap(), "fd07::7".parse().unwrap());
            let mut held = Vec::new();
            for (prefix, gateway) in [("0.0.0.0/0", v4), ("10.9.0.0/16", v4), ("::/0", v6), ("fd09::/16", v6)] {
                for table in [TABLE_MAIN, 98, 9_800] {
                    let plain = RouteInfo { gateway: Some(gateway), table, ..RouteInfo::new(net(prefix), device) };
                    let route = RouteInfo { mtu: Some(1_400), ..plain };
                    netlink.add_route(&route).await?;
                    held.push(route);
                }
            }
            let found = netlink.routes().await?;
            assert_eq!(found.len(), held.len());
            assert!(held.iter().all(|route| found.contains(route)), "{found:#?}");
            for address in ["10.9.1.1", "fd09::1"] {
                assert_eq!(netlink.path_to(address.parse().unwrap()).await?, PathInfo { device, mtu: Some(1_400) });
            }
            for prefix in ["10.9.0.0/16", "fd09::/16"] {
                assert!(netlink.remove_route(net(prefix), device).await?);
                assert!(!netlink.remove_route(net(prefix), device).await?);
            }
            assert_eq!(netlink.routes().await?.len(), held.len() - 2);
            Ok(())
        });
        work.unwrap();
    }

    #[test]
    fn a_path_that_is_not_there_is_an_error() {
        if !rights_or_skip() {
            return;
        }
        let work =
            Netns::create().unwrap().configure(async |netlink| netlink.path_to("10.1.1.1".parse().unwrap()).await);
        assert!(work.is_err());
    }
}
