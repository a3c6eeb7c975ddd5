//! [`Host`] over rtnetlink: one socket for the life of the daemon, in the network namespace of the thread that opened it.

use super::host::{Host, HostError};
use ipnet::IpNet;
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use rtnetlink::packet_route::address::AddressMessage;
use rtnetlink::packet_route::route::RouteMessage;
use rtnetlink::{AddressMessageBuilder, Handle, LinkUnspec, RouteMessageBuilder};
use std::io;
use std::net::IpAddr;

/// Metric of the connected routes the kernel makes for IPv6 (`IP6_RT_PRIO_ADDRCONF`). A route of ours with the same one is
/// the same route and not a second one behind it.
const CONNECTED_METRIC_V6: u32 = 256;

/// The host this process runs on.
#[derive(Clone, Debug)]
pub struct RtNetlink(Handle);

impl RtNetlink {
    /// Opens the socket. Needs a tokio runtime, which drives it from then on.
    ///
    /// # Errors
    /// [`HostError::Netlink`].
    pub fn open() -> Result<Self, HostError> {
        let opened = rtnetlink::new_connection().map_err(|error| HostError::Netlink(error.to_string()))?;
        let (connection, handle, _) = opened;
        tokio::spawn(connection);
        Ok(Self(handle))
    }
}

impl Host for RtNetlink {
    async fn add_address(&self, interface: &str, address: IpNet) -> Result<(), HostError> {
        let link = index(interface)?;
        let added = self.0.address().add(link, address.addr(), address.prefix_len()).execute().await;
        outcome(added, &[Errno::EEXIST], interface, || format!("add the address {address} to"))
    }

    async fn remove_address(&self, interface: &str, address: IpNet) -> Result<(), HostError> {
        let link = index(interface)?;
        let removed = self.0.address().del(address_message(link, address)).execute().await;
        outcome(removed, &[Errno::EADDRNOTAVAIL], interface, || format!("remove the address {address} from"))
    }

    async fn set_mtu(&self, interface: &str, mtu: u16) -> Result<(), HostError> {
        let link = LinkUnspec::new_with_index(index(interface)?).mtu(mtu.into()).build();
        let set = self.0.link().set(link).execute().await;
        outcome(set, &[], interface, || format!("set MTU {mtu} on"))
    }

    async fn set_up(&self, interface: &str) -> Result<(), HostError> {
        let link = LinkUnspec::new_with_index(index(interface)?).up().build();
        let set = self.0.link().set(link).execute().await;
        outcome(set, &[], interface, || "set up".to_owned())
    }

    async fn add_route(&self, interface: &str, prefix: IpNet) -> Result<(), HostError> {
        let added = self.0.route().add(route_message(index(interface)?, prefix)).execute().await;
        outcome(added, &[Errno::EEXIST], interface, || format!("route {prefix} to"))
    }
}

fn index(interface: &str) -> Result<u32, HostError> {
    if_nametoindex(interface).map_err(|_| HostError::NoInterface(interface.to_owned()))
}

fn address_message(link: u32, address: IpNet) -> AddressMessage {
    let length = address.prefix_len();
    match address.addr() {
        IpAddr::V4(ip) => AddressMessageBuilder::<std::net::Ipv4Addr>::new().index(link).address(ip, length).build(),
        IpAddr::V6(ip) => AddressMessageBuilder::<std::net::Ipv6Addr>::new().index(link).address(ip, length).build(),
    }
}

fn route_message(link: u32, prefix: IpNet) -> RouteMessage {
    match prefix.trunc() {
        IpNet::V4(net) => RouteMessageBuilder::<std::net::Ipv4Addr>::new()
            .destination_prefix(net.addr(), net.prefix_len())
            .scope(rtnetlink::packet_route::route::RouteScope::Link)
            .output_interface(link)
            .build(),
        IpNet::V6(net) => RouteMessageBuilder::<std::net::Ipv6Addr>::new()
            .destination_prefix(net.addr(), net.prefix_len())
            .priority(CONNECTED_METRIC_V6)
            .output_interface(link)
            .build(),
    }
}

/// Takes the refusals in `done` for success: the state asked for is there.
fn outcome(
    result: Result<(), rtnetlink::Error>,
    done: &[Errno],
    interface: &str,
    action: impl FnOnce() -> String,
) -> Result<(), HostError> {
    let source = match result {
        Ok(()) => return Ok(()),
        Err(rtnetlink::Error::NetlinkError(message)) => message.to_io(),
        Err(error) => return Err(HostError::Netlink(error.to_string())),
    };
    match source.raw_os_error().map(Errno::from_raw) {
        Some(errno) if done.contains(&errno) => Ok(()),
        Some(Errno::ENODEV) => Err(HostError::NoInterface(interface.to_owned())),
        Some(Errno::EPERM) => {
            let source = io::Error::new(io::ErrorKind::PermissionDenied, "CAP_NET_ADMIN is missing: run as root");
            Err(HostError::Kernel { action: action(), interface: interface.to_owned(), source })
        }
        _ => Err(HostError::Kernel { action: action(), interface: interface.to_owned(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::TryStreamExt;
    use nix::sched::{CloneFlags, unshare};
    use rtnetlink::LinkVeth;
    use rtnetlink::packet_route::address::AddressAttribute;
    use rtnetlink::packet_route::link::LinkAttribute;
    use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute};

    /// Runs `work` in a network namespace of its own, on a thread that ends with it.
    fn in_namespace<F: Future<Output = ()>>(work: impl FnOnce() -> F + Send + 'static) {
        let thread = std::thread::spawn(move || {
            if let Err(errno) = unshare(CloneFlags::CLONE_NEWNET) {
                println!("skipped: a network namespace cannot be made ({errno})");
                return;
            }
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(work());
        });
        thread.join().unwrap();
    }

    async fn make_link(host: &RtNetlink) {
        host.0.link().add(LinkVeth::new("ov0", "ov1").build()).execute().await.unwrap();
    }

    async fn addresses(host: &RtNetlink) -> Vec<String> {
        let link = index("ov0").unwrap();
        let all: Vec<_> = host.0.address().get().set_link_index_filter(link).execute().try_collect().await.unwrap();
        let mut found = Vec::new();
        for message in all {
            for attribute in message.attributes {
                if let AddressAttribute::Address(ip) = attribute
                    && !matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local())
                {
                    found.push(format!("{ip}/{}", message.header.prefix_len));
                }
            }
        }
        found
    }

    /// Prefixes in the main table that lead to the link.
    async fn routes(host: &RtNetlink, family: IpNet) -> Vec<String> {
        let link = index("ov0").unwrap();
        let query = match family {
            IpNet::V4(_) => RouteMessageBuilder::<std::net::Ipv4Addr>::new().build(),
            IpNet::V6(_) => RouteMessageBuilder::<std::net::Ipv6Addr>::new().build(),
        };
        let all: Vec<RouteMessage> = host.0.route().get(query).execute().try_collect().await.unwrap();
        let ours = all.into_iter().filter(|route| {
            route.header.table == 254
                && route.attributes.iter().any(|a| matches!(a, RouteAttribute::Oif(i) if *i == link))
        });
        ours.filter_map(|route| {
            let length = route.header.destination_prefix_length;
            route.attributes.iter().find_map(|attribute| match attribute {
                RouteAttribute::Destination(RouteAddress::Inet(ip)) => Some(format!("{ip}/{length}")),
                RouteAttribute::Destination(RouteAddress::Inet6(ip)) if !ip.is_unicast_link_local() => {
                    Some(format!("{ip}/{length}"))
                }
                _ => None,
            })
        })
        .collect()
    }

    #[test]
    fn both_families_get_address_and_one_route_and_repeating_is_harmless() {
        in_namespace(|| async {
            let host = RtNetlink::open().unwrap();
            make_link(&host).await;
            for (address, cluster) in [("10.200.5.1/16", "10.200.0.0/16"), ("fd00:77:0:5::1/48", "fd00:77::/48")] {
                let address: IpNet = address.parse().unwrap();
                for _ in 0..2 {
                    host.set_mtu("ov0", 1420).await.unwrap();
                    host.add_address("ov0", address).await.unwrap();
                    host.set_up("ov0").await.unwrap();
                    host.add_route("ov0", address).await.unwrap();
                }
                assert!(addresses(&host).await.contains(&address.to_string()));
                assert_eq!(routes(&host, address).await, [cluster]);
            }
            let mut link = host.0.link().get().match_name("ov0").execute();
            let link = link.try_next().await.unwrap().unwrap();
            assert!(link.attributes.contains(&LinkAttribute::Mtu(1420)));
        });
    }

    #[test]
    fn removing_an_address_takes_its_route_along() {
        in_namespace(|| async {
            let host = RtNetlink::open().unwrap();
            make_link(&host).await;
            host.set_up("ov0").await.unwrap();
            for address in ["10.200.5.1/16", "fd00:77:0:5::1/48"] {
                let address: IpNet = address.parse().unwrap();
                host.add_address("ov0", address).await.unwrap();
                host.add_route("ov0", address).await.unwrap();
                host.remove_address("ov0", address).await.unwrap();
                host.remove_address("ov0", address).await.unwrap();
                assert_eq!(routes(&host, address).await, [] as [String; 0]);
            }
            assert_eq!(addresses(&host).await, [] as [String; 0]);
        });
    }

    #[test]
    fn a_missing_interface_is_named() {
        in_namespace(|| async {
            let host = RtNetlink::open().unwrap();
            let error = host.set_up("nobody").await.unwrap_err();
            assert!(matches!(error, HostError::NoInterface(name) if name == "nobody"));
        });
    }
}
